"""One client's connection to a gateway: its limits in size and time, and how it is closed.

A request is a head and a body. Everything but the body (the head, sizes and extensions of chunks, trailers)
may have `head_bytes_max` in total: 431. The whole request must arrive in time, counted from its first byte,
so a slow sender cannot prolong it: 408. A connection that sends nothing, or is idle for too long, is closed;
so is one whose client does not take its answer. The door (gateway/door.py), which knows the function, limits
the sizes of bodies and URLs.
"""

import asyncio
from collections.abc import Callable, Container
from typing import Any, Final, NamedTuple, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from adapters.crowd import Crowd
from adapters.metrics import Refusal, count_refusal
from adapters.proxies import TrustedProxies
from functions.api.errors import ApiError
from gateway.errors import error_body, head_too_large, too_slow
from runtime.listening import has_input
from runtime.settings import Settings

_LINGER_S: Final = 1.0
"""How long a client may take to close its side after an error."""
_HEADERS_MAX: Final = 100
"""Maximum number of headers of a request.

Thousands of tiny headers fit into the maximum size of a head, and took 7 ms of the event loop.
"""
_DISCARDED_MAX: Final = 4 << 20
"""Maximum of bytes that the client may still send in this time."""
_STUCK_S: Final = 30.0
"""How long a client may leave its answer untaken."""


class Bounds(NamedTuple):
    """The limits of one connection; sizes in bytes, times in seconds."""

    head_bytes_max: int
    body_bytes_max: int
    request_timeout_s: float
    idle_timeout_s: float

    @classmethod
    def of(cls, settings: Settings) -> "Bounds":
        """Return the limits of the settings."""
        return cls(
            settings.head_bytes_max,
            max(settings.body_bytes_max, settings.form_bytes_max),
            settings.request_timeout_ms / 1000,
            float(settings.idle_timeout_s),
        )


class Shared(ServerState):
    """The state that a server's connections share."""

    def __init__(
        self, bounds: Bounds, crowd: Crowd, proxies: TrustedProxies, knocks: Container[object] = frozenset()
    ) -> None:
        """Admit as many connections as `crowd` has room for.

        Connections from `proxies` do not count for their address, those from `knocks` do not count at all.
        """
        super().__init__()
        self.knocks = knocks
        self.bounds, self.crowd, self.proxies = bounds, crowd, proxies
        self.leaving_since: float | None = None
        """On the loop's clock; None: the server is not shutting down."""


class _Transport:
    """A transport that closes as its connection needs, and writes an answer's head together with its body.

    The server writes them separately, which costs both sides a system call, and the client a wake-up, for
    every answer.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        close: Callable[[], None],
        cycle: Callable[[], RequestResponseCycle | None],
    ) -> None:
        """Wrap `transport`; `cycle` returns the newest request of the connection."""
        self._transport = transport
        self.abort = transport.abort
        self.get_extra_info = transport.get_extra_info
        self.close = close
        self.lingers = False
        """Whether it only waits for the client to close its side."""
        self._cycle = cycle
        self._headed: RequestResponseCycle | None = None
        """The last request whose answer's head was written."""
        self._head = b""
        """That head, until something follows."""

    def write(self, data: bytes) -> None:
        """Write a part of an answer; a head waits for what follows it.

        With pipelined requests the newest one is not the one that is answered; then nothing waits.
        """
        if self._head:
            data, self._head = self._head + data, b""
        elif (cycle := self._cycle()) is not None and cycle.response_started and cycle is not self._headed:
            self._headed, self._head = cycle, data
            return
        self._transport.write(data)

    def flush(self) -> None:
        """Write a head that waits, because nothing will follow."""
        if self._head:
            self._transport.write(self._head)
            self._head = b""

    def is_closing(self) -> bool:
        """Return whether nothing can be sent any more."""
        return self.lingers or self._transport.is_closing()


