"""The stream log on Redis (6.2 or newer, also a cluster: every script touches keys of one hash tag only)."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from protocol import streams
from protocol.streams import MESSAGES_FIELD, STREAM_START, StreamId
from runtime.stream_log import Commit, Entry, Fenced, Outgoing, ShardPosition

# Compare, append the events, the outbox and the dead letters, move the position and the group's cursor: all or
# nothing. An entry takes the position's id, or the next free one when somebody put garbage with a larger id into the stream.
_COMMIT = (
    """
local function append(stream, ...)
  if redis.pcall('XADD', stream, ARGV[2], ...).err then redis.call('XADD', stream, '*', ...) end
end
if (redis.call('GET', KEYS[1]) or '0|0-0') ~= ARGV[1] then return 0 end
if ARGV[3] ~= '' then append(KEYS[2], 'e', ARGV[3]) end
local frames = tonumber(ARGV[4])
if frames > 0 then append(KEYS[3], unpack(ARGV, 5, 4 + 2 * frames)) end
for i = 5 + 2 * frames, #ARGV, 8 do redis.call('XADD', KEYS[4], '*', unpack(ARGV, i, i + 7)) end
redis.call('SET', KEYS[1], string.match(ARGV[1], '^%d+|') .. ARGV[2])
redis.pcall('XGROUP', 'SETID', KEYS[5], '"""
    + streams.ENGINE_GROUP
    + """', ARGV[2])
return 1
"""
)

# Raise the epoch, and make the group when it is the first.
_TAKE_OVER = """
local epoch, id = string.match(redis.call('GET', KEYS[1]) or '0|0-0', '^(%d+)|(.+)$')
local raised = string.format('%d', epoch + 1) .. '|' .. id
redis.call('SET', KEYS[1], raised)
redis.pcall('XGROUP', 'CREATE', KEYS[2], ARGV[1], id, 'MKSTREAM')
return raised
"""

RETRY_AFTER_S = 0.05
"""Pause between attempts while Redis is away."""

Unreachable = (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError, redis.ReadOnlyError)
"""What passes by itself: Redis is away, starting, or has just become a replica."""


