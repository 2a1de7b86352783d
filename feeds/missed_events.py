"""Accounts' events once more, for edges that may have missed some.

An edge that was cut off from Redis asks on `repeat:{k}`, and hears on a channel of its own what the log has
of its accounts, up to what feeds have published by then. The same code divides events by account as when they
are published for the first time (accounts.py), so there is one author of accounts' streams
(docs/decisions/0044-one-author-of-account-streams.md).

What is asked for is in the log's past, so this runs beside the feeds, in a thread with its own connections.
It needs no leader: a process that another one has replaced gives the same answers.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import redis
import structlog

from feeds.accounts import AccountFrames
from feeds.frames import account_of, decode
from protocol import streams
from protocol.codec import LaterFormatError
from protocol.decoding import msgpack_decoder
from protocol.market_data import Repeated, RepeatRequest
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import EVENTS_FIELD
from protocol.units import AccountId
from runtime.portion import Portion
from runtime.redis_clients import RedisOutage, ShardServers

READ_ENTRIES: Final = 500
"""Maximum of entries that are read at once, and answered with one message."""
READ_BYTES: Final = 4 << 20
"""About so much at once: Redis ends the connection of a listener that it has 32 MB for."""
_LISTEN_S: Final = 1.0
"""How long it listens before it looks whether it is to stop."""
_RETRY_S: Final = 0.2
_OPTIONS: Final[Mapping[str, Any]] = {
    "socket_timeout": 3.0,
    "socket_keepalive": True,
    # Else a connection that was cut off silently would be listened to for ever.
    "health_check_interval": 1,
}

_decode_request: Final = msgpack_decoder(RepeatRequest)
_log = structlog.get_logger()

Entry = tuple[StreamId, bytes]
"""(id, event frame)."""


def events_of(
    entries: Sequence[Entry], heard: Mapping[AccountId, StreamId]
) -> list[tuple[AccountId, msgspec.Raw]]:
    """Return (account, its events in `entries` behind the position up to which it was `heard`).

    What cannot be decoded is left out: the feeds have put it into the dead letters.

    Raises:
        LaterFormatError: a later release wrote an entry.
    """
    if not entries:
        return []
    frames = AccountFrames(STREAM_START)
    for stream_id, frame in entries:
        try:
            events, raws, _ = decode(frame)
        except msgspec.MsgspecError:
            continue
        for event, raw in zip(events, raws, strict=True):
            account_id = account_of(event)
            if account_id is not None and account_id in heard and stream_id > heard[account_id]:
                frames.add(event, raw)
    return [(update.account_id, update.events) for update in frames.take(entries[-1][0])]


class Repeats:
    """Answers edges' requests of some shards, in threads of its own, until it is closed."""

    def __init__(self, url: str, cache_url: str, shards: Sequence[int]) -> None:
        """Read the log of the Redis at `url`; requests and answers go through that at `cache_url`."""
        self._url, self._cache_url = url, cache_url or url
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(together,), name="repeats", daemon=True)
            for together in self._by_server(shards)
        ]

    def start(self) -> None:
        """Start listening."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop, within a second and without being waited for: an edge that gets no answer asks again."""
        self._stopping.set()

    def join(self) -> None:
        """Wait until it has stopped."""
        for thread in self._threads:
            thread.join()

    def _by_server(self, shards: Sequence[int]) -> list[Sequence[int]]:
        # On a cluster each shard is heard on its own server: one that is away keeps no other waiting.
        servers = ShardServers(self._cache_url)
        return [[shard] for shard in shards] if servers.are_several else [shards]

    def _run(self, shards: Sequence[int]) -> None:
        channels = {streams.repeat(shard).encode(): shard for shard in shards}
        log, cache = ShardServers(self._url, **_OPTIONS), ShardServers(self._cache_url, **_OPTIONS)
        while not self._stopping.is_set():
            try:
                with cache.of(shards[0]).pubsub(ignore_subscribe_messages=True) as listener:  # type: ignore[no-untyped-call]
                    listener.subscribe(*channels)
                    while not self._stopping.is_set():
                        message = listener.get_message(timeout=_LISTEN_S)
                        if message is not None:
                            shard = channels[message["channel"]]
                            self._answer(log.of(shard), cache.of(shard), shard, message["data"])
            except RedisOutage as error:
                _log.warning("no requests for repeats are heard", error=str(error))
                self._stopping.wait(_RETRY_S)
            except Exception:
                # A request that cannot be answered must not leave all others unanswered.
                _log.exception("a request for missed events failed")
                self._stopping.wait(_RETRY_S)
        log.close()
        cache.close()

    def _answer(self, log: redis.Redis, cache: redis.Redis, shard: int, payload: bytes) -> None:
        try:
            request = _decode_request(payload)
            heard = {account_id: StreamId.parse(position) for account_id, position in request.accounts}
        except (msgspec.MsgspecError, ValueError) as error:
            _log.warning("request for repeats not understood", error=str(error))
            return
        for part in _parts(log, cache, shard, request.request_id, heard):
            cache.publish(request.reply_to, msgspec.msgpack.encode(part))


def _parts(
    log: redis.Redis, cache: redis.Redis, shard: int, request_id: int, heard: Mapping[AccountId, StreamId]
) -> Iterator[Repeated]:
    """Yield the parts of an answer."""
    # Before the log is read: feeds publish whole batches, so what they have published ends where an update
    # ends, and what they publish from now on is heard.
    value: Any = cache.hget(streams.feeds_state(shard), "published_id")
    published = StreamId.parse(value) if isinstance(value, bytes) else STREAM_START
    start, stream = min(heard.values(), default=published), streams.events(shard)
    if not _reaches_back(log, stream, start):
        yield Repeated(request_id, str(published), [], True, "the log begins later")
        return
    portion = Portion(READ_ENTRIES, READ_BYTES)
    while start < published:
        read: Any = log.xrange(stream, f"({start}", str(published), portion.count)
        if not read:
            break
        entries = [(StreamId.parse(entry_id), fields.get(EVENTS_FIELD, b"")) for entry_id, fields in read]
        start = entries[-1][0]
        portion.note(len(entries), sum(len(frame) for _, frame in entries))
        try:
            events = events_of(entries, heard)
        except LaterFormatError as error:
            yield Repeated(request_id, str(published), [], True, str(error))
            return
        # Also without events: whoever waits sees that it goes on.
        yield Repeated(request_id, str(start), events, False)
    yield Repeated(request_id, str(published), [], True)


def _reaches_back(log: redis.Redis, stream: str, start: StreamId) -> bool:
    """Return whether the log still has everything behind `start`."""
    oldest: Any = log.xrange(stream, "-", "+", 1)
    return not oldest or start == STREAM_START or StreamId.parse(oldest[0][0]) <= start
