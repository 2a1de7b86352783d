"""One pipelined connection to Redis for the order path, without a task or future per command.

The library's asyncio client spends more on one small pipeline than everything else on an order's way through
this process (docs/decisions has the figures). The two busy directions, appending and listening, therefore use
this: bytes out, replies in by callback.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, TypeVar, cast

import hiredis
import structlog
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection

from runtime.redis_clients import RedisOutage, asyncio_finder, is_passing, parse_address
from runtime.tasks import end_tasks

Reply = object
"""A value from hiredis; a Redis error is a `hiredis.ReplyError`, a lost connection a `ConnectionError`."""
OnReply = Callable[[Reply], None]
T = TypeVar("T")

_CONNECT_TIMEOUT_S: Final = 2.0
"""Timeout for finding the server and connecting to it.

Later requests may take any time while replies arrive.
"""
_SETUP_SILENCE_S: Final = 2.0
"""How long a new connection may be silent after a request."""
CHANNELS_PER_COMMAND: Final = 1_000
"""A larger SUBSCRIBE would block the server for more than a millisecond or two."""
CHANNELS_UNCONFIRMED_MAX: Final = 4_000
"""Maximum of unconfirmed subscriptions: about 100 kB of commands, and 200 kB of buffered replies."""
_RETRY_S: Final = (0.05, 0.1, 0.2, 0.5)
_PING_S: Final = 1.0
_SILENCE_MAX_S: Final = 4.0
_LOG_EVERY_S: Final = 10.0
"""Interval at which a continuing outage is logged."""

_log = structlog.get_logger()


def packed(*parts: bytes | str | int) -> bytes:
    """Return a command in the Redis protocol."""
    command: bytes = hiredis.pack_command(parts)  # type: ignore[arg-type]
    return command


class RedisLink(asyncio.Protocol):
    """A connection that reconnects whenever it is lost.

    `on_ready` runs after every (re)connection, before anything else can be sent. With `on_message` the link
    is for listening: it passes on (channel, payload) of the subscribed channels; `ready` then means that all
    subscriptions are confirmed. Earlier messages are passed on after `on_ready`, so that a listener first
    learns that it may have missed some.
    """

    def __init__(
        self, url: str, *, key: str = "pos:{0}", on_message: Callable[[bytes, bytes], object] | None = None
    ) -> None:
        """Link to the server that has `key`, which is looked up for every connection."""
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
        self._unconfirmed = 0
        self._progress = asyncio.Event()
        self._refusal: Exception | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start connecting, and stay connected."""
        self._keeper = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """Disconnect for good."""
        if self._keeper is not None:
            await end_tasks([self._keeper])
        if self._transport is not None:
            self._transport.abort()

    def send(self, command: bytes, on_reply: OnReply) -> None:
        """Send one packed command.

        `on_reply` gets its reply, or a ConnectionError if the reply is lost.

        Raises:
            ConnectionError: there is no connection now; nothing was sent.
        """
        if self._transport is None or not self._is_open():
            raise ConnectionError("not connected to Redis")
        self._waiting.append(on_reply)
        self._transport.write(command)

    def _is_open(self) -> bool:
        # An aborted transport is closed slightly later; until then uvloop raises a RuntimeError for writes.
        return self.ready and self._transport is not None and not self._transport.is_closing()

    def subscribe(self, channel: str, on_reply: OnReply | None = None) -> None:
        """Subscribe to `channel`, now and after every reconnection.

        `on_reply` is called when the subscription is confirmed, if connected now.
        """
        self._channels[channel] = None
        if self._is_open():
            self.send(packed("SUBSCRIBE", channel), on_reply or _ignore)

    def unsubscribe(self, channel: str) -> None:
        """Unsubscribe from `channel`."""
        self._channels.pop(channel, None)
        if self._is_open():
            self.send(packed("UNSUBSCRIBE", channel), _ignore)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the new connection; called by asyncio."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass
        self._reader = hiredis.Reader()
        self._early = []
        self._unconfirmed, self._refusal = 0, None
        self._lost.clear()

    def data_received(self, data: bytes) -> None:
        """Pass on the replies in `data`."""
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
                # Confirmations of the other subscriptions are still outstanding: what is published meanwhile
                # is kept in order, and passed on after `on_ready`, which makes readers start again.
                if self.ready:
                    self._on_message(reply[1], reply[2])
                else:
                    self._early.append((reply[1], reply[2]))
            elif self._waiting:
                self._waiting.popleft()(reply)
                if (
                    isinstance(reply, hiredis.ReplyError)
                    and is_passing(reply)
                    and self._transport is not None
                ):
                    # A replica, or a node without the key's slot, is not the right server any more: a new
                    # connection looks it up again (docs/decisions/0015).
                    _log.warning("redis cannot do it now", error=str(reply))
                    self._transport.abort()
                    return

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail all waiting commands."""
        self.ready = False
        self._transport = None
        waiting, self._waiting = self._waiting, deque()
        for on_reply in waiting:
            on_reply(ConnectionError("connection to Redis lost"))
        self._lost.set()

    async def _keep(self) -> None:
        now_s = asyncio.get_running_loop().time
        failures, since_s, logged_s = 0, 0.0, 0.0
        while True:
            try:
                # A deadline of our own: the system tries for minutes to reach a machine that is gone, while
                # another server may have taken its place.
                await asyncio.wait_for(self._open(), _CONNECT_TIMEOUT_S)
                await self._set_up()
            except (*RedisOutage, hiredis.ReplyError, TimeoutError) as error:
                if self._transport is not None:
                    self._transport.abort()
                if not failures:
                    since_s = now_s()
                if not failures or now_s() - logged_s >= _LOG_EVERY_S:
                    logged_s = now_s()
                    reason = str(error) or f"no connection within {_CONNECT_TIMEOUT_S:.0f} s"
                    _log.warning(
                        "redis unreachable",
                        error=reason,
                        attempts=failures + 1,
                        seconds=_rounded(now_s() - since_s),
                    )
                await asyncio.sleep(_RETRY_S[min(failures, len(_RETRY_S) - 1)])
                failures += 1
                continue
            if failures:
                _log.info("redis reached again", attempts=failures + 1, seconds=_rounded(now_s() - since_s))
            failures = 0
            await self._watch()
            _log.warning("redis connection lost")

    async def _open(self) -> None:
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

    async def _set_up(self) -> None:
        options = self._options
        if options.get("password"):
            await self._ask("AUTH", str(options.get("username") or "default"), str(options["password"]))
        if options.get("db"):
            await self._ask("SELECT", int(options["db"]))
        # LOADING and MOVED are answers to this, so a server that is still loading, or lost its keys, does not
        # count.
        await self._ask("EXISTS", self._key)
        await self._subscribe_all()
        self.ready = True
        if self.on_ready is not None:
            self.on_ready()
        early, self._early = self._early, []
        if self._on_message is not None:
            for message in early:
                self._on_message(*message)

    async def _subscribe_all(self) -> None:
        """Subscribe to every channel, including those that change meanwhile.

        Each command has a part of the channels, and several commands are in flight.
        """
        subscribed: dict[str, None] = {}
        while missing := [channel for channel in self._channels if channel not in subscribed]:
            for channels in _slices(missing):
                await self._confirmed(CHANNELS_UNCONFIRMED_MAX - len(channels))
                self._write_for_all("SUBSCRIBE", channels)
            await self._confirmed(0)
            subscribed |= dict.fromkeys(missing)
        for channels in _slices([channel for channel in subscribed if channel not in self._channels]):
            self._write_for_all("UNSUBSCRIBE", channels)

    def _write_for_all(self, command: str, channels: list[str]) -> None:
        """Send one command for many channels; each of them gets its own reply."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionError("connection to Redis lost")
        self._unconfirmed += len(channels)
        self._waiting.extend(itertools.repeat(self._confirm, len(channels)))
        self._transport.write(packed(command, *channels))

    def _confirm(self, reply: Reply) -> None:
        self._unconfirmed -= 1
        if isinstance(reply, Exception):
            self._refusal = reply
        self._progress.set()

    async def _confirmed(self, unconfirmed_max: int) -> None:
        """Return when no more than `unconfirmed_max` subscriptions are unconfirmed.

        Raises:
            TimeoutError: Redis is silent.
            hiredis.ReplyError: it refuses; a whole command is refused with one reply, so the connection is
            useless.
        """
        while self._refusal is None and self._unconfirmed > unconfirmed_max:
            self._progress.clear()
            await self._unless_silent(asyncio.ensure_future(self._progress.wait()))
        if self._refusal is not None:
            raise self._refusal

    async def _unless_silent(self, waiting: "asyncio.Future[T]") -> T:
        """Return the result of `waiting`.

        Raises:
            TimeoutError: the connection was silent for `_SETUP_SILENCE_S`.
        """
        try:
            while True:
                self._heard = False
                await asyncio.wait((waiting,), timeout=_SETUP_SILENCE_S)
                if waiting.done():
                    return waiting.result()
                if not self._heard:
                    raise TimeoutError(f"Redis has said nothing for {_SETUP_SILENCE_S:.0f} s")
        finally:
            waiting.cancel()

    async def _ask(self, *parts: bytes | str | int) -> Reply:
        if self._transport is None or self._transport.is_closing():
            raise ConnectionError("connection to Redis lost")
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append(lambda reply: None if future.done() else future.set_result(reply))
        self._transport.write(packed(*parts))
        reply = await self._unless_silent(future)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def _watch(self) -> None:
        """Return when the connection is lost; abort it when it is silent after a request."""
        silent_s = 0.0
        while True:
            try:
                await asyncio.wait_for(self._lost.wait(), _PING_S)
            except TimeoutError:
                silent_s = 0.0 if self._heard else silent_s + _PING_S
                self._heard = False
                if self._transport is None or self._transport.is_closing():
                    continue
                if silent_s >= _SILENCE_MAX_S:
                    self._transport.abort()
                else:
                    self._waiting.append(_ignore)
                    self._transport.write(packed("PING"))
            else:
                return


def _slices(channels: list[str]) -> Iterable[list[str]]:
    for start in range(0, len(channels), CHANNELS_PER_COMMAND):
        yield channels[start : start + CHANNELS_PER_COMMAND]


def _rounded(seconds: float) -> float:
    return round(seconds, 1)


def _ignore(_reply: Reply) -> None:
    return None
