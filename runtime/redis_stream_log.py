"""The stream log on Redis (6.2 or newer, also a cluster: every script touches keys of one hash tag only)."""

import os
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from protocol import streams
from protocol.lease import STANDBY_TTL_MS, Leader, Sight, Standby, leader_of
from protocol.streams import MESSAGES_FIELD, STREAM_START, StreamId, split_stream_id
from runtime.stream_log import Commit, Committed, Entry, Fenced, Outgoing, SavedSnapshot, ShardPosition

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

# Raise the epoch, and make the group when it is the first. A candidate takes the lease, unless another one has it.
_TAKE_OVER = """
if ARGV[2] ~= '' then
  local held = redis.call('GET', KEYS[3])
  if held and held ~= ARGV[4] then return {false, 0} end
end
local epoch, id = string.match(redis.call('GET', KEYS[1]) or '0|0-0', '^(%d+)|(.+)$')
local raised = string.format('%d', epoch + 1)
redis.call('SET', KEYS[1], raised .. '|' .. id)
if ARGV[2] ~= '' then redis.call('SET', KEYS[3], raised .. '|' .. ARGV[2], 'PX', ARGV[3]) end
redis.pcall('XGROUP', 'CREATE', KEYS[2], ARGV[1], id, 'MKSTREAM')
return {raised .. '|' .. id, redis.call('TIME')[1]}
"""

# These travel as they are, in pipelines and on a connection that has just been made: no script has to be known.
_RENEW = """
if string.match(redis.call('GET', KEYS[1]) or '', '^%d+') ~= ARGV[1] then return 0 end
if ARGV[4] == '1' or string.match(redis.call('GET', KEYS[2]) or '', '^%d+') ~= ARGV[1] then
  redis.call('SET', KEYS[2], ARGV[1] .. '|' .. ARGV[2], 'PX', ARGV[3])
else
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
end
return 1
"""
_RELEASE = """
if string.match(redis.call('GET', KEYS[1]) or '', '^%d+') == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""
_ANSWER = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
for i = 2, #ARGV, 2 do redis.call('PUBLISH', ARGV[i], ARGV[i + 1]) end
return 1
"""

# The time is Redis's own, so that everybody means the same by it.
_ANNOUNCE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. '|' .. string.format('%d', now))
local found = redis.call('HGETALL', KEYS[1])
for i = 1, #found, 2 do
  if now - string.match(found[i + 1], '%d+$') > tonumber(ARGV[3]) then redis.call('HDEL', KEYS[1], found[i]) end
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
"""

# List a snapshot whose bytes are there, and drop those that are one too many; unless the newest reaches as far already.
_KEEP_SNAPSHOT = """
local function parts(id) return string.match(id, '^(%d+)-(%d+)$') end
local newest = string.match(redis.call('LINDEX', KEYS[1], 0) or '', '^saved|([^|]+)|')
if newest and ARGV[1] ~= '0-0' then
  local ms, number = parts(ARGV[1])
  local newest_ms, newest_number = parts(newest)
  local later = ms - newest_ms
  if later < 0 or (later == 0 and number - newest_number <= 0) then
    redis.call('UNLINK', KEYS[2])
    return 0
  end
end
local time = redis.call('TIME')
local now = string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('PERSIST', KEYS[2])
redis.call('LPUSH', KEYS[1], 'saved|' .. ARGV[1] .. '|' .. now .. '|' .. ARGV[2])
while redis.call('LLEN', KEYS[1]) > 2 do
  local name = string.match(redis.call('RPOP', KEYS[1]), '^saved|.*|(%w+)$')
  if name then redis.call('UNLINK', ARGV[3] .. name) end
