"""One client's connection: its input, and the handling of slow clients.

Frames are written to the transport directly while the client keeps up. Once its write buffer is full, they
wait here, conflated; a client with too much pending data, or without progress for too long, is closed with
1013.
"""

import asyncio
from collections.abc import Callable, Container
from typing import Any, Final

import prometheus_client
import structlog
from websockets.asyncio.server import Server, ServerConnection
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import Event, State
from websockets.server import ServerProtocol

from adapters.crowd import Crowd
from adapters.proxies import TrustedProxies
from functions.users.listen_keys import ListenKey
from ws_edge.conflation import Pending, Update, text_frame
from ws_edge.subscriptions import Door, Target

_log = structlog.get_logger()

_slow_closed = prometheus_client.Counter(
    "ws_edge_slow_clients_closed", "Connections closed because their client was too slow"
)
_conflated = prometheus_client.Counter(
    "ws_edge_messages_conflated", "Messages that a newer one took the place of, since their client was slow"
)
_own_messages = prometheus_client.Counter(
    "ws_edge_own_messages", "Messages for one client alone: answers, and events of accounts"
)

BANNED, WEIGHT, CONNECTIONS, STREAMS, LATE = "banned", "weight", "connections", "streams", "late"
"""Reasons for refusing or disconnecting a client.

Its network is banned, is over its weight, has too many connections or streams; or the loop is late.
"""
_refusals = prometheus_client.Counter(
    "ws_edge_refusals",
    "Connections refused at the door, or closed for what their network does, by reason",
    ["reason"],
)
# At 0, so that the first one is visible as an increase.
refusals: Final = {
    reason: _refusals.labels(reason) for reason in (BANNED, WEIGHT, CONNECTIONS, STREAMS, LATE)
}

PENDING_BYTES_MAX: Final = 400 * 1024
"""Maximum of pending data of a slow client, besides the transport's own buffer."""
STUCK_S_MAX: Final = 3.0
"""How long a client's buffer may stay full."""
CLOSE_GRACE_S: Final = 2.0
"""How long a client that is closed for slowness has to take the data in transit."""


_COUNTED: Final = frozenset({Opcode.TEXT, Opcode.BINARY, Opcode.CONT, Opcode.PING})
"""Frames that count as messages; answers to our own pings do not."""


