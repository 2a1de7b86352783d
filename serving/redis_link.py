"""One pipelined connection to Redis for the order path: bytes out, replies in by callback, no task and no future per command.

The library's asyncio client spends more on one small pipeline than everything else on an order's way through this process
(docs/decisions has the figures), so the two busy directions, appending and listening, use this instead.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, cast

import hiredis
import structlog
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection

from runtime.redis_clients import RedisOutage, asyncio_finder, is_passing, parse_address

Reply = object
"""What hiredis reads; an error that Redis answered is a `hiredis.ReplyError`, a lost connection a `ConnectionError`."""
OnReply = Callable[[Reply], None]

_CONNECT_TIMEOUT_S: Final = 2.0
_RETRY_S: Final = (0.05, 0.1, 0.2, 0.5)
_PING_S: Final = 1.0
_SILENCE_MAX_S: Final = 4.0

_log = structlog.get_logger()


def packed(*parts: bytes | str | int) -> bytes:
    """Return a command in the Redis protocol."""
    command: bytes = hiredis.pack_command(parts)  # type: ignore[arg-type]
    return command


class RedisLink(asyncio.Protocol):
    """A connection that is made again whenever it is lost.

    `on_ready` runs after every (re)connection, before anything else can be sent. With `on_message` the link is for listening: it
    hands over (channel, payload) of what is said on the channels subscribed to; `ready` then means that all subscriptions stand.
    What is said before that is handed over after `on_ready`, so that a listener knows first that it may have missed something.
    """

    def __init__(
        self, url: str, *, key: str = "pos:{0}", on_message: Callable[[bytes, bytes], None] | None = None
    ) -> None:
        """Link to the server that has `key`, which is looked up anew for every connection; there may be only one."""
        self.ready = False
        self.on_ready: Callable[[], None] | None = None
        address = parse_address(url)
        self._options = address.options
        self._find = asyncio_finder(address, key)
        self._key = key
        self._channels: dict[str, None] = {}
        self._on_message = on_message
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader()
        self._waiting: deque[OnReply] = deque()
        self._early: list[tuple[bytes, bytes]] = []
        self._lost = asyncio.Event()
        self._heard = False
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to connect, and to keep connected."""
        self._keeper = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """Disconnect for good."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._transport is not None:
            self._transport.abort()

    def send(self, command: bytes, on_reply: OnReply) -> None:
        """Send one packed command; `on_reply` gets its reply, or a ConnectionError when it is lost on the way.

        Raises:
            ConnectionError: there is no connection now; nothing was sent.
        """
        if not self.ready or self._transport is None:
            raise ConnectionError("not connected to Redis")
        self._waiting.append(on_reply)
        self._transport.write(command)

    def subscribe(self, channel: str, on_reply: OnReply | None = None) -> None:
        """Listen to `channel`, now and after every reconnection; `on_reply` hears when the subscription stands, if connected now."""
        self._channels[channel] = None
        if self.ready:
            self.send(packed("SUBSCRIBE", channel), on_reply or _ignore)

    def unsubscribe(self, channel: str) -> None:
        """Listen to `channel` no more."""
        self._channels.pop(channel, None)
        if self.ready:
            self.send(packed("UNSUBSCRIBE", channel), _ignore)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start anew, as asyncio calls it."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass
        self._reader = hiredis.Reader()
        self._early = []
        self._lost.clear()

    def data_received(self, data: bytes) -> None:
        """Hand out the replies in `data`."""
        self._heard = True
        self._reader.feed(data)
        while True:
            try:
                reply = self._reader.gets()
            except hiredis.ProtocolError:
                _log.exception("redis speaks nonsense")
                if self._transport is not None:
                    self._transport.abort()
                return
            if reply is False:
                return
            if self._on_message is not None and isinstance(reply, list) and reply[0] == b"message":
                if self.ready:
                    self._on_message(reply[1], reply[2])
                else:
                    self._early.append((reply[1], reply[2]))
            elif self._waiting:
                self._waiting.popleft()(reply)
                if isinstance(reply, hiredis.ReplyError) and is_passing(reply) and self._transport is not None:
                    _log.warning("redis cannot do it now", error=str(reply))
                    self._transport.abort()
                    return

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everyone who still waits."""
        self.ready = False
        self._transport = None
        waiting, self._waiting = self._waiting, deque()
        for on_reply in waiting:
            on_reply(ConnectionError("connection to Redis lost"))
        self._lost.set()

    async def _keep(self) -> None:
        failures = 0
        while True:
            try:
                await asyncio.wait_for(self._connect(), _CONNECT_TIMEOUT_S)
                failures = 0
            except (*RedisOutage, hiredis.ReplyError, TimeoutError) as error:
                if self._transport is not None:
                    self._transport.abort()
                if not failures:
                    _log.warning("redis unreachable", error=str(error))
                await asyncio.sleep(_RETRY_S[min(failures, len(_RETRY_S) - 1)])
                failures += 1
                continue
            await self._watch()
            _log.warning("redis connection lost")

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        options = self._options
        if options.get("connection_class") is UnixDomainSocketConnection:
            await loop.create_unix_connection(lambda: self, str(options["path"]))
        else:
            host, port = options.get("host", "localhost"), options.get("port", 6379)
            if self._find is not None:
                host, port = await self._find()
            await loop.create_connection(
                lambda: self,
                str(host),
                int(port),
                ssl=True if options.get("connection_class") is SSLConnection else None,
            )
        if options.get("password"):
            await self._ask("AUTH", str(options.get("username") or "default"), str(options["password"]))
        if options.get("db"):
            await self._ask("SELECT", int(options["db"]))
        # LOADING and MOVED are answers to this, so a server that is still reading its files, or lost its keys, does not count.
        await self._ask("EXISTS", self._key)
        for channel in list(self._channels):
            await self._ask("SUBSCRIBE", channel)
        self.ready = True
        if self.on_ready is not None:
            self.on_ready()
        early, self._early = self._early, []
        if self._on_message is not None:
            for message in early:
                self._on_message(*message)

    async def _ask(self, *parts: bytes | str | int) -> Reply:
        if self._transport is None:
            raise ConnectionError("connection to Redis lost")
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append(lambda reply: None if future.done() else future.set_result(reply))
        self._transport.write(packed(*parts))
        reply = await future
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def _watch(self) -> None:
        """Return when the connection is lost; abort it when nothing is heard although asked for."""
        silent_s = 0.0
        while True:
            try:
                await asyncio.wait_for(self._lost.wait(), _PING_S)
            except TimeoutError:
                silent_s = 0.0 if self._heard else silent_s + _PING_S
                self._heard = False
                if self._transport is None:
                    continue
                if silent_s >= _SILENCE_MAX_S:
                    self._transport.abort()
                else:
                    self._waiting.append(_ignore)
                    self._transport.write(packed("PING"))
            else:
                return


def _ignore(_reply: Reply) -> None:
    return None
