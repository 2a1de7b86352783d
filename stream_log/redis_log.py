"""The stream log on Redis (6.2 or newer, also a cluster: every script touches keys of one hash tag only)."""

import os
import secrets
import select
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import redis
import structlog
from typing_extensions import override

from protocol import streams
from protocol.lease import STANDBY_TTL_MS, Leader, Sight, Standby
from protocol.positions import ShardPosition, StateChecksum, Takeovers
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import MESSAGES_FIELD
from runtime.redis_clients import FullError, PendingAnswers, ShardServers, pipelined
from runtime.redis_reserve import reserved
from runtime.redis_scripts import load_script
from stream_log.durability import Ask
from stream_log.interface import (
    Commit,
    Committed,
    Entry,
    Fenced,
    Outgoing,
    Rewound,
    SavedSnapshot,
    StreamLog,
    with_skips,
)

_COMMIT = load_script("stream_log", "commit", is_reserved=True, ENGINE_GROUP=streams.ENGINE_GROUP)

_TAKE_OVER: Final = load_script("stream_log", "take_over", is_reserved=True)

_RENEW: Final = load_script("stream_log", "renew_lease", is_reserved=True)
_RELEASE: Final = load_script("stream_log", "release_lease")
_ANSWER: Final = load_script("stream_log", "publish_answers")

_WRITE_CONFIGURATION: Final = load_script("stream_log", "write_configuration", is_reserved=True)

_DROP: Final = load_script("stream_log", "delete_if_equal")

_ANNOUNCE: Final = load_script("stream_log", "announce_standby", is_reserved=True)

_KEEP_SNAPSHOT: Final = load_script("stream_log", "keep_snapshot", is_reserved=True)

_ADD_PIECE: Final = load_script("stream_log", "add_snapshot_piece", is_reserved=True)

SNAPSHOT_PIECE_BYTES = 131_072
"""The part of a snapshot that is sent to Redis at once.

A commit in between waits for at most one piece to be written to disk.
"""
_SNAPSHOT_PIECES = 8
"""Pieces that are read at once."""
_SNAPSHOT_LEVEL = 1
"""The compression level of snapshots, which consist mostly of similar numbers.

Compression reduces them to a quarter, so Redis has less to store, to log and to copy when it forks.
"""
_REWRITE_WAIT_S = 10
"""How long a snapshot waits for Redis to finish rewriting its log.

Until then Redis 6 moves all new data in memory repeatedly, and serves nobody meanwhile. A worker that stops
saves once more, and is killed when that takes longer than 20 s.
"""
_REWRITE_POLL_S = 0.05
_UNFINISHED_TTL_S = 600
"""How long the pieces of an unfinished snapshot are kept."""
_SAVED = b"saved|"

_REMOVE: Final = load_script("stream_log", "remove_entry")

_CONFIRM: Final = load_script("stream_log", "confirm_position", is_reserved=True)

RETRY_AFTER_S = 0.05
"""Pause between attempts while Redis is unreachable."""
WAIT_MS = 500
"""How long one WAIT for replicas lasts before it is repeated."""

_log = structlog.get_logger()

Unreachable = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.BusyLoadingError,
    redis.ReadOnlyError,
    FullError,
)
"""Temporary errors: Redis is unreachable, starting, being replaced, or full.

A server that has just become a replica counts, too: `NotNowError` is one of these errors.
"""


class _CommitInFlight:
    """A commit that was sent."""

    __slots__ = ("arguments", "commands", "commit", "error", "keys", "pending", "published")

    def __init__(
        self,
        commit: Commit,
        commands: Sequence[Sequence[Any]],
        keys: list[str],
        arguments: list[Any],
        published: int,
    ) -> None:
        self.commit = commit
        self.commands = commands
        """The commands that are sent, and sent again when the answer is lost."""
        self.keys, self.arguments = keys, arguments
        """Those of the script."""
        self.published = published
        """The number of commands before the script."""
        self.pending: PendingAnswers | None = None
        self.error: Exception | None = None
        """Why it could not be sent."""

    def renew(self, renewal: Sequence[Any]) -> None:
        """Send the renewal of a lease after the commit; its answer is ignored."""
        if self.pending is None or self.error is not None:
            return
        try:
            self.pending.add(renewal)
        except Unreachable as error:
            self.error = error


