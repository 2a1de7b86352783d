"""The stream log on Redis (6.2 or newer, also a cluster: every script touches keys of one hash tag only)."""

import select
import time
from collections.abc import Mapping, Sequence
from typing import Any

import redis
import structlog

from protocol import streams
from protocol.streams import MESSAGES_FIELD, STREAM_START, StreamId, split_stream_id
from runtime.redis_clients import ShardServers
from runtime.stream_log import Commit, Entry, Fenced, Outgoing, Rewound, ShardPosition

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

# Write the position again as it is, so that waiting for this write is waiting for all before it.
_CONFIRM = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
return 1
"""

RETRY_AFTER_S = 0.05
"""Pause between attempts while Redis is away."""
WAIT_MS = 500
"""How long Redis waits for replicas before it is asked again."""

_log = structlog.get_logger()

Unreachable = (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError, redis.ReadOnlyError)
"""What passes by itself: Redis is away, starting, being replaced, or has just become a replica (`NotNowError` is one of these)."""


class RedisStreamLog:
    """`StreamLog` on one Redis connection, on a cluster on one for each shard; not for use by several threads.

    With replicas (`replicas_min`), what it commits, takes over, delivers or reads of the events is replicated before it returns. Then a
    failover loses only what nobody has heard of: a prefix of what the old master did survives, and everything said is in it.
    """

    def __init__(self, client: redis.Redis, servers: ShardServers | None = None, replicas_min: int = 0) -> None:
        """Use `client`, which must not decode responses, or where they are several, each shard's own of `servers`."""
        self._redis = client
        self._servers = servers
        self._replicas_min = replicas_min
        keep_unparsed(client)
        self._heard: dict[int, StreamId] = {}
        """Shard -> the last query that was read."""
        self._last_input: Entry | None = None
        """The last command that was read: when the connection has changed since, whether it is still there tells whether all is."""
        self._asked: dict[int, Any] = {}
        """Shard -> a connection on which the answer to "is there anything new?" is still to come."""
        self._commit = client.register_script(_COMMIT)
        self._take_over = client.register_script(_TAKE_OVER)
        self._confirm = client.register_script(_CONFIRM)

    @classmethod
    def connect(cls, url: str, *, shard: int = 0, replicas_min: int = 0) -> "RedisStreamLog":
        """Return a log on the Redis at `url`, for a process that mostly works on `shard`."""
        servers = ShardServers(url, prepare=keep_unparsed, socket_keepalive=True)
        return cls(servers.of(shard), servers, replicas_min)

    def _execute(self, *arguments: Any) -> Any:
        return _run(self._redis, *arguments)

    def _at(self, shard: int) -> redis.Redis:
        return self._servers.of(shard) if self._servers is not None else self._redis

    def _of(self, stream: str) -> redis.Redis:
        if self._servers is None or not self._servers.are_several:
            return self._redis
        return self._servers.of(streams.shard_of(stream))

    def client_id(self, shard: int) -> int:
        """Return what the server calls the connection that this shard's commands take now; 0 before the first."""
        return self._servers.tether(shard).client_id if self._servers is not None else 0

    def _hold(self, shard: int) -> None:
        if self._servers is not None:
            self._servers.tether(shard).hold()

    def _release(self, shard: int) -> None:
        if self._servers is not None:
            self._servers.tether(shard).release()

    def _await_replicas(self, shard: int, acknowledged: int = 0) -> None:
        """Wait until enough replicas have all that this connection has written; `acknowledged` already have.

        Raises:
            redis.TimeoutError: they do not.
        """
        if acknowledged < self._replicas_min:
            acknowledged = self._at(shard).wait(self._replicas_min, WAIT_MS)
        if acknowledged < self._replicas_min:
            raise redis.TimeoutError(f"{acknowledged} of {self._replicas_min} replicas have what shard {shard} wrote")

    def append(self, stream: str, fields: Mapping[bytes, bytes]) -> StreamId:
        """See `StreamLog`."""
        arguments = (part for pair in fields.items() for part in pair)
        return _text(_run(self._of(stream), "XADD", stream, "*", *arguments))

    def read(self, after: Mapping[str, StreamId], count: int, block_ms: int) -> list[Entry]:
        """See `StreamLog`."""
        if self._servers is None or not self._servers.are_several or len(after) < 2:
            return self._read(after, count, block_ms)
        entries = [entry for name, each in after.items() for entry in self._read({name: each}, count, 0)]
        if entries or not block_ms:
            return entries
        self._wait_for_any(after, block_ms)
        return [entry for name, each in after.items() for entry in self._read({name: each}, count, 0)]

    def _read(self, after: Mapping[str, StreamId], count: int, block_ms: int) -> list[Entry]:
        block = ["BLOCK", block_ms] if block_ms else []
        client = self._of(next(iter(after)))
        entries = _entries(_run(client, "XREAD", "COUNT", count, *block, "STREAMS", *after.keys(), *after.values()))
        if self._replicas_min and entries and self._servers is not None:
            shard = streams.shard_of(entries[-1].stream)
            self._hold(shard)
            try:
                # A write on the connection that has read: replicas that have it have everything that was read.
                client.set(streams.waited(shard), entries[-1].stream_id)
                self._await_replicas(shard)
            finally:
                self._release(shard)
        return entries

    def _wait_for_any(self, after: Mapping[str, StreamId], block_ms: int) -> None:
        """Wait until one of several servers has something after the given ids."""
        assert self._servers is not None
        sockets = []
        for stream, stream_id in after.items():
            shard = streams.shard_of(stream)
            connection = self._asked.pop(shard, None)
            is_answered = connection is not None and connection.can_read(0)
            if is_answered:
                connection.read_response()
            if connection is None:
                connection = self._servers.of(shard).connection_pool.make_connection()
                is_answered = True
            # A question that is still open is answered as soon as this one would be, also when it was about an older id.
            if is_answered:
                connection.send_command("XREAD", "COUNT", 1, "BLOCK", block_ms, "STREAMS", stream, stream_id)
            self._asked[shard] = connection
            sockets.append(connection._sock)  # the library has no way to wait for several
        select.select(sockets, [], [], block_ms / 1000)

    def last_id(self, stream: str) -> StreamId:
        """See `StreamLog`."""
        try:
            information: Any = self._of(stream).xinfo_stream(stream)
        except redis.ResponseError as error:
            if "no such key" in str(error):
                return STREAM_START
            raise
        return _text(information["last-generated-id"])

    def trim(self, stream: str, before: StreamId) -> None:
        """See `StreamLog`."""
        self._of(stream).xtrim(stream, minid=before, approximate=False)

    def position(self, shard: int) -> ShardPosition:
        """See `StreamLog`."""
        return _position(self._at(shard).get(streams.position(shard)) or b"0|0-0")

    def take_over(self, shard: int) -> ShardPosition:
        """See `StreamLog`."""
        keys = [streams.position(shard), streams.commands(shard)]
        client = self._at(shard)
        position = _position(self._take_over(keys=keys, args=[streams.ENGINE_GROUP], client=client))
        if self._replicas_min:
            # What the worker before has committed, it has perhaps not waited for.
            self._hold(shard)
            self._await_replicas(shard)
            self._release(shard)
        self._heard[shard] = self.last_id(streams.queries(shard))
        return position

    def read_inputs(
        self, shard: int, position: ShardPosition, count: int, block_ms: int, publish: Sequence[tuple[str, bytes]] = ()
    ) -> list[Entry]:
        """See `StreamLog`."""
        inputs, queries = streams.commands(shard), streams.queries(shard)
        heard = self._heard.get(shard, STREAM_START)
        self._release(shard)
        with self._at(shard).pipeline(transaction=False) as pipeline:
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
        found = _position(current or b"0|0-0")
        if found != position:
            raise _displaced(shard, position, found)
        entries = _entries(response)
        if entries and entries[-1].stream == queries:
            self._heard[shard] = entries[-1].stream_id
        self._last_input = next((entry for entry in reversed(entries) if entry.stream == inputs), self._last_input)
        # What is committed next must go where this was read.
        self._hold(shard)
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
        committed = f"{expected.epoch}|{commit.stream_id}"
        asked_again = False
        while True:
            try:
                if asked_again:
                    self._check_last_input(commit)
                written, acknowledged = self._run_commit(shard, keys, arguments)
                if not written and asked_again:
                    written = self._confirm(keys=keys[:1], args=[committed], client=self._at(shard))
                if written:
                    self._await_replicas(shard, acknowledged)
                    return
                found = self.position(shard)
            except Unreachable as error:
                if not asked_again:
                    _log.warning("commit is not sure yet", shard=shard, error=str(error))
                asked_again = True
                time.sleep(RETRY_AFTER_S)
                continue
            raise _displaced(shard, expected, found)

    def _run_commit(self, shard: int, keys: list[str], arguments: list[Any]) -> tuple[bool, int]:
        """Run the commit, and wait for replicas in the same round trip. Return whether it was written, and how many have it."""
        client = self._at(shard)
        if not self._replicas_min:
            return bool(self._commit(keys=keys, args=arguments, client=client)), 0
        with client.pipeline(transaction=False) as pipeline:
            pipeline.evalsha(self._commit.sha, len(keys), *keys, *arguments)
            pipeline.execute_command("WAIT", self._replicas_min, WAIT_MS)  # type: ignore[no-untyped-call]
            written, acknowledged = pipeline.execute(raise_on_error=False)
        if isinstance(written, redis.exceptions.NoScriptError):
            return bool(self._commit(keys=keys, args=arguments, client=client)), 0
        for answer in (written, acknowledged):
            if isinstance(answer, Exception):
                raise answer
        return bool(written), int(acknowledged)

    def _check_last_input(self, commit: Commit) -> None:
        """Check on the connection in use now, and hold it, that what the commit was made of is there.

        A master is followed by a replica that has a prefix of what it did; so when the last input is there, all before it is.

        Raises:
            Rewound: it is not; the new master never had it, and may have other input under the same position.
        """
        shard, last = commit.shard, self._last_input
        self._release(shard)
        if last is None or last.stream_id != commit.stream_id:
            self.position(shard)
        else:
            found = _run(self._at(shard), "XRANGE", last.stream, last.stream_id, last.stream_id)
            if [_fields(fields) for _, fields in found] != [last.fields]:
                raise Rewound(f"shard {shard}: input {last.stream_id} was lost; what it led to was never said")
        self._hold(shard)

    def reaches(self, shard: int, position: ShardPosition) -> bool:
        """Return whether the log still leads to `position`; until `read_inputs`, it is asked on the same connection."""
        self._release(shard)
        found = self.position(shard)
        self._hold(shard)
        return found.epoch == position.epoch and not _is_before(found.stream_id, position.stream_id)

    def undelivered(self, shard: int) -> list[Outgoing]:
        """See `StreamLog`."""
        return [
            Outgoing(
                _text(stream_id), {int(target): frame for target, frame in _fields(fields).items() if target.isdigit()}
            )
            for stream_id, fields in _run(self._at(shard), "XRANGE", streams.outbox(shard), "-", "+")
        ]

    def deliver(self, shard: int, outgoing: Outgoing) -> None:
        """See `StreamLog`."""
        if self._servers is not None and self._servers.are_several:
            for target, frame in outgoing.frames.items():
                self._deliver_elsewhere(target, frame)
        else:
            with self._redis.pipeline(transaction=False) as pipeline:
                for target, frame in outgoing.frames.items():
                    pipeline.xadd(streams.commands(target), {MESSAGES_FIELD: frame})
                pipeline.execute()
        milliseconds, number = streams.split_stream_id(outgoing.stream_id)
        self.trim(streams.outbox(shard), streams.stream_id_of(milliseconds, number + 1))

    def _deliver_elsewhere(self, target: int, frame: bytes) -> None:
        # On one server, replicas have the message before they have that it left the outbox; on two, somebody has to wait.
        client = self._at(target)
        with client.pipeline(transaction=False) as pipeline:
            pipeline.xadd(streams.commands(target), {MESSAGES_FIELD: frame})
            if self._replicas_min:
                pipeline.execute_command("WAIT", self._replicas_min, WAIT_MS)  # type: ignore[no-untyped-call]
            _, *acknowledged = pipeline.execute()
        if acknowledged and acknowledged[0] < self._replicas_min:
            raise redis.TimeoutError(f"shard {target} lacks replicas")

    def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """See `StreamLog`."""
        with self._redis.pipeline(transaction=False) as pipeline:
            for channel, payload in messages:
                pipeline.publish(channel, payload)
            pipeline.execute()

    def save_snapshot(self, shard: int, snapshot: bytes) -> None:
        """See `StreamLog`."""
        with self._at(shard).pipeline() as pipeline:
            pipeline.lpush(streams.snapshots(shard), snapshot)
            pipeline.ltrim(streams.snapshots(shard), 0, 1)
            pipeline.execute()
        self._await_replicas(shard)

    def snapshots(self, shard: int) -> list[bytes]:
        """See `StreamLog`."""
        found: Any = self._at(shard).lrange(streams.snapshots(shard), 0, -1)
        return list(found)

    def mark_passed(self, shard: int, reader: str, stream_id: StreamId) -> None:
        """See `StreamLog`."""
        self._at(shard).hset(streams.passed(shard), reader, stream_id)

    def passed(self, shard: int) -> dict[str, StreamId]:
        """See `StreamLog`."""
        found: Any = self._at(shard).hgetall(streams.passed(shard))
        return {reader.decode(): _text(stream_id) for reader, stream_id in found.items()}


def keep_unparsed(client: redis.Redis) -> None:
    """Leave stream entries as they come: the library's parsed replies cost more than the reading itself."""
    for command in ("XREAD", "XREADGROUP", "XRANGE"):
        client.set_response_callback(command, _identity)


def _run(client: redis.Redis, *arguments: Any) -> Any:
    return client.execute_command(*arguments)  # type: ignore[no-untyped-call]  # the library lacks the annotation


def _displaced(shard: int, expected: ShardPosition, found: ShardPosition) -> Fenced:
    """Return why the position is not what this writer left it at."""
    if found.epoch < expected.epoch or (
        found.epoch == expected.epoch and _is_before(found.stream_id, expected.stream_id)
    ):
        return Rewound(f"shard {shard} is back at {found.stream_id}; it had come to {expected.stream_id}")
    return Fenced(f"shard {shard} was taken over after epoch {expected.epoch}")


def _is_before(stream_id: StreamId, other: StreamId) -> bool:
    return split_stream_id(stream_id) < split_stream_id(other)


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