class Connection(HttpToolsProtocol):
    """One client's connection."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._shared = cast("Shared", self.server_state)
        self._head_bytes_max = self._shared.bounds.head_bytes_max
        self._peer: str | None = None
        self._is_counted = False
        self._under_way = 0
        """Requests that have begun to arrive and are not completely answered."""
        self._used_s = self.loop.time()
        """When the connection was made, or had its last answer."""
        self._begun_s: float | None = None
        """When the arriving request began; None: none is arriving."""
        self._has_asked = False
        """Whether any request has begun."""
        self._is_in_head = False
        self._raw = 0
        """Bytes of the arriving request, without those that arrived in one piece with its beginning."""
        self._body = 0
        """Bytes of its body."""
        self._is_in_blocks = False
        """Whether more bytes are parsed at once than a head may have."""
        self._stuck_since_s: float | None = None
        self._closing = False
        """Whether further input is ignored."""
        self._closing_since_s: float | None = None
        self._discarded = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Admit a client, if there is room."""
        super().connection_made(transport)
        self._raw_transport = transport
        self._link = _Transport(
            transport, self._close, lambda: cast("RequestResponseCycle | None", self.cycle)
        )
        self.transport = cast("asyncio.Transport", self._link)
        peer = str(self.client[0]) if self.client else "unknown"
        if self.client in self._shared.knocks:
            return
        self._peer = None if peer in self._shared.proxies else peer
        self._is_counted = self._shared.crowd.enter(self._peer)
        if not self._is_counted:
            count_refusal(Refusal.CONNECTIONS)
            self._closing = True
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        self._begun_s = None
        super().connection_lost(exc)
        if self._is_counted:
            self._is_counted = False
            self._shared.crowd.leave(self._peer)

    def data_received(self, data: bytes) -> None:
        """Process a client's data, unless it is too late or too much."""
        if self._closing:
            self._discarded += len(data)
            if self._discarded > _DISCARDED_MAX:
                self.transport.abort()
            return
        most = self._head_bytes_max
        if len(data) <= most:
            self._feed(data)
            return
        # In pieces, so that at most twice the limit is parsed before it is noticed.
        self._is_in_blocks = True
        for start in range(0, len(data), most):
            if self._takes_nothing():
                break
            self._feed(data[start : start + most])
        self._is_in_blocks = False

    def _feed(self, data: bytes) -> None:
        self._raw += len(data)
        super().data_received(data)
        if self._begun_s is not None and self._raw - self._body > self._head_bytes_max:
            self._refuse(head_too_large(), Refusal.HEAD)

    def on_message_begin(self) -> None:
        """Record that a request begins."""
        super().on_message_begin()
        self._under_way += 1
        self._begun_s = self.loop.time()
        self._has_asked = self._is_in_head = True
        self._raw = self._body = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store a header. Trailers are dropped: nothing reads them, and they must not count as headers."""
        if not self._is_in_head or self._closing:
            return
        if len(self.headers) >= _HEADERS_MAX:
            self._refuse(head_too_large(), Refusal.HEAD)
            return
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start answering a request."""
        self._is_in_head = False
        if self._closing:
            return
        if (self._raw or self._is_in_blocks) and self._head_bytes() > self._head_bytes_max:
            self._refuse(head_too_large(), Refusal.HEAD)
            return
        super().on_headers_complete()
        if self._shared.leaving_since is not None:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Store a part of a body."""
        self._body += len(body)
        if self._closing:
            return
        if self._body > self._shared.bounds.body_bytes_max and self.cycle.response_complete:
            self._end()  # nobody reads it
            return
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Record that a request is complete."""
        self._begun_s = None
        if not self._closing:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Record that a request is answered."""
        self._link.flush()  # an answer to HEAD has nothing but a head
        super().on_response_complete()
        self._under_way -= 1
        self._used_s = self.loop.time()

    def pause_writing(self) -> None:
        """Record that the client does not take its answer."""
        super().pause_writing()
        self._stuck_since_s = self.loop.time()

    def resume_writing(self) -> None:
        """Record that the client takes it again."""
        super().resume_writing()
        self._stuck_since_s = None

    def check(self, now_s: float) -> None:
        """End the connection if its client is too slow."""
        bounds = self._shared.bounds
        if self.transport.is_closing():
            if self._closing_since_s is None:
                self._closing_since_s = now_s
            elif now_s - self._closing_since_s > bounds.request_timeout_s:
                self.transport.abort()  # the client takes nothing, not even the end
        elif self._closing:
            return
        elif self._begun_s is not None and now_s - self._begun_s > bounds.request_timeout_s:
            self._refuse(too_slow(), Refusal.SLOW)
        elif self._stuck_since_s is not None and now_s - self._stuck_since_s > _STUCK_S:
            count_refusal(Refusal.SLOW)
            self.transport.abort()
        elif not self._under_way and now_s - self._used_s > self._quiet_s_max():
            if not self._has_asked:
                count_refusal(Refusal.SLOW)
            self._end()

    def _takes_nothing(self) -> bool:
        return self._closing or self.transport.is_closing()

    def _quiet_s_max(self) -> float:
        bounds = self._shared.bounds
        return bounds.idle_timeout_s if self._has_asked else bounds.request_timeout_s

    def leave(self) -> None:
        """Make the answer in progress the last one, if its headers have not been sent."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is not None and not cycle.response_started:
            cycle.keep_alive = False

    def close_if_idle(self, idle_s: float) -> None:
        """Close the connection if it has been idle for `idle_s` since its server began to shut down."""
        since = max(self._used_s, self._shared.leaving_since or 0.0)
        if (
            self._under_way
            or self._closing
            or self.transport.is_closing()
            or self.loop.time() < since + idle_s
        ):
            return
        if has_input(self.transport.get_extra_info("socket")):
            return
        self._closing = True
        # Only our side: closing the other side, too, would answer late data with a reset, which may destroy
        # an answer in transit.
        self._end_our_side()
        self.loop.call_later(_LINGER_S, self.transport.abort)

    def _end_our_side(self) -> None:
        """Signal that no more data will be sent.

        With TLS this ends the other side, too, after the data in transit.
        """
        if self._raw_transport.can_write_eof():
            self._raw_transport.write_eof()
        else:
            self._raw_transport.close()

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _refuse(self, error: ApiError, refusal: Refusal) -> None:
        """Answer the arriving request, and ignore further input."""
        if self._closing or self.transport.is_closing():
            return
        count_refusal(refusal)
        cycle = cast("RequestResponseCycle | None", self.cycle)
        is_answered = False
        if cycle is not None and not cycle.response_complete:
            # Its handler waits for a body that will never be complete, or serves an earlier request.
            is_answered = cycle.response_started
            cycle.disconnected = True
            cycle.message_event.set()
        if self._under_way <= 1 and not is_answered:
            body = error_body(error)
            head = (
                b"content-type: application/json;charset=UTF-8\r\ncontent-length: %d\r\nconnection: "
                b"close\r\n\r\n"
            )
            self.transport.write(STATUS_LINE[error.status] + head % len(body) + body)
        self._end()

    def _end(self) -> None:
        self._closing = True
        self._close()

    def _close(self) -> None:
        """Close gracefully while the client is still sending: a reset may destroy the answer."""
        if self._link.is_closing():
            return
        self._link.flush()
        if self._begun_s is None:
            self._raw_transport.close()
            return
        self._closing = self._link.lingers = True
        self._end_our_side()
        self.flow.resume_reading()
        self.loop.call_later(_LINGER_S, self._raw_transport.abort)