class MessageRate:
    """A token bucket of messages that fills at a steady rate and holds two seconds' worth."""

    def __init__(self, per_second: int, now: float) -> None:
        self._per_second = per_second
        self._left = 2.0 * per_second
        self._seen = now

    def take(self, now: float) -> bool:
        """Take one message; return whether there was one."""
        self._left = min(2.0 * self._per_second, self._left + (now - self._seen) * self._per_second)
        self._seen = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class EdgeConnection(ServerConnection):
    """A WebSocket connection of the edge."""

    target: Target
    address: str

    def __init__(
        self,
        protocol: ServerProtocol,
        server: Server,
        *,
        messages_per_second: int,
        peers: Crowd | None = None,
        proxies: TrustedProxies | None = None,
        knocks: Container[object] = frozenset(),
        **options: Any,
    ) -> None:
        """Take the arguments of a `ServerConnection`, and limits.

        A client of streams may send `messages_per_second`, control frames included.

        Only as many are admitted as `peers` has room for, including handshakes; connections from `proxies`
        count only in the total, those from `knocks` not at all.
        """
        super().__init__(protocol, server, **options)
        self._peers, self._proxies, self._knocks = peers, proxies, knocks
        self.is_own_knock = False
        """Whether this is the process's own test connection."""
        self._is_let_in = True
        self._is_lost = False
        self._when_lost: list[Callable[[], None]] = []
        self.form = (False, 1)
        """Whether streams are wrapped, and the scale of times: see `Update.frame`."""
        self.streams: dict[str, None] = {}
        self.listen_keys: dict[str, ListenKey] = {}
        """The accounts and credentials of the listenKeys in the path."""
        self.slow_since: float | None = None
        self.leaving = False
        """Whether the server is shutting down: no new requests are begun."""
        self.closing = False
        self.under_way: set[asyncio.Task[None]] = set()
        """Requests in progress."""
        self._pending = Pending()
        self._rate = MessageRate(messages_per_second, self.loop.time())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admit a client, if there is room."""
        name = transport.get_extra_info("peername")
        self.is_own_knock = name in self._knocks
        if self._peers is not None and not self.is_own_knock:
            address = str(name[0]) if name else "unknown"
            counted = None if self._proxies is not None and address in self._proxies else address
            if not self._peers.enter(counted):
                self._is_let_in = False
                refusals[CONNECTIONS].inc()
                transport.abort()  # type: ignore[attr-defined]  # every transport of a socket can
                return
            peers = self._peers
            self.when_lost(lambda: peers.leave(counted))
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the client at once, without waiting for its handler to notice the loss."""
        if not self._is_let_in:
            return
        self._is_lost = self.closing = True
        self._pending = Pending()
        callbacks, self._when_lost = self._when_lost, []
        for callback in callbacks:
            callback()
        super().connection_lost(exc)

    def when_lost(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the connection is lost; now, if it is already."""
        if self._is_lost:
            callback()
        else:
            self._when_lost.append(callback)

    def open_target(self, target: Target, address: str) -> None:
        """Record the purpose of the connection."""
        self.target, self.address = target, address
        self.form = (target.door is Door.COMBINED, target.time_scale)

    def deliver(self, update: Update) -> None:
        """Send an update, or let it wait, conflated."""
        if not self.paused and not self.closing:
            if self.protocol.state is State.OPEN:
                self.transport.write(update.frame(self.form))
        elif not self.closing:
            if self._pending.add(update, self.form):
                _conflated.inc()
            self._check_pending()

    def deliver_frame(self, frame: bytes) -> None:
        """Send a frame for this client alone, or let it wait."""
        _own_messages.inc()
        if not self.paused and not self.closing:
            if self.protocol.state is State.OPEN:
                self.transport.write(frame)
        elif not self.closing:
            self._pending.add_frame(frame)
            self._check_pending()

    def announce_shutdown(self, farewell: Update) -> None:
        """Announce that the server is about to shut down."""
        if self.target.door is Door.API:
            self.deliver_frame(text_frame(b'{"event":%b}' % farewell.payload(self.form[1])))
        else:
            self.deliver(farewell)

    def check_slow(self, now: float) -> None:
        """Close the connection if its client has been too slow for too long."""
        if self.slow_since is not None and now - self.slow_since > STUCK_S_MAX:
            self.close_slow("too slow: nothing was read for too long")

    def close_slow(self, reason: str) -> None:
        """Close with 1013, and abort the connection soon."""
        if not self.closing:
            _slow_closed.inc()
            _log.info("slow client closed", address=self.address, reason=reason)
        self.close_soon(CloseCode.TRY_AGAIN_LATER, reason)

    def close_soon(self, code: int, reason: str) -> None:
        """Send a close frame without waiting.

        Abort the connection if the client does not take it in time.
        """
        if self.closing or self.protocol.state is not State.OPEN:
            return
        self.closing = True
        self._pending = Pending()
        self.protocol.send_close(code, reason)
        self.send_data()
        self.loop.call_later(CLOSE_GRACE_S, self.transport.abort)

    def process_event(self, event: Event) -> None:
        """Count the client's messages."""
        if (
            isinstance(event, Frame)
            and self.target.door is not Door.API
            and event.opcode in _COUNTED
            and not self._rate.take(self.loop.time())
        ):
            self.close_soon(CloseCode.POLICY_VIOLATION, "too many messages")
            return
        super().process_event(event)

    def pause_writing(self) -> None:
        """Record that the client is slow."""
        super().pause_writing()
        self.slow_since = self.loop.time()

    def resume_writing(self) -> None:
        """Send the pending data."""
        super().resume_writing()
        self.slow_since = None
        if self.protocol.state is State.OPEN and not self.closing:
            for frame in self._pending.take(self.form):
                self.transport.write(frame)

    def _check_pending(self) -> None:
        if self._pending.size > PENDING_BYTES_MAX:
            self.close_slow("too slow: too much waits to be read")