class RedisStreamLog(StreamLog):
    """`StreamLog` on one Redis connection; on a cluster, one connection per shard.

    Not thread-safe.

    With replicas (`replicas_min`), everything that it commits, takes over, delivers or reads of the events is
    replicated before it returns. A failover then loses only data that nobody has seen: a prefix of the old
    master's writes survives, and everything published is in that prefix.
    """

    def __init__(
        self, client: redis.Redis, servers: ShardServers | None = None, replicas_min: int = 0
    ) -> None:
        """Use `client`, which must not decode responses, or with several servers those of `servers`."""
        self._redis = client
        self._servers = servers
        self._replicas_min = replicas_min
        keep_unparsed(client)
        self._heard: dict[int, StreamId] = {}
        """Shard -> the id of the last query read."""
        self._inputs_read: list[Entry] = []
        """The entries read last, commands first.

        If the connection has changed since, the existence of the last entry proves that of all.
        """
        self._asked: dict[int, Any] = {}
        """Shard -> a connection on which the answer to a blocking read is still pending."""
        self._commit = client.register_script(_COMMIT)
        self._take_over = client.register_script(_TAKE_OVER)
        self._confirm = client.register_script(_CONFIRM)
        self._remove = client.register_script(_REMOVE)
        self._followed: dict[int, tuple[int, Entry | None]] = {}
        """Shard -> the connection on which its committed input was read last, and the last entry read."""
        self._held: dict[int, Leader] = {}
        """Shard -> its leader on this connection."""
        self._in_flight: _CommitInFlight | None = None
        """A commit whose answer is pending."""
        self._client_name = ""
        self._check: Callable[[Ask], None] | None = None

    @classmethod
    def connect(
        cls,
        url: str,
        process: str = "",
        *,
        shard: int = 0,
        replicas_min: int = 0,
        timeout_s: float | None = None,
        check: Callable[[Ask], None] | None = None,
    ) -> "RedisStreamLog":
        """Return a log on the Redis at `url`, for a process that mostly works on `shard`.

        The server shows the connection under the process's name. With a timeout, the log gives up after that
        time. `check` is called with every new connection to the shard's server, before anything is read or
        written there: after a failover it is another server.
        """
        name = f"{process}:{os.getpid()}" if process else None
        timeouts = (
            {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
            if timeout_s is not None
            else {}
        )
        servers = ShardServers(
            url, prepare=keep_unparsed, socket_keepalive=True, client_name=name, **timeouts
        )
        log = cls(servers.of(shard), servers, replicas_min)
        if name:
            log._client_name = name
        log._check = check
        servers.tether(shard).greet = log._greet
        return log

    def close(self) -> None:
        """Close every connection."""
        for connection in self._asked.values():
            connection.disconnect()
        self._redis.close()
        if self._servers is not None:
            self._servers.close()

    def _greet(self, connection: Any) -> None:
        """Check the server, and write the connection's number into the lease.

        Standbys that watch the old connection would otherwise consider this process dead.
        """

        def ask(*parts: str) -> Any:
            connection.send_command(*parts)
            return connection.read_response()

        if self._check is not None:
            self._check(ask)
        for shard, leader in self._held.items():
            connection.send_command(*self._renewal(shard, leader, anew=True))
            connection.read_response()

    def _renewal(self, shard: int, leader: Leader, *, anew: bool = False) -> tuple[Any, ...]:
        """Return the command that renews the lease: its expiry only, or `anew` with its value.

        A command that is built for one connection may be sent on the next one, so only a connection itself
        identifies the process.
        """
        keys = (streams.position(shard), streams.lease(shard))
        return (
            "EVAL",
            _RENEW,
            2,
            *keys,
            leader.epoch,
            self._text_of(shard, leader),
            leader.lease_ms,
            int(anew),
        )

    def _text_of(self, shard: int, leader: Leader) -> str:
        return leader._replace(client_id=self.client_id(shard), connection=self._client_name).text()

    def at(self, shard: int) -> redis.Redis:
        """Return the client of a shard's server."""
        return self._servers.of(shard) if self._servers is not None else self._redis

    def _of(self, stream: str) -> redis.Redis:
        if self._servers is None or not self._servers.are_several:
            return self._redis
        return self._servers.of(streams.shard_of(stream))

    def client_id(self, shard: int) -> int:
        """Return the server's id of the connection that this shard's commands use now.

        0 before the first connection.
        """
        return self._servers.tether(shard).client_id if self._servers is not None else 0

    def _connection(self, shard: int) -> int:
        return self._servers.tether(shard).connections if self._servers is not None else 0

    def _hold(self, shard: int) -> None:
        if self._servers is not None:
            self._servers.tether(shard).hold()

    def _is_held(self, shard: int) -> bool:
        return self._servers is not None and self._servers.tether(shard).is_held

    def _release(self, shard: int) -> None:
        if self._servers is not None:
            self._servers.tether(shard).release()

    def _await_replicas(self, shard: int, acknowledged: int = 0) -> None:
        """Wait until enough replicas have everything that this connection has written.

        `acknowledged` replicas already have it.

        Raises:
            redis.TimeoutError: not enough replicas have it in time.
        """
        if acknowledged < self._replicas_min:
            acknowledged = self.at(shard).wait(self._replicas_min, WAIT_MS)
        if acknowledged < self._replicas_min:
            raise redis.TimeoutError(
                f"{acknowledged} of {self._replicas_min} replicas have what shard {shard} wrote"
            )

    @override
    def append(self, stream: str, fields: Mapping[bytes, bytes]) -> StreamId:
        arguments = (part for pair in fields.items() for part in pair)
        return StreamId.parse(_run(self._of(stream), *reserved("XADD", stream, "*", *arguments)))

    @override
    def read(self, after: Mapping[str, StreamId], count: int, block_ms: int) -> list[Entry]:
        if self._servers is None or not self._servers.are_several or len(after) < 2:
            return self._read(after, count, block_ms)
        entries = [
            entry for name, stream_id in after.items() for entry in self._read({name: stream_id}, count, 0)
        ]
        if entries or not block_ms:
            return entries
        self._wait_for_any(after, block_ms)
        return [
            entry for name, stream_id in after.items() for entry in self._read({name: stream_id}, count, 0)
        ]

    def _read(self, after: Mapping[str, StreamId], count: int, block_ms: int) -> list[Entry]:
        block = ["BLOCK", block_ms] if block_ms else []
        client = self._of(next(iter(after)))
        entries = _entries(
            _run(client, "XREAD", "COUNT", count, *block, "STREAMS", *after, *map(str, after.values()))
        )
        if self._replicas_min and entries and self._servers is not None:
            shard = streams.shard_of(entries[-1].stream)
            self._hold(shard)
            try:
                self._write_waited(shard, entries[-1].stream_id)
            finally:
                self._release(shard)
        return entries

    def _write_waited(self, shard: int, stream_id: StreamId) -> None:
        # A write on the connection that has read: replicas that have it have everything that was read.
        _run(self.at(shard), *reserved("SET", streams.waited(shard), str(stream_id)))
        self._await_replicas(shard)

    def _wait_for_any(self, after: Mapping[str, StreamId], block_ms: int) -> None:
        """Wait until one of several servers has an entry after the given ids."""
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
            # A pending read is answered as soon as this one would be, even if it was for an older id.
            if is_answered:
                connection.send_command(
                    "XREAD", "COUNT", 1, "BLOCK", block_ms, "STREAMS", stream, str(stream_id)
                )
            self._asked[shard] = connection
            sockets.append(connection._sock)  # the library cannot wait for several connections
        select.select(sockets, [], [], block_ms / 1000)

    @override
    def last_id(self, stream: str) -> StreamId:
        try:
            information: Any = self._of(stream).xinfo_stream(stream)
        except redis.ResponseError as error:
            if "no such key" in str(error):
                return STREAM_START
            raise
        return StreamId.parse(information["last-generated-id"])

    @override
    def trim(self, stream: str, before: StreamId) -> None:
        self._of(stream).xtrim(stream, minid=str(before), approximate=False)

    @override
    def position(self, shard: int) -> ShardPosition:
        value: Any = self.at(shard).get(streams.position(shard))
        return ShardPosition.parse(value)

    @override
    def checksum(self, shard: int) -> StateChecksum | None:
        return _checksum(self.at(shard).get(streams.checksum(shard)))

    @override
    def positions(self, shards: Sequence[int]) -> dict[int, ShardPosition]:
        # On a cluster the shards' positions are on several nodes, which cannot be read at one moment.
        if self._servers is not None and self._servers.are_several:
            return {shard: self.position(shard) for shard in shards}
        with self._redis.pipeline(transaction=True) as pipeline:
            for shard in shards:
                pipeline.get(streams.position(shard))
            values = pipeline.execute()
        return {shard: ShardPosition.parse(value) for shard, value in zip(shards, values, strict=True)}

    @override
    def take_over(
        self, shard: int, candidate: Leader | None = None, over: Leader | None = None
    ) -> ShardPosition:
        keys = [key(shard) for key in (streams.position, streams.commands, streams.lease, streams.takeovers)]
        lease: list[Any] = ["", 0, ""]
        if candidate is not None:
            lease = [self._text_of(shard, candidate), candidate.lease_ms, over.encode() if over else ""]
        client = self.at(shard)
        raised, now_s = self._take_over(keys=keys, args=[streams.ENGINE_GROUP, *lease], client=client)
        if raised is None:
            raise Fenced(f"another worker leads shard {shard}")
        position = ShardPosition.parse(raised)
        if self._replicas_min:
            # The previous worker may not have waited for the replication of its commits.
            self._hold(shard)
            try:
                self._await_replicas(shard)
            finally:
                self._release(shard)
        last = self.last_id(streams.queries(shard))
        if candidate is None:
            self._heard[shard] = last
        else:
            recent = StreamId(max(0, int(now_s) * 1_000 - 2 * candidate.lease_ms))
            # Redis's clock may be ahead and be corrected: then the next queries have ids before `recent`, and
            # after the last one's.
            self._heard[shard] = min(recent, last)
            leader = self._held[shard] = candidate._replace(epoch=position.epoch)
            if (
                self._text_of(shard, candidate) != lease[0]
            ):  # the connection was just made, and the published messages may be lost
                _run(client, *self._renewal(shard, leader, anew=True))
        return position

    @override
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
        inputs, queries = streams.commands(shard), streams.queries(shard)
        after = (str(position.stream_id), str(self._heard.get(shard, STREAM_START)))
        self._release(shard)
        # One round trip, in this order: the replies, which nothing may delay; the lease, before the read that
        # may block; the position last, so that a takeover during the read is noticed before an entry is
        # applied.
        commands: list[Sequence[Any]] = [("PUBLISH", channel, payload) for channel, payload in publish]
        if answers:
            commands.append(_answering(shard, position, answers))
        if renew is not None:
            commands.append(self._renewal(shard, renew))
        commands += (
            ("XREAD", "COUNT", count, "BLOCK", block_ms, "STREAMS", inputs, queries, *after),
            ("GET", streams.position(shard)),
        )
        replies = pipelined(self.at(shard), *commands)
        if error := next((reply for reply in replies if isinstance(reply, redis.ResponseError)), None):
            if "UNBLOCKED" in str(error):  # this Redis has just become a replica
                raise redis.ReadOnlyError(str(error)) from error
            raise error
        response, current = replies[-2:]
        is_at = ShardPosition.parse(current)
        if is_at != position:
            raise _displaced(shard, position, is_at)
        entries = _entries(response)
        if entries and entries[-1].stream == queries:
            self._heard[shard] = entries[-1].stream_id
        if entries and entries[0].stream == inputs:
            self._inputs_read = entries
        # The next commit must go to the server from which this was read.
        self._hold(shard)
        return entries

    @override
    def read_committed(self, shard: int, after: StreamId, count: int) -> Committed:
        # In this order: what is committed has been appended, and what was read had not been trimmed before.
        with self.at(shard).pipeline(transaction=False) as pipeline:
            pipeline.mget(streams.position(shard), streams.checksum(shard))
            pipeline.execute_command(  # type: ignore[no-untyped-call]
                "XREAD", "COUNT", count, "STREAMS", streams.commands(shard), str(after)
            )
            pipeline.execute_command("LRANGE", streams.snapshots(shard), 0, -1)  # type: ignore[no-untyped-call]
            pipeline.hgetall(streams.skips(shard))
            (current, checksum), response, saved, skips = pipeline.execute()
        position = ShardPosition.parse(current)
        entries = [entry for entry in _entries(response) if entry.stream_id <= position.stream_id]
        ids = [_saved(value, 0).stream_id for value in saved]
        trimmed_to = min(ids) if len(ids) > 1 else STREAM_START
        # All further reads and writes must go to the server from which this was read.
        self._hold(shard)
        try:
            if after >= trimmed_to:
                self._check_followed(shard, after)
            if self._replicas_min and entries:
                self._write_waited(shard, entries[-1].stream_id)
        finally:
            self._release(shard)
        _, last = self._followed.get(shard, (0, None))
        self._followed[shard] = (self._connection(shard), entries[-1] if entries else last)
        entries = with_skips(entries, _by_id(skips))
        return Committed(entries, position, trimmed_to, _checksum(checksum))

    def _check_followed(self, shard: int, after: StreamId) -> None:
        """Check that the input still contains a reader's entries up to `after` after a reconnection.

        A replica that becomes master has a prefix of the old master's writes. If the last entry exists, all
        earlier ones do.

        Raises:
            Rewound: it does not; a reader that has applied the entries must start again.
        """
        connection, last = self._followed.get(shard, (self._connection(shard), None))
        if connection == self._connection(shard) or after == STREAM_START:
            return
        rows = _run(self.at(shard), "XRANGE", streams.commands(shard), str(after), str(after))
        fields = last.fields if last is not None and last.stream_id == after else None
        if not rows or (fields is not None and _fields(rows[0][1]) != fields):
            raise Rewound(f"shard {shard}: input {after}, which was committed, was lost")

    @override
    def fruitless_takeovers(self, shard: int) -> int:
        value: Any = self.at(shard).get(streams.takeovers(shard))
        if value is None:
            return 0
        takeovers = Takeovers.parse(value)
        return takeovers.fruitless if takeovers.stream_id == self.position(shard).stream_id else 0

    @override
    def renew_lease(self, shard: int, leader: Leader) -> None:
        """While Redis is unreachable the lease is left unchanged.

        This method is called in the middle of a batch, which must not be restarted.
        """
        is_held = self._is_held(shard)
        if shard in self._held:
            self._held[shard] = leader
        try:
            if self._in_flight is not None:
                self._in_flight.renew(self._renewal(shard, leader))
                return
            _run(self.at(shard), *self._renewal(shard, leader))
        except Unreachable as error:
            _log.debug("lease not renewed", shard=shard, error=str(error))
            if is_held:
                # The commit must notice that the connection was lost.
                self._hold(shard)

    @override
    def release_lease(self, shard: int, leader: Leader) -> None:
        self._held.pop(shard, None)
        _run(self.at(shard), "EVAL", _RELEASE, 1, streams.lease(shard), leader.epoch)

    @override
    def lease(self, shard: int) -> Sight:
        key = streams.lease(shard)
        with self.at(shard).pipeline(transaction=False) as pipeline:
            pipeline.get(key)
            pipeline.pttl(key)
            value, remaining_ms = pipeline.execute()
        if value is None:
            return Sight(None)
        leader = Leader.parse(value)
        return Sight(leader, max(0, remaining_ms), self._knows(shard, leader))

    def _knows(self, shard: int, leader: Leader) -> bool:
        if not leader.client_id:
            return True
        try:
            clients: Any = _run(self.at(shard), "CLIENT", "LIST", "ID", leader.client_id)
        except redis.ResponseError:
            # Not every Redis allows this command; then only the lease decides.
            return True
        return f" name={leader.connection} ".encode() in clients

    @override
    def announce(self, shard: int, standby: Standby) -> None:
        key = streams.standbys(shard)
        _run(self.at(shard), "EVAL", _ANNOUNCE, 1, key, standby.process, standby.text(), STANDBY_TTL_MS)

    @override
    def withdraw(self, shard: int, standby: Standby) -> None:
        self.at(shard).hdel(streams.standbys(shard), standby.process)

    @override
    def standbys(self, shard: int) -> list[Standby]:
        with self.at(shard).pipeline(transaction=False) as pipeline:
            pipeline.hgetall(streams.standbys(shard))
            pipeline.time()
            values, (seconds, microseconds) = pipeline.execute()
        now_ms = seconds * 1_000 + microseconds // 1_000
        standbys = [Standby.parse(process.decode(), value, now_ms) for process, value in values.items()]
        return [standby for standby in standbys if standby.age_ms <= STANDBY_TTL_MS]

    @override
    def commit(self, commit: Commit) -> None:
        self.begin_commit(commit)
        self.finish_commit()

    @override
    def begin_commit(self, commit: Commit, publish: Sequence[tuple[str, bytes]] = ()) -> None:
        shard, expected = commit.shard, commit.expected
        skipped = (str(commit.skip.stream_id), commit.skip.frame) if commit.skip is not None else ("", "")
        arguments: list[Any] = [expected.encode(), str(commit.stream_id), commit.events]
        arguments += (len(commit.outbox), commit.checksum, *skipped)
        for target, frame in commit.outbox.items():
            arguments += (target, frame)
        for letter in commit.dead_letters:
            parts = [part for pair in letter.fields().items() for part in pair]
            arguments += (len(parts), *parts)
        keys = [
            key(shard)
            for key in (
                *(streams.position, streams.events, streams.outbox, streams.dead_letters, streams.commands),
                streams.checksum,
                # Only with a skip, so that the ACL of an earlier release suffices until an operator needs
                # this.
                *((streams.skips, streams.skip) if commit.skip is not None else ()),
            )
        ]
        commands: list[Sequence[Any]] = [("PUBLISH", channel, payload) for channel, payload in publish]
        commands.append(("EVALSHA", self._commit.sha, len(keys), *keys, *arguments))
        if self._replicas_min:
            commands.append(("WAIT", self._replicas_min, WAIT_MS))
        self._in_flight = in_flight = _CommitInFlight(commit, commands, keys, arguments, len(publish))
        try:
            in_flight.pending = PendingAnswers(self.at(shard), *commands)
        except Unreachable as error:
            in_flight.error = error

    @override
    def finish_commit(self) -> None:
        """If the answer is lost, the position tells whether the batch was written.

        Nobody else writes in this epoch.
        """
        in_flight, self._in_flight = self._in_flight, None
        assert in_flight is not None  # `begin_commit` was called before
        commit, shard, expected = in_flight.commit, in_flight.commit.shard, in_flight.commit.expected
        asked_again = False
        while True:
            try:
                if asked_again:
                    self._check_last_input(commit)
                    self._keep_lease(shard)
                    in_flight.pending = PendingAnswers(self.at(shard), *in_flight.commands)
                written, acknowledged = self._answers(in_flight)
                if not written and asked_again:
                    committed = ShardPosition(expected.epoch, commit.stream_id).encode()
                    written = self._confirm(keys=in_flight.keys[:1], args=[committed], client=self.at(shard))
                if written:
                    self._await_replicas(shard, acknowledged)
                    return
                current = self.position(shard)
            except Unreachable as error:
                if not asked_again:
                    _log.warning("commit is not sure yet", shard=shard, error=str(error))
                asked_again = True
                time.sleep(RETRY_AFTER_S)
                continue
            raise _displaced(shard, expected, current)

    def _answers(self, in_flight: "_CommitInFlight") -> tuple[bool, int]:
        """Return whether a batch was written, and how many replicas have it.

        Raises:
            Unreachable: this is unknown.
        """
        if in_flight.error is not None:
            error, in_flight.error = in_flight.error, None
            raise error
        assert in_flight.pending is not None  # otherwise there is an error
        written, *waited = in_flight.pending.answers()[in_flight.published :][: 1 + bool(self._replicas_min)]
        if isinstance(written, redis.exceptions.NoScriptError):
            return bool(
                self._commit(
                    keys=in_flight.keys, args=in_flight.arguments, client=self.at(in_flight.commit.shard)
                )
            ), 0
        for answer in (written, *waited):
            if isinstance(answer, Exception):
                raise answer
        return bool(written), int(waited[0]) if waited else 0

    def _keep_lease(self, shard: int) -> None:
        # Replicas may be missing for long; a standby could only wait for them, too.
        if (leader := self._held.get(shard)) is not None:
            _run(self.at(shard), *self._renewal(shard, leader))

    def _check_last_input(self, commit: Commit) -> None:
        """Check on the current connection that the commit's input still exists, and hold the connection.

        A replica that becomes master has a prefix of the old master's writes. If the last input entry exists,
        all earlier ones do. The other entries read with it may already be applied, for the next commits.

        Raises:
            Rewound: it does not exist; the new master never had it, and may have other input at the same
                position.
        """
        shard = commit.shard
        read = [entry for entry in self._inputs_read if entry.stream == streams.commands(shard)]
        last = read[-1] if any(entry.stream_id == commit.stream_id for entry in read) else None
        self._release(shard)
        if last is None:
            self.position(shard)
        else:
            rows = _run(self.at(shard), "XRANGE", last.stream, str(last.stream_id), str(last.stream_id))
            if [_fields(fields) for _, fields in rows] != [last.fields]:
                raise Rewound(
                    f"shard {shard}: input {last.stream_id} was lost; what it led to was never said"
                )
        self._hold(shard)

    def reaches(self, shard: int, position: ShardPosition) -> bool:
        """Return whether the log still contains `position`.

        Later calls use the same server, until the log is read again.

        The position of a standby has no epoch: there must be committed input at its id.
        """
        self._release(shard)
        current = self.position(shard)
        self._hold(shard)
        if current.stream_id < position.stream_id:
            return False
        if position.epoch:
            return current.epoch == position.epoch
        stream_id = str(position.stream_id)
        return bool(_run(self.at(shard), "XRANGE", streams.commands(shard), stream_id, stream_id))

    @override
    def order_skip(self, shard: int, frame: bytes) -> None:
        _run(self.at(shard), *reserved("SET", streams.skip(shard), frame))
        self._await_replicas(shard)

    @override
    def skip(self, shard: int) -> bytes | None:
        value: Any = self.at(shard).get(streams.skip(shard))
        return value if value is None else bytes(value)

    @override
    def drop_skip(self, shard: int, frame: bytes) -> None:
        _run(self.at(shard), "EVAL", _DROP, 1, streams.skip(shard), frame)

    @override
    def skips(self, shard: int) -> dict[StreamId, bytes]:
        return _by_id(self.at(shard).hgetall(streams.skips(shard)))

    @override
    def is_halted(self, shard: int) -> bool:
        return bool(self.at(shard).exists(streams.halted(shard)))

    @override
    def undelivered(self, shard: int) -> list[Outgoing]:
        return [
            Outgoing(
                StreamId.parse(stream_id),
                {int(target): frame for target, frame in _fields(fields).items() if target.isdigit()},
            )
            for stream_id, fields in _run(self.at(shard), "XRANGE", streams.outbox(shard), "-", "+")
        ]

    @override
    def deliver(self, shard: int, outgoing: Outgoing) -> None:
        if self._servers is not None and self._servers.are_several:
            for target, frame in outgoing.frames.items():
                self._deliver_elsewhere(target, frame)
        else:
            with self._redis.pipeline(transaction=False) as pipeline:
                for target, frame in outgoing.frames.items():
                    pipeline.execute_command(*_message(target, frame))  # type: ignore[no-untyped-call]
                pipeline.execute()
        self._drop_delivered(shard, outgoing)

    def _drop_delivered(self, shard: int, outgoing: Outgoing) -> None:
        fields = (part for target, frame in outgoing.frames.items() for part in (target, frame))
        self._remove(
            keys=[streams.outbox(shard)], args=[str(outgoing.stream_id), *fields], client=self.at(shard)
        )

    def _deliver_elsewhere(self, target: int, frame: bytes) -> None:
        # On one server, replicas receive the message before its removal from the outbox; with two servers,
        # wait for the replicas of the target.
        client = self.at(target)
        with client.pipeline(transaction=False) as pipeline:
            pipeline.execute_command(*_message(target, frame))  # type: ignore[no-untyped-call]
            if self._replicas_min:
                pipeline.execute_command("WAIT", self._replicas_min, WAIT_MS)  # type: ignore[no-untyped-call]
            _, *acknowledged = pipeline.execute()
        if acknowledged and acknowledged[0] < self._replicas_min:
            raise redis.TimeoutError(f"shard {target} lacks replicas")

    @override
    def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        with self._redis.pipeline(transaction=False) as pipeline:
            for channel, payload in messages:
                pipeline.publish(channel, payload)
            pipeline.execute()

    @override
    def publish_answers(
        self, shard: int, position: ShardPosition, answers: Sequence[tuple[str, bytes]]
    ) -> None:
        if answers:
            _run(self.at(shard), *_answering(shard, position, answers))

    @override
    def write_configuration(self, shard: int, position: ShardPosition, configuration: bytes) -> bool:
        """With replicas, the write is replicated before the next input is read."""
        keys = (streams.position(shard), streams.configuration(shard))
        is_held = self._is_held(shard)
        self._hold(shard)
        try:
            written = bool(
                _run(
                    self.at(shard),
                    "EVAL",
                    _WRITE_CONFIGURATION,
                    len(keys),
                    *keys,
                    position.encode(),
                    configuration,
                )
            )
            if written:
                self._await_replicas(shard)
            return written
        finally:
            if not is_held:
                self._release(shard)

    @override
    def configuration(self, shard: int) -> bytes | None:
        value: Any = self.at(shard).get(streams.configuration(shard))
        return value if isinstance(value, bytes) else None

    @override
    def save_snapshot(
        self, shard: int, snapshot: bytes, stream_id: StreamId = STREAM_START, *, replaces: bool = False
    ) -> None:
        client = self.at(shard)
        name = secrets.token_hex(8)
        key = streams.snapshot(shard, name)
        compressed = zlib.compress(snapshot, _SNAPSHOT_LEVEL)
        patient_until = time.monotonic() + _REWRITE_WAIT_S
        for first in range(0, len(compressed), SNAPSHOT_PIECE_BYTES):
            while time.monotonic() < patient_until and client.info("persistence")["aof_rewrite_in_progress"]:
                time.sleep(_REWRITE_POLL_S)
            piece = compressed[first : first + SNAPSHOT_PIECE_BYTES]
            _run(client, "EVAL", _ADD_PIECE, 1, key, piece, _UNFINISHED_TTL_S)
        prefix = streams.snapshot(shard, "")
        keys = (streams.snapshots(shard), key)
        _run(client, "EVAL", _KEEP_SNAPSHOT, len(keys), *keys, str(stream_id), name, prefix, int(replaces))
        self._await_replicas(shard)

    @override
    def saved_snapshots(self, shard: int) -> list[SavedSnapshot]:
        with self.at(shard).pipeline(transaction=False) as pipeline:
            pipeline.execute_command("LRANGE", streams.snapshots(shard), 0, -1)  # type: ignore[no-untyped-call]
            pipeline.time()
            values, (seconds, microseconds) = pipeline.execute()
        return [_saved(value, seconds * 1_000 + microseconds // 1_000) for value in values]

    @override
    def read_snapshot(self, shard: int, saved: SavedSnapshot) -> bytes:
        client = self.at(shard)
        self._followed[shard] = (self._connection(shard), None)
        if not saved.name:
            whole: Any = _run(client, "LRANGE", streams.snapshots(shard), 0, -1)
            return next((snapshot for snapshot in whole if not snapshot.startswith(_SAVED)), b"")
        key = streams.snapshot(shard, saved.name)
        pieces: list[bytes] = []
        while True:
            read: Any = client.lrange(key, len(pieces), len(pieces) + _SNAPSHOT_PIECES - 1)
            pieces += read
            if len(read) < _SNAPSHOT_PIECES:
                return _decompressed(b"".join(pieces))

    def snapshot_bytes(self, shard: int, saved: SavedSnapshot) -> int:
        """Return the size of a kept snapshot in Redis."""
        if not saved.name:
            return len(self.read_snapshot(shard, saved))
        client, key = self.at(shard), streams.snapshot(shard, saved.name)
        pieces = int(_run(client, "LLEN", key))
        last: bytes | None = _run(client, "LINDEX", key, -1)
        return max(0, pieces - 1) * SNAPSHOT_PIECE_BYTES + len(last or b"")

    @override
    def snapshots(self, shard: int) -> list[bytes]:
        return [self.read_snapshot(shard, saved) for saved in self.saved_snapshots(shard)]

    @override
    def mark_passed(self, shard: int, reader: str, stream_id: StreamId) -> None:
        _run(self.at(shard), *reserved("HSET", streams.passed(shard), reader, str(stream_id)))

    @override
    def passed(self, shard: int) -> dict[str, StreamId]:
        stream_ids: Any = self.at(shard).hgetall(streams.passed(shard))
        return {reader.decode(): StreamId.parse(stream_id) for reader, stream_id in stream_ids.items()}


def keep_unparsed(client: redis.Redis) -> None:
    """Return stream entries unparsed: the library's parsing costs more than the reading itself."""
    for command in ("XREAD", "XREADGROUP", "XRANGE"):
        client.set_response_callback(command, _identity)


def _run(client: redis.Redis, *arguments: Any) -> Any:
    return client.execute_command(*arguments)  # type: ignore[no-untyped-call]  # the library lacks the annotation


def _message(target: int, frame: bytes) -> tuple[Any, ...]:
    return reserved("XADD", streams.commands(target), "*", MESSAGES_FIELD, frame)


def _displaced(shard: int, expected: ShardPosition, current: ShardPosition) -> Fenced:
    """Return why the position differs from the one that this writer set."""
    if current.epoch < expected.epoch or (
        current.epoch == expected.epoch and current.stream_id < expected.stream_id
    ):
        return Rewound(f"shard {shard} is back at {current.stream_id}; it had come to {expected.stream_id}")
    return Fenced(f"shard {shard} was taken over after epoch {expected.epoch}")


def _identity(response: Any, **_options: Any) -> Any:
    return response


def _answering(shard: int, position: ShardPosition, answers: Sequence[tuple[str, bytes]]) -> tuple[Any, ...]:
    keys = (streams.position(shard),)
    return (
        "EVAL",
        _ANSWER,
        len(keys),
        *keys,
        position.encode(),
        *(part for pair in answers for part in pair),
    )


def _decompressed(snapshot: bytes) -> bytes:
    try:
        return zlib.decompress(snapshot)
    except zlib.error:
        return snapshot  # an earlier version's snapshot; or it is torn, and its digest will show that


def _saved(value: bytes, now_ms: int) -> SavedSnapshot:
    if not value.startswith(_SAVED):  # the snapshot itself, as earlier versions stored it
        return SavedSnapshot(STREAM_START, 0)
    _, stream_id, time_ms, name = value.decode().split("|")
    return SavedSnapshot(StreamId.parse(stream_id), max(0, now_ms - int(time_ms)), name)


def _checksum(value: Any) -> StateChecksum | None:
    return None if value is None else StateChecksum.parse(value)


def _by_id(frames: Any) -> dict[StreamId, bytes]:
    return {StreamId.parse(stream_id): value for stream_id, value in frames.items()}


def _fields(flat: list[bytes]) -> dict[bytes, bytes]:
    if len(flat) == 2:  # the usual case
        return {flat[0]: flat[1]}
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _entries(response: Any) -> list[Entry]:
    entries: list[Entry] = []
    for name, rows in response or ():
        stream = name.decode()
        entries += [Entry(stream, StreamId.parse(stream_id), _fields(flat)) for stream_id, flat in rows]
    return entries
