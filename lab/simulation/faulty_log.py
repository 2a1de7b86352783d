"""One process's connection to the stream log: every call of `StreamLog` in steps, each of which may fail.

The log behind it is the in-memory implementation. Where `RedisStreamLog` needs several commands for one call
(deliver: append to each target, then trim), this does, too; where it looks up the outcome of a commit whose
answer was lost, this does, too.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from typing_extensions import override

from lab.simulation.process import Process
from lab.simulation.shortage import RETRY_MS
from protocol import streams
from protocol.lease import Leader, Sight, Standby
from protocol.positions import ShardPosition, StateChecksum
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import MESSAGES_FIELD
from stream_log.interface import Commit, Committed, Entry, Fenced, Outgoing, SavedSnapshot
from stream_log.memory_log import MemoryStreamLog
from stream_log.redis_log import Unreachable

ACTIONS_PER_RETRY = 4
"""Number of actions while a commit waits before it retries."""
ENTRY_BYTES = 40
"""What an entry takes besides its fields, about."""


class LosingLog(MemoryStreamLog):
    """The log itself, which can also lose its end, and knows how large it is."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        super().__init__(now_ms)
        self._sizes: Counter[str] = Counter()

    def size(self, shard: int) -> int:
        """Return how many bytes a shard's log takes: its input, its events and its outbox."""
        return sum(self._sizes[name(shard)] for name in (streams.commands, streams.events, streams.outbox))

    def _append_as(self, stream: str, stream_id: StreamId, fields: Mapping[bytes, bytes]) -> StreamId:
        last_id = self._last_ids[stream]
        appended = super()._append_as(stream, stream_id, fields)
        if stream_id > last_id:  # otherwise it has come back here with another id
            self._sizes[stream] += _bytes_of(fields)
        return appended

    @override
    def trim(self, stream: str, before: StreamId) -> None:
        super().trim(stream, before)
        self._sizes[stream] = sum(_bytes_of(entry.fields) for entry in self._streams[stream])

    def entries(self, stream: str) -> list[Entry]:
        """Return what a stream holds."""
        return list(self._streams[stream])

    def tear(self, shard: int) -> None:
        """Damage the newest snapshot."""
        (stream_id, saved_ms, snapshot), *older = self._snapshots[shard]
        self._snapshots[shard] = [(stream_id, saved_ms, snapshot[: len(snapshot) * 2 // 3]), *older]

    def lose(self, stream: str, first: StreamId) -> int:
        """Lose the entries from `first` on; return their number."""
        entries = self._streams[stream]
        self._streams[stream] = kept = [entry for entry in entries if entry.stream_id < first]
        self._last_ids[stream] = kept[-1].stream_id if kept else STREAM_START
        self._sizes[stream] = sum(_bytes_of(entry.fields) for entry in kept)
        return len(entries) - len(kept)


def _bytes_of(fields: Mapping[bytes, bytes]) -> int:
    return ENTRY_BYTES + sum(len(name) + len(value) for name, value in fields.items())


class Watch:
    """An observer of the shards, called before anything else can happen.

    Does nothing by itself.
    """

    def took_over(self, process: Process, shard: int, position: ShardPosition) -> None:
        """Record that a process leads the shard from now on."""

    def committed(self, process: Process, commit: Commit) -> None:
        """Record that a batch was written."""

    def renewed(self, shard: int, leader: Leader) -> None:
        """Note that a lease was renewed, unless another worker has taken over."""

    def published(self, process: Process, messages: Sequence[tuple[str, bytes]]) -> None:
        """Record what was published."""


class _CommitInFlight(NamedTuple):
    """A commit that was sent."""

    commit: Commit
    publish: Sequence[tuple[str, bytes]]
    error: Exception | None = None
    """What its answer will say; None: it is written."""


class FaultyLog(MemoryStreamLog):
    """`StreamLog` for one process, on the streams of `log`.

    What is not overridden here happens without faults.
    """

    def __init__(self, log: MemoryStreamLog, process: Process, watch: Watch) -> None:
        self.__dict__.update(vars(log))
        self._log = log
        self._process = process
        self._call = process.call
        self._write = process.write
        self._held: dict[int, Leader] = {}
        """Shard -> who leads it by this process."""
        self._watch = watch

    @override
    def write_configuration(self, shard: int, position: ShardPosition, configuration: bytes) -> bool:
        return self._write(
            "write_configuration", lambda: self._log.write_configuration(shard, position, configuration)
        )

    @override
    def configuration(self, shard: int) -> bytes | None:
        return self._call("configuration", lambda: self._log.configuration(shard))

    @override
    def append(self, stream: str, fields: Mapping[bytes, bytes]) -> StreamId:
        return self._write("append", lambda: self._log.append(stream, fields))

    def append_new_work(self, stream: str, fields: Mapping[bytes, bytes]) -> StreamId:
        """Append as a gateway does: not out of the reserve."""
        return self._write("append", lambda: self._log.append(stream, fields), is_reserved=False)

    @override
    def read(self, after: Mapping[str, StreamId], count: int, block_ms: int) -> list[Entry]:
        return self._call("read", lambda: self._log.read(after, count, block_ms))

    @override
    def last_id(self, stream: str) -> StreamId:
        return self._call("last_id", lambda: self._log.last_id(stream))

    @override
    def trim(self, stream: str, before: StreamId) -> None:
        self._write("trim", lambda: self._log.trim(stream, before))

    @override
    def position(self, shard: int) -> ShardPosition:
        return self._call("position", lambda: self._log.position(shard))

    @override
    def checksum(self, shard: int) -> StateChecksum | None:
        return self._call("checksum", lambda: self._log.checksum(shard))

    @override
    def take_over(
        self, shard: int, candidate: Leader | None = None, over: Leader | None = None
    ) -> ShardPosition:

        def take_over() -> ShardPosition:
            position = self._log.take_over(shard, candidate, over)
            if candidate is not None:
                self._held[shard] = candidate._replace(epoch=position.epoch)
            self._watch.took_over(self._process, shard, position)
            return position

        return self._write("take_over", take_over)

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
        self.publish(publish)
        self.publish_answers(shard, position, answers)
        if renew is not None:
            self._renew(shard, renew)
        return self._call("read_inputs", lambda: self._log.read_inputs(shard, position, count, block_ms))

    @override
    def read_committed(self, shard: int, after: StreamId, count: int) -> Committed:
        # One command for both, so they are of one moment.
        position, checksum = self._call(
            "position", lambda: (self._log.position(shard), self._log.checksum(shard))
        )
        entries = self.read({streams.commands(shard): after}, count, 0)
        ids = [saved.stream_id for saved in self.saved_snapshots(shard)]
        return Committed(
            [entry for entry in entries if entry.stream_id <= position.stream_id],
            position,
            min(ids) if len(ids) > 1 else STREAM_START,
            checksum,
        )

    @override
    def fruitless_takeovers(self, shard: int) -> int:
        return self._call("fruitless_takeovers", lambda: self._log.fruitless_takeovers(shard))

    @override
    def renew_lease(self, shard: int, leader: Leader) -> None:
        """While Redis is unreachable the lease is left unchanged: this is called in the middle of a batch."""
        with suppress(*Unreachable):
            self._renew(shard, leader)

    def _renew(self, shard: int, leader: Leader) -> None:
        def renew() -> None:
            self._log.renew_lease(shard, leader)
            self._watch.renewed(shard, leader)

        self._held[shard] = leader
        self._write("renew_lease", renew)

    @override
    def release_lease(self, shard: int, leader: Leader) -> None:
        self._write("release_lease", lambda: self._log.release_lease(shard, leader))

    @override
    def lease(self, shard: int) -> Sight:
        return self._call("lease", lambda: self._log.lease(shard))

    @override
    def announce(self, shard: int, standby: Standby) -> None:
        self._write("announce", lambda: self._log.announce(shard, standby))

    @override
    def begin_commit(self, commit: Commit, publish: Sequence[tuple[str, bytes]] = ()) -> None:
        """What is sent has come to Redis at once, or never.

        The sender does not know it yet.
        """
        self._in_flight = _CommitInFlight(commit, publish)
        try:
            self._send_commit(commit, publish)
        except (Fenced, *Unreachable) as error:
            self._in_flight = _CommitInFlight(commit, publish, error)

    @override
    def finish_commit(self) -> None:
        commit, publish, error = self._in_flight
        asked_again = False
        while error is not None:
            if isinstance(error, Fenced):
                written = ShardPosition(commit.expected.epoch, commit.stream_id)
                if asked_again and self.position(commit.shard) == written:
                    return
                raise error
            asked_again, error = True, None
            # A waiting process lets the clock advance; otherwise Redis would refuse forever.
            self._process.surroundings.now += RETRY_MS
            self._process.stand_still(ACTIONS_PER_RETRY)
            try:
                if (leader := self._held.get(commit.shard)) is not None:
                    self._renew(commit.shard, leader)
                self._send_commit(commit, publish)
            except (Fenced, *Unreachable) as raised:
                error = raised

    @override
    def commit(self, commit: Commit) -> None:
        self.begin_commit(commit)
        self.finish_commit()

    def _send_commit(self, commit: Commit, publish: Sequence[tuple[str, bytes]]) -> None:
        def write() -> None:
            self._log.commit(commit)
            self._watch.committed(self._process, commit)

        self.publish(publish)
        self._write("commit", write)

    @override
    def undelivered(self, shard: int) -> list[Outgoing]:
        return self._call("undelivered", lambda: self._log.undelivered(shard))

    @override
    def deliver(self, shard: int, outgoing: Outgoing) -> None:
        for target, frame in outgoing.frames.items():
            self._write("deliver", self._appending(target, frame))
        self.trim(streams.outbox(shard), outgoing.stream_id.following())

    def _appending(self, target: int, frame: bytes) -> Callable[[], StreamId]:
        return lambda: self._log.append(streams.commands(target), {MESSAGES_FIELD: frame})

    @override
    def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        if messages:
            self._call("publish", lambda: self._watch.published(self._process, messages))

    @override
    def publish_answers(
        self, shard: int, position: ShardPosition, answers: Sequence[tuple[str, bytes]]
    ) -> None:

        def publish() -> None:
            if self._log.position(shard) == position:
                self._watch.published(self._process, answers)

        if answers:
            self._call("publish_answers", publish)

    @override
    def save_snapshot(
        self, shard: int, snapshot: bytes, stream_id: StreamId = STREAM_START, *, replaces: bool = False
    ) -> None:
        self._write(
            "save_snapshot", lambda: self._log.save_snapshot(shard, snapshot, stream_id, replaces=replaces)
        )

    @override
    def saved_snapshots(self, shard: int) -> list[SavedSnapshot]:
        return self._call("saved_snapshots", lambda: self._log.saved_snapshots(shard))

    @override
    def read_snapshot(self, shard: int, saved: SavedSnapshot) -> bytes:
        return self._call("read_snapshot", lambda: self._log.read_snapshot(shard, saved))

    @override
    def mark_passed(self, shard: int, reader: str, stream_id: StreamId) -> None:
        self._write("mark_passed", lambda: self._log.mark_passed(shard, reader, stream_id))

    @override
    def passed(self, shard: int) -> dict[str, StreamId]:
        return self._call("passed", lambda: self._log.passed(shard))
