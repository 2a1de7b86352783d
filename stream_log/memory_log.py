"""The stream log in memory, for tests and simulation.

Time is passed in as a function.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from typing_extensions import override

from protocol import streams
from protocol.lease import STANDBY_TTL_MS, Leader, Sight, Standby
from protocol.positions import NEW_SHARD, ShardPosition, StateChecksum
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import EVENTS_FIELD, MESSAGES_FIELD
from stream_log.interface import (
    Commit,
    Committed,
    Entry,
    Fenced,
    Outgoing,
    SavedSnapshot,
    StreamLog,
    with_skips,
)


class MemoryStreamLog(StreamLog):
    """`StreamLog` in one process.

    It never waits: where Redis would block, the answer is empty.
    """

    def __init__(self, now_ms: Callable[[], int]) -> None:
        """Create an empty log whose clock is `now_ms`."""
        self.now_ms = now_ms
        self._streams: defaultdict[str, list[Entry]] = defaultdict(list)
        self._last_ids: defaultdict[str, StreamId] = defaultdict(lambda: STREAM_START)
        self._positions: dict[int, ShardPosition] = {}
        self._takeovers: dict[int, tuple[StreamId, int]] = {}
        self._checksums: dict[int, StateChecksum] = {}
        self._configurations: dict[int, bytes] = {}
        self._heard: dict[int, StreamId] = {}
        self._snapshots: defaultdict[int, list[tuple[StreamId, int, bytes]]] = defaultdict(list)
        """Shard -> (last entry, time saved, bytes), newest first."""
        self._leases: dict[int, tuple[Leader, int]] = {}
        """Shard -> (leader, expiry)."""
        self._standbys: defaultdict[int, dict[str, tuple[Standby, int]]] = defaultdict(dict)
        self._connections: dict[str, int] = {}
        """Process -> the number of its connection, from its first lease until `disconnect`."""
        self._connection_count = 0
        self._passed: defaultdict[int, dict[str, StreamId]] = defaultdict(dict)
        self._skip: dict[int, bytes] = {}
        self._halted: set[int] = set()
        self._skips: defaultdict[int, dict[StreamId, bytes]] = defaultdict(dict)
        self._refused: Fenced | None = None
        """Why the last batch that was begun was not written."""
        self.published: list[tuple[str, bytes]] = []
        """Every (channel, payload), in order."""

    @override
    def append(self, stream: str, fields: Mapping[bytes, bytes]) -> StreamId:
        last, now_ms = self._last_ids[stream], self.now_ms()
        return self._append_as(stream, StreamId(now_ms) if now_ms > last.ms else last.following(), fields)

    def _append_as(self, stream: str, stream_id: StreamId, fields: Mapping[bytes, bytes]) -> StreamId:
        if stream_id <= self._last_ids[stream]:
            return self.append(stream, fields)
        self._streams[stream].append(Entry(stream, stream_id, dict(fields)))
        self._last_ids[stream] = stream_id
        return stream_id

    @override
    def read(self, after: Mapping[str, StreamId], count: int, block_ms: int) -> list[Entry]:
        return [
            entry for stream, stream_id in after.items() for entry in self._after(stream, stream_id, count)
        ]

    def _after(self, stream: str, stream_id: StreamId, count: int) -> list[Entry]:
        entries = self._streams[stream]
        first = bisect_right(entries, stream_id, key=lambda entry: entry.stream_id)
        return entries[first : first + count]

    @override
    def last_id(self, stream: str) -> StreamId:
        return self._last_ids[stream]

    @override
    def trim(self, stream: str, before: StreamId) -> None:
        self._streams[stream] = [entry for entry in self._streams[stream] if entry.stream_id >= before]

    @override
    def position(self, shard: int) -> ShardPosition:
        return self._positions.get(shard, NEW_SHARD)

    @override
    def checksum(self, shard: int) -> StateChecksum | None:
        return self._checksums.get(shard)

    @override
    def positions(self, shards: Sequence[int]) -> dict[int, ShardPosition]:
        return {shard: self.position(shard) for shard in shards}

    @override
    def take_over(
        self, shard: int, candidate: Leader | None = None, over: Leader | None = None
    ) -> ShardPosition:
        if candidate is not None and self.lease(shard).leader not in (None, over):
            raise Fenced(f"another worker leads shard {shard}")
        epoch, stream_id = self.position(shard)
        self._positions[shard] = ShardPosition(epoch + 1, stream_id)
        self._takeovers[shard] = (stream_id, self.fruitless_takeovers(shard) + 1)
        last = self._last_ids[streams.queries(shard)]
        if candidate is None:
            self._heard[shard] = last
        else:
            recent = StreamId(max(0, self.now_ms() - 2 * candidate.lease_ms))
            self._heard[shard] = min(recent, last)
            self.renew_lease(shard, candidate._replace(epoch=epoch + 1))
        return self._positions[shard]

    @override
    def fruitless_takeovers(self, shard: int) -> int:
        stream_id, count = self._takeovers.get(shard, (STREAM_START, 0))
        return count if stream_id == self.position(shard).stream_id else 0

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
            self.renew_lease(shard, renew)
        if self.position(shard) != position:
            raise Fenced(f"shard {shard} was taken over after epoch {position.epoch}")
        commands = self._after(streams.commands(shard), position.stream_id, count)
        queries = self._after(streams.queries(shard), self._heard[shard], count)
        if queries:
            self._heard[shard] = queries[-1].stream_id
        return commands + queries

    @override
    def read_committed(self, shard: int, after: StreamId, count: int) -> Committed:
        position = self.position(shard)
        entries = self._after(streams.commands(shard), after, count)
        ids = [stream_id for stream_id, _, _ in self._snapshots[shard]]
        return Committed(
            with_skips(
                [entry for entry in entries if entry.stream_id <= position.stream_id], self._skips[shard]
            ),
            position,
            min(ids) if len(ids) > 1 else STREAM_START,
            self.checksum(shard),
        )

    @override
    def renew_lease(self, shard: int, leader: Leader) -> None:
        if self.position(shard).epoch != leader.epoch:
            return
        if leader.process not in self._connections:
            self._connection_count += 1
            self._connections[leader.process] = self._connection_count
        held = leader._replace(client_id=self._connections[leader.process], connection=leader.process)
        self._leases[shard] = (held, self.now_ms() + leader.lease_ms)

    @override
    def release_lease(self, shard: int, leader: Leader) -> None:
        if shard in self._leases and self._leases[shard][0].epoch == leader.epoch:
            del self._leases[shard]

    @override
    def lease(self, shard: int) -> Sight:
        leader, until_ms = self._leases.get(shard, (None, 0))
        remaining_ms = until_ms - self.now_ms()
        if leader is None or remaining_ms <= 0:
            return Sight(None)
        return Sight(leader, remaining_ms, self._connections.get(leader.connection) == leader.client_id)

    def disconnect(self, process: str) -> None:
        """Close the connection of a process, as the operating system does when it is killed.

        Its next lease has another connection.
        """
        self._connections.pop(process, None)

    @override
    def announce(self, shard: int, standby: Standby) -> None:
        self._standbys[shard][standby.process] = (standby, self.now_ms())

    @override
    def withdraw(self, shard: int, standby: Standby) -> None:
        self._standbys[shard].pop(standby.process, None)

    @override
    def standbys(self, shard: int) -> list[Standby]:
        now_ms = self.now_ms()
        announced = [
            standby._replace(age_ms=now_ms - said_ms) for standby, said_ms in self._standbys[shard].values()
        ]
        return [standby for standby in announced if standby.age_ms <= STANDBY_TTL_MS]

    @override
    def begin_commit(self, commit: Commit, publish: Sequence[tuple[str, bytes]] = ()) -> None:
        self.publish(publish)
        self._refused = None
        try:
            self.commit(commit)
        except Fenced as error:
            self._refused = error

    @override
    def finish_commit(self) -> None:
        if self._refused is not None:
            raise self._refused

    @override
    def commit(self, commit: Commit) -> None:
        shard = commit.shard
        if self.position(shard) != commit.expected:
            raise Fenced(f"shard {shard} was taken over after epoch {commit.expected.epoch}")
        if commit.events:
            self._append_as(streams.events(shard), commit.stream_id, {EVENTS_FIELD: commit.events})
        if commit.outbox:
            fields = {str(target).encode(): frame for target, frame in commit.outbox.items()}
            self._append_as(streams.outbox(shard), commit.stream_id, fields)
        for letter in commit.dead_letters:
            self.append(streams.dead_letters(shard), letter.fields())
        self._positions[shard] = ShardPosition(commit.expected.epoch, commit.stream_id)
        self._checksums.pop(shard, None)
        if commit.checksum:
            self._checksums[shard] = StateChecksum(commit.stream_id, commit.checksum)
        if commit.skip is not None:
            self._skips[shard][commit.skip.stream_id] = commit.skip.frame
            self.drop_skip(shard, commit.skip.frame)

    @override
    def order_skip(self, shard: int, frame: bytes) -> None:
        self._skip[shard] = frame

    @override
    def skip(self, shard: int) -> bytes | None:
        return self._skip.get(shard)

    @override
    def drop_skip(self, shard: int, frame: bytes) -> None:
        if self._skip.get(shard) == frame:
            del self._skip[shard]

    @override
    def skips(self, shard: int) -> dict[StreamId, bytes]:
        return dict(self._skips[shard])

    def halt(self, shard: int) -> None:
        """Record a halt, as a process does that ends with it."""
        self._halted.add(shard)

    @override
    def is_halted(self, shard: int) -> bool:
        return shard in self._halted

    @override
    def undelivered(self, shard: int) -> list[Outgoing]:
        return [
            Outgoing(
                entry.stream_id,
                {int(target): frame for target, frame in entry.fields.items() if target.isdigit()},
            )
            for entry in self._streams[streams.outbox(shard)]
        ]

    @override
    def deliver(self, shard: int, outgoing: Outgoing) -> None:
        for target, frame in outgoing.frames.items():
            self.append(streams.commands(target), {MESSAGES_FIELD: frame})
        outbox = streams.outbox(shard)
        fields = {str(target).encode(): frame for target, frame in outgoing.frames.items()}
        self._streams[outbox] = [
            entry
            for entry in self._streams[outbox]
            if entry.stream_id != outgoing.stream_id or (fields and entry.fields != fields)
        ]

    @override
    def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        self.published.extend(messages)

    @override
    def publish_answers(
        self, shard: int, position: ShardPosition, answers: Sequence[tuple[str, bytes]]
    ) -> None:
        if self.position(shard) == position:
            self.publish(answers)

    @override
    def write_configuration(self, shard: int, position: ShardPosition, configuration: bytes) -> bool:
        if self.position(shard) != position:
            return False
        self._configurations[shard] = configuration
        return True

    @override
    def configuration(self, shard: int) -> bytes | None:
        return self._configurations.get(shard)

    @override
    def save_snapshot(
        self, shard: int, snapshot: bytes, stream_id: StreamId = STREAM_START, *, replaces: bool = False
    ) -> None:
        kept = self._snapshots[shard]
        if kept and stream_id != STREAM_START:
            newest = kept[0][0]
            if stream_id < newest or (stream_id == newest and not replaces):
                return
        self._snapshots[shard] = [(stream_id, self.now_ms(), snapshot), *kept[:1]]

    @override
    def saved_snapshots(self, shard: int) -> list[SavedSnapshot]:
        now_ms = self.now_ms()
        return [
            SavedSnapshot(stream_id, now_ms - saved_ms, str(number))
            for number, (stream_id, saved_ms, _) in enumerate(self._snapshots[shard])
        ]

    @override
    def read_snapshot(self, shard: int, saved: SavedSnapshot) -> bytes:
        return self._snapshots[shard][int(saved.name)][2]

    @override
    def snapshots(self, shard: int) -> list[bytes]:
        return [snapshot for _, _, snapshot in self._snapshots[shard]]

    @override
    def mark_passed(self, shard: int, reader: str, stream_id: StreamId) -> None:
        self._passed[shard][reader] = stream_id

    @override
    def passed(self, shard: int) -> dict[str, StreamId]:
        return dict(self._passed[shard])