class RedisStreamLog:
    """`StreamLog` on one Redis connection; not for use by several threads."""

    def __init__(self, client: redis.Redis) -> None:
        """Use `client`, which must not decode responses."""
        self._redis = client
        # The library's parsed replies cost more than the reading itself.
        for command in ("XREAD", "XREADGROUP", "XRANGE"):
            client.set_response_callback(command, _identity)
        self._heard: dict[int, StreamId] = {}
        """Shard -> the last query that was read."""
        self._commit = client.register_script(_COMMIT)
        self._take_over = client.register_script(_TAKE_OVER)

    @classmethod
    def connect(cls, url: str) -> "RedisStreamLog":
        """Return a log on the Redis at `url`."""
        # The library must not repeat commands by itself: an append or a commit repeated blindly would be a second one.
        never = Retry(NoBackoff(), 0)
        return cls(redis.Redis.from_url(url, protocol=2, socket_keepalive=True, retry=never))

    def _execute(self, *arguments: Any) -> Any:
        return self._redis.execute_command(*arguments)  # type: ignore[no-untyped-call]  # the library lacks the annotation

    def append(self, stream: str, fields: Mapping[bytes, bytes]) -> StreamId:
        """See `StreamLog`."""
        return _text(self._execute("XADD", stream, "*", *(part for pair in fields.items() for part in pair)))

    def read(self, after: Mapping[str, StreamId], count: int, block_ms: int) -> list[Entry]:
        """See `StreamLog`."""
        block = ["BLOCK", block_ms] if block_ms else []
        return _entries(self._execute("XREAD", "COUNT", count, *block, "STREAMS", *after.keys(), *after.values()))

    def last_id(self, stream: str) -> StreamId:
        """See `StreamLog`."""
        try:
            information: Any = self._redis.xinfo_stream(stream)
        except redis.ResponseError as error:
            if "no such key" in str(error):
                return STREAM_START
            raise
        return _text(information["last-generated-id"])

    def trim(self, stream: str, before: StreamId) -> None:
        """See `StreamLog`."""
        self._redis.xtrim(stream, minid=before, approximate=False)

    def position(self, shard: int) -> ShardPosition:
        """See `StreamLog`."""
        return _position(self._redis.get(streams.position(shard)) or b"0|0-0")

    def positions(self, shards: Sequence[int]) -> dict[int, ShardPosition]:
        """See `StreamLog`."""
        with self._redis.pipeline(transaction=True) as pipeline:
            for shard in shards:
                pipeline.get(streams.position(shard))
            found = pipeline.execute()
        return {shard: _position(value or b"0|0-0") for shard, value in zip(shards, found, strict=True)}

    def take_over(self, shard: int) -> ShardPosition:
        """See `StreamLog`."""
        keys = [streams.position(shard), streams.commands(shard)]
        position = _position(self._take_over(keys=keys, args=[streams.ENGINE_GROUP]))
        self._heard[shard] = self.last_id(streams.queries(shard))
        return position

    def read_inputs(
        self, shard: int, position: ShardPosition, count: int, block_ms: int, publish: Sequence[tuple[str, bytes]] = ()
    ) -> list[Entry]:
        """See `StreamLog`."""
        inputs, queries = streams.commands(shard), streams.queries(shard)
        heard = self._heard.get(shard, STREAM_START)
        with self._redis.pipeline(transaction=False) as pipeline:
            for channel, payload in publish:
                pipeline.publish(channel, payload)
            pipeline.execute_command(  # type: ignore[no-untyped-call]
                "XREAD", "COUNT", count, "BLOCK", block_ms, "STREAMS", inputs, queries, position.stream_id, heard
            )
            pipeline.get(streams.position(shard))
            try:
                *_, response, current = pipeline.execute()
            except redis.ResponseError as error:
                if "UNBLOCKED" in str(error):  # this Redis has just become a replica
                    raise redis.ReadOnlyError(str(error)) from error
                raise
        if _position(current or b"0|0-0") != position:
            raise Fenced(f"shard {shard} was taken over after epoch {position.epoch}")
        entries = _entries(response)
        if entries and entries[-1].stream == queries:
            self._heard[shard] = entries[-1].stream_id
        return entries

    def commit(self, commit: Commit) -> None:
        """See `StreamLog`.

        When the answer is lost, the position tells whether the batch was written: nobody else writes in this epoch.
        """
        shard, expected = commit.shard, commit.expected
        arguments: list[Any] = [f"{expected.epoch}|{expected.stream_id}", commit.stream_id, commit.events]
        arguments.append(len(commit.outbox))
        for target, frame in commit.outbox.items():
            arguments += (target, frame)
        for letter in commit.dead_letters:
            arguments += (part for pair in letter.fields().items() for part in pair)
        keys = [
            key(shard)
            for key in (streams.position, streams.events, streams.outbox, streams.dead_letters, streams.commands)
        ]
        asked_again = False
        while True:
            try:
                written = self._commit(keys=keys, args=arguments)
                if not written and asked_again:
                    written = self.position(shard) == ShardPosition(expected.epoch, commit.stream_id)
            except Unreachable:
                asked_again = True
                time.sleep(RETRY_AFTER_S)
                continue
            if not written:
                raise Fenced(f"shard {shard} was taken over after epoch {expected.epoch}")
            return

    def undelivered(self, shard: int) -> list[Outgoing]:
        """See `StreamLog`."""
        return [
            Outgoing(
                _text(stream_id), {int(target): frame for target, frame in _fields(fields).items() if target.isdigit()}
            )
            for stream_id, fields in self._execute("XRANGE", streams.outbox(shard), "-", "+")
        ]

    def deliver(self, shard: int, outgoing: Outgoing) -> None:
        """See `StreamLog`."""
        with self._redis.pipeline(transaction=False) as pipeline:
            for target, frame in outgoing.frames.items():
                pipeline.xadd(streams.commands(target), {MESSAGES_FIELD: frame})
            pipeline.execute()
        milliseconds, number = streams.split_stream_id(outgoing.stream_id)
        self.trim(streams.outbox(shard), streams.stream_id_of(milliseconds, number + 1))

    def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """See `StreamLog`."""
        with self._redis.pipeline(transaction=False) as pipeline:
            for channel, payload in messages:
                pipeline.publish(channel, payload)
            pipeline.execute()

    def save_snapshot(self, shard: int, snapshot: bytes) -> None:
        """See `StreamLog`."""
        with self._redis.pipeline() as pipeline:
            pipeline.lpush(streams.snapshots(shard), snapshot)
            pipeline.ltrim(streams.snapshots(shard), 0, 1)
            pipeline.execute()

    def snapshots(self, shard: int) -> list[bytes]:
        """See `StreamLog`."""
        found: Any = self._redis.lrange(streams.snapshots(shard), 0, -1)
        return list(found)

    def mark_passed(self, shard: int, reader: str, stream_id: StreamId) -> None:
        """See `StreamLog`."""
        self._redis.hset(streams.passed(shard), reader, stream_id)

    def passed(self, shard: int) -> dict[str, StreamId]:
        """See `StreamLog`."""
        found: Any = self._redis.hgetall(streams.passed(shard))
        return {reader.decode(): _text(stream_id) for reader, stream_id in found.items()}


def _identity(response: Any, **_options: Any) -> Any:
    return response


def _text(value: Any) -> StreamId:
    return StreamId(value.decode())


def _position(value: Any) -> ShardPosition:
    epoch, _, stream_id = value.decode().partition("|")
    return ShardPosition(int(epoch), StreamId(stream_id))


def _fields(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _entries(response: Any) -> list[Entry]:
    return [
        Entry(name.decode(), _text(stream_id), _fields(fields))
        for name, entries in response or ()
        for stream_id, fields in entries
    ]