end
return 1
"""

SNAPSHOT_PIECE_BYTES = 131_072
"""As much of a snapshot as goes to Redis at once: the commits in between wait for no more than one piece to be on disk."""
_SNAPSHOT_PIECES = 8
"""Pieces that are read at once."""
_UNFINISHED_TTL_S = 600
"""How long the pieces of a snapshot stay that is never finished."""
_SAVED = b"saved|"

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
        self._held: dict[int, Leader] = {}
        """Shard -> who leads it over this connection."""
        self._client_id = 0
        self._client_name = ""

    @classmethod
    def connect(cls, url: str, process: str = "") -> "RedisStreamLog":
        """Return a log on the Redis at `url`, which shows the connection under the name of `process`."""
        # The library must not repeat commands by itself: an append or a commit repeated blindly would be a second one.
        never = Retry(NoBackoff(), 0)
        name = f"{process}:{os.getpid()}" if process else None
        client = redis.Redis.from_url(url, protocol=2, socket_keepalive=True, retry=never, client_name=name)
        log = cls(client)
        if name:
            log._client_name = name
            client.connection_pool.connection_kwargs["redis_connect_func"] = log._greet
        return log

    def _greet(self, connection: Any) -> None:
        """Let a new connection write its number into the lease at once: who watches the old one takes this process for dead."""
        connection.on_connect()
        connection.send_command("CLIENT", "ID")
        self._client_id = int(connection.read_response())
        for shard, leader in self._held.items():
            connection.send_command(*self._renewal(shard, leader, anew=True))
            connection.read_response()

    def _renewal(self, shard: int, leader: Leader, *, anew: bool = False) -> tuple[Any, ...]:
        """Return the command that renews the lease, by its time alone or `anew`.

        What is put together for one connection may go out over the next one, so only a connection itself says who it is.
        """
        keys = (streams.position(shard), streams.lease(shard))
        return ("EVAL", _RENEW, 2, *keys, leader.epoch, self._text_of(leader), leader.lease_ms, int(anew))

    def _text_of(self, leader: Leader) -> str:
        return leader._replace(client_id=self._client_id, connection=self._client_name).text()

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

    def take_over(self, shard: int, candidate: Leader | None = None, over: Leader | None = None) -> ShardPosition:
        """See `StreamLog`."""
        keys = [streams.position(shard), streams.commands(shard), streams.lease(shard)]
        lease: list[Any] = ["", 0, ""]
        if candidate is not None:
            lease = [self._text_of(candidate), candidate.lease_ms, f"{over.epoch}|{over.text()}" if over else ""]
        raised, now_s = self._take_over(keys=keys, args=[streams.ENGINE_GROUP, *lease])
        if raised is None:
            raise Fenced(f"another worker leads shard {shard}")
        position = _position(raised)
        if candidate is None:
            self._heard[shard] = self.last_id(streams.queries(shard))
        else:
            self._heard[shard] = streams.stream_id_of(int(now_s) * 1_000 - 2 * candidate.lease_ms)
            leader = self._held[shard] = candidate._replace(epoch=position.epoch)
            if self._text_of(candidate) != lease[0]:  # it was said over a connection that has only just been made
                self._execute(*self._renewal(shard, leader, anew=True))
        return position

    def read_inputs(
        self,
        shard: int,
        position: ShardPosition,
        count: int,
        block_ms: int,
        publish: Sequence[tuple[str, bytes]] = (),
        *,
        answers: Sequence[tuple[str, bytes]] = (),
        renew: Leader | None = None,
    ) -> list[Entry]:
        """See `StreamLog`."""
        inputs, queries = streams.commands(shard), streams.queries(shard)
        heard = self._heard.get(shard, STREAM_START)
        with self._redis.pipeline(transaction=False) as pipeline:
            for channel, payload in publish:
                pipeline.publish(channel, payload)
            if answers:
                pipeline.execute_command(*_answering(shard, position, answers))  # type: ignore[no-untyped-call]
            if renew is not None:
                pipeline.execute_command(*self._renewal(shard, renew))  # type: ignore[no-untyped-call]
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

    def read_committed(self, shard: int, after: StreamId, count: int) -> Committed:
        """See `StreamLog`."""
        # In this order: what is committed has been appended, and what was read had not been trimmed before.
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.get(streams.position(shard))
            pipeline.execute_command(  # type: ignore[no-untyped-call]
                "XREAD", "COUNT", count, "STREAMS", streams.commands(shard), after
            )
            pipeline.execute_command("LRANGE", streams.snapshots(shard), 0, -1)  # type: ignore[no-untyped-call]
            current, response, saved = pipeline.execute()
        position = _position(current or b"0|0-0")
        goal = split_stream_id(position.stream_id)
        entries = [entry for entry in _entries(response) if split_stream_id(entry.stream_id) <= goal]
        ids = [_saved(each, 0).stream_id for each in saved]
        return Committed(entries, position, min(ids, key=split_stream_id) if len(ids) > 1 else STREAM_START)

    def renew_lease(self, shard: int, leader: Leader) -> None:
        """See `StreamLog`."""
        self._execute(*self._renewal(shard, leader))

    def release_lease(self, shard: int, leader: Leader) -> None:
        """See `StreamLog`."""
        self._held.pop(shard, None)
        self._execute("EVAL", _RELEASE, 1, streams.lease(shard), leader.epoch)

    def lease(self, shard: int) -> Sight:
        """See `StreamLog`."""
        key = streams.lease(shard)
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.get(key)
            pipeline.pttl(key)
            value, remaining_ms = pipeline.execute()
        if value is None:
            return Sight(None)
        leader = leader_of(value.decode())
        return Sight(leader, max(0, remaining_ms), self._knows(leader))

    def _knows(self, leader: Leader) -> bool:
        if not leader.client_id:
            return True
        try:
            found: Any = self._execute("CLIENT", "LIST", "ID", leader.client_id)
        except redis.ResponseError:
            # Not every Redis lets everybody ask; the lease alone decides then.
            return True
        return f" name={leader.connection} ".encode() in found

    def announce(self, shard: int, standby: Standby) -> None:
        """See `StreamLog`."""
        said = f"{standby.pid}|{standby.stream_id}|{standby.behind_ms}"
        self._execute("EVAL", _ANNOUNCE, 1, streams.standbys(shard), standby.process, said, STANDBY_TTL_MS)

    def withdraw(self, shard: int, standby: Standby) -> None:
        """See `StreamLog`."""
        self._redis.hdel(streams.standbys(shard), standby.process)

    def standbys(self, shard: int) -> list[Standby]:
        """See `StreamLog`."""
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.hgetall(streams.standbys(shard))
            pipeline.time()
            found, (seconds, microseconds) = pipeline.execute()
        now_ms = seconds * 1_000 + microseconds // 1_000
        standbys = []
        for process, said in found.items():
            pid, stream_id, behind_ms, time_ms = said.decode().split("|")
            age_ms = max(0, now_ms - int(time_ms))
            standby = Standby(process.decode(), int(pid), StreamId(stream_id), int(behind_ms), age_ms)
            if standby.age_ms <= STANDBY_TTL_MS:
                standbys.append(standby)
        return standbys

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

    def publish_answers(self, shard: int, position: ShardPosition, answers: Sequence[tuple[str, bytes]]) -> None:
        """See `StreamLog`."""
        if answers:
            self._execute(*_answering(shard, position, answers))

    def save_snapshot(self, shard: int, snapshot: bytes, stream_id: StreamId = STREAM_START) -> None:
        """See `StreamLog`."""
        name = secrets.token_hex(8)
        key = streams.snapshot(shard, name)
        for first in range(0, len(snapshot), SNAPSHOT_PIECE_BYTES):
            with self._redis.pipeline() as pipeline:
                pipeline.rpush(key, snapshot[first : first + SNAPSHOT_PIECE_BYTES])
                pipeline.expire(key, _UNFINISHED_TTL_S)
                pipeline.execute()
        prefix = streams.snapshot(shard, "")
        self._execute("EVAL", _KEEP_SNAPSHOT, 2, streams.snapshots(shard), key, stream_id, name, prefix)

    def saved_snapshots(self, shard: int) -> list[SavedSnapshot]:
        """See `StreamLog`."""
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.execute_command("LRANGE", streams.snapshots(shard), 0, -1)  # type: ignore[no-untyped-call]
            pipeline.time()
            found, (seconds, microseconds) = pipeline.execute()
        return [_saved(each, seconds * 1_000 + microseconds // 1_000) for each in found]

    def read_snapshot(self, shard: int, saved: SavedSnapshot) -> bytes:
        """See `StreamLog`."""
        if not saved.name:
            whole: Any = self._execute("LRANGE", streams.snapshots(shard), 0, -1)
            return next((each for each in whole if not each.startswith(_SAVED)), b"")
        key = streams.snapshot(shard, saved.name)
        pieces: list[bytes] = []
        while True:
            read: Any = self._redis.lrange(key, len(pieces), len(pieces) + _SNAPSHOT_PIECES - 1)
            pieces += read
            if len(read) < _SNAPSHOT_PIECES:
                return b"".join(pieces)

    def snapshots(self, shard: int) -> list[bytes]:
        """See `StreamLog`."""
        return [self.read_snapshot(shard, saved) for saved in self.saved_snapshots(shard)]

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


def _answering(shard: int, position: ShardPosition, answers: Sequence[tuple[str, bytes]]) -> tuple[Any, ...]:
    expected = f"{position.epoch}|{position.stream_id}"
    return ("EVAL", _ANSWER, 1, streams.position(shard), expected, *(part for pair in answers for part in pair))


def _saved(value: bytes, now_ms: int) -> SavedSnapshot:
    if not value.startswith(_SAVED):  # the snapshot itself, as earlier versions kept it
        return SavedSnapshot(STREAM_START, 0)
    _, stream_id, time_ms, name = value.decode().split("|")
    return SavedSnapshot(StreamId(stream_id), max(0, now_ms - int(time_ms)), name)


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
