"""The stream log in memory: the twin of `RedisStreamLog`, for tests and simulation. Time is passed in as a function."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from protocol import streams
from protocol.streams import EVENTS_FIELD, MESSAGES_FIELD, STREAM_START, StreamId, split_stream_id, stream_id_of
from runtime.stream_log import Commit, Entry, Fenced, Outgoing, ShardPosition


class MemoryStreamLog:
    """`StreamLog` in one process. Nothing ever waits: where Redis would block, nothing new is an empty answer."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        """Make an empty log whose clock is `now_ms`."""
        self._now_ms = now_ms
        self._streams: defaultdict[str, list[Entry]] = defaultdict(list)
        self._last_ids: defaultdict[str, StreamId] = defaultdict(lambda: STREAM_START)
        self._positions: dict[int, ShardPosition] = {}
        self._heard: dict[int, StreamId] = {}
        self._snapshots: defaultdict[int, list[bytes]] = defaultdict(list)
        self._passed: defaultdict[int, dict[str, StreamId]] = defaultdict(dict)
        self.published: list[tuple[str, bytes]] = []
        """Every (channel, payload), in order."""

    def append(self, stream: str, fields: Mapping[bytes, bytes]) -> StreamId:
        """See `StreamLog`."""
        milliseconds, number = split_stream_id(self._last_ids[stream])
        now_ms = self._now_ms()
        stream_id = stream_id_of(now_ms) if now_ms > milliseconds else stream_id_of(milliseconds, number + 1)
        return self._append_as(stream, stream_id, fields)

    def _append_as(self, stream: str, stream_id: StreamId, fields: Mapping[bytes, bytes]) -> StreamId:
        if split_stream_id(stream_id) <= split_stream_id(self._last_ids[stream]):
            return self.append(stream, fields)
        self._streams[stream].append(Entry(stream, stream_id, dict(fields)))
        self._last_ids[stream] = stream_id
        return stream_id

    def read(self, after: Mapping[str, StreamId], count: int, block_ms: int) -> list[Entry]:
        """See `StreamLog`."""
        return [entry for stream, stream_id in after.items() for entry in self._after(stream, stream_id, count)]

    def _after(self, stream: str, stream_id: StreamId, count: int) -> list[Entry]:
        entries = self._streams[stream]
        first = bisect_right(entries, split_stream_id(stream_id), key=lambda entry: split_stream_id(entry.stream_id))
        return entries[first : first + count]

    def last_id(self, stream: str) -> StreamId:
        """See `StreamLog`."""
        return self._last_ids[stream]

    def trim(self, stream: str, before: StreamId) -> None:
        """See `StreamLog`."""
        bound = split_stream_id(before)
        self._streams[stream] = [entry for entry in self._streams[stream] if split_stream_id(entry.stream_id) >= bound]

    def position(self, shard: int) -> ShardPosition:
        """See `StreamLog`."""
        return self._positions.get(shard, ShardPosition(0, STREAM_START))

    def take_over(self, shard: int) -> ShardPosition:
        """See `StreamLog`."""
        epoch, stream_id = self.position(shard)
        self._positions[shard] = ShardPosition(epoch + 1, stream_id)
        self._heard[shard] = self._last_ids[streams.queries(shard)]
        return self._positions[shard]

    def read_inputs(
        self, shard: int, position: ShardPosition, count: int, block_ms: int, publish: Sequence[tuple[str, bytes]] = ()
    ) -> list[Entry]:
        """See `StreamLog`."""
        self.publish(publish)
        if self.position(shard) != position:
            raise Fenced(f"shard {shard} was taken over after epoch {position.epoch}")
        commands = self._after(streams.commands(shard), position.stream_id, count)
        queries = self._after(streams.queries(shard), self._heard[shard], count)
        if queries:
            self._heard[shard] = queries[-1].stream_id
        return commands + queries

    def commit(self, commit: Commit) -> None:
        """See `StreamLog`."""
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

    def undelivered(self, shard: int) -> list[Outgoing]:
        """See `StreamLog`."""
        return [
            Outgoing(
                entry.stream_id,
                {int(target): frame for target, frame in entry.fields.items() if target.isdigit()},
            )
            for entry in self._streams[streams.outbox(shard)]
        ]

    def deliver(self, shard: int, outgoing: Outgoing) -> None:
        """See `StreamLog`."""
        for target, frame in outgoing.frames.items():
            self.append(streams.commands(target), {MESSAGES_FIELD: frame})
        milliseconds, number = split_stream_id(outgoing.stream_id)
        self.trim(streams.outbox(shard), stream_id_of(milliseconds, number + 1))

    def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """See `StreamLog`."""
        self.published.extend(messages)

    def save_snapshot(self, shard: int, snapshot: bytes) -> None:
        """See `StreamLog`."""
        self._snapshots[shard] = [snapshot, *self._snapshots[shard][:1]]

    def snapshots(self, shard: int) -> list[bytes]:
        """See `StreamLog`."""
        return list(self._snapshots[shard])

    def mark_passed(self, shard: int, reader: str, stream_id: StreamId) -> None:
        """See `StreamLog`."""
        self._passed[shard][reader] = stream_id

    def passed(self, shard: int) -> dict[str, StreamId]:
        """See `StreamLog`."""
        return dict(self._passed[shard])
