"""When the workers are nudged: as soon as a shard has new events, but never again before the last nudge has had its effect."""

from collections.abc import Callable, Iterable

from protocol.streams import (
    ARCHIVE_READER,
    NOTHING_NEEDED,
    STREAM_START,
    EventReader,
    StreamId,
    events,
    split_stream_id,
)
from runtime.stream_log import StreamLog

QUEUED_MAX = 10
"""Nudges per shard that may wait while nothing gets any further."""


class Nudger:
    """Watches the shards' event streams. At most one nudge per shard is under way, however much happens meanwhile.

    What a nudge led to is seen in `passed:{k}`, which the ingest moves after its commit; so a worker has nothing to say to the nudger,
    and a nudger that was restarted knows as much as the one before.
    """

    def __init__(
        self,
        log: StreamLog,
        shards: Iterable[int],
        send: Callable[[int], object],
        queue_size: Callable[[], int],
        sweep_ms: int,
    ) -> None:
        """`send` nudges a shard's ingest; `queue_size` counts the nudges that are waiting or being worked on."""
        self._log = log
        self._send = send
        self._queue_size = queue_size
        self._sweep_ms = sweep_ms
        self._seen = dict.fromkeys(shards, STREAM_START)
        self._passed = dict(self._seen)
        self._nudged = dict(self._seen)
        self._behind_since_ms = dict.fromkeys(self._seen, 0)
        self._swept_ms: int | None = None
        self._swept_passed: dict[int, StreamId | None] = dict.fromkeys(self._seen)

    def forget(self) -> None:
        """Nudge again, whatever was said before: after an outage of Redis, a nudge may be lost, or counted though nobody has it."""
        self._nudged = dict.fromkeys(self._nudged, STREAM_START)

    def is_waiting(self) -> bool:
        """Return whether the ingest of any shard is behind what was last seen of it."""
        return any(_is_before(self._passed[shard], seen) for shard, seen in self._seen.items())

    def lag_ms(self) -> int:
        """Return how far the slowest shard's ingest is behind its events, in their own time."""
        return max(
            split_stream_id(seen)[0] - max(split_stream_id(self._passed[shard])[0], self._behind_since_ms[shard])
            if _is_before(self._passed[shard], seen)
            else 0
            for shard, seen in self._seen.items()
        )

    def wait(self, block_ms: int) -> None:
        """Wait until there are new events, at most `block_ms`."""
        self._log.read({events(shard): seen for shard, seen in self._seen.items()}, 1, block_ms)

    def step(self, now_ms: int) -> None:
        """Look at every shard, and nudge where it is needed."""
        for shard, seen in self._seen.items():
            was_caught_up = not _is_before(self._passed[shard], seen)
            self._passed[shard] = passed = self._log.passed(shard).get(EventReader.PERSIST, STREAM_START)
            self._seen[shard] = last = self._log.last_id(events(shard))
            if was_caught_up:
                self._behind_since_ms[shard] = split_stream_id(last)[0]
            if _is_before(passed, last) and not _is_before(passed, self._nudged[shard]):
                self._nudge(shard)
        if self._swept_ms is None or now_ms - self._swept_ms >= self._sweep_ms:
            self._swept_ms = now_ms
            self._sweep()

    def _sweep(self) -> None:
        """Nudge every shard in case a nudge was lost, unless as many as there are shards are waiting anyway.

        One that was lost on its way to a worker which lives counts as worked on for as long as that worker lives. So a shard that has
        not got any further since the last sweep is nudged all the same, up to a bound.
        """
        queued, shards = self._queue_size(), len(self._seen)
        for shard, seen in self._seen.items():
            stands = _is_before(self._passed[shard], seen) and self._passed[shard] == self._swept_passed[shard]
            if queued < shards or (stands and queued < shards * QUEUED_MAX):
                self._nudge(shard)
            self._swept_passed[shard] = self._passed[shard]

    def _nudge(self, shard: int) -> None:
        self._send(shard)
        self._nudged[shard] = self._seen[shard]


class ArchiveNudger:
    """Nudges the archive every so often while a shard has committed more than is archived.

    The ingest archives what it stores, so these are for what had no events, and for snapshots that are due.
    """

    def __init__(
        self,
        log: StreamLog,
        shards: Iterable[int],
        send: Callable[[], object],
        queue_size: Callable[[], int],
        period_ms: int,
    ) -> None:
        self._log = log
        self._shards = list(shards)
        self._send = send
        self._queue_size = queue_size
        self._period_ms = period_ms
        self._due_ms: int | None = None

    def step(self, now_ms: int) -> None:
        """Nudge when it is time, there is something to do, and no nudge waits."""
        if self._due_ms is not None and now_ms < self._due_ms:
            return
        self._due_ms = now_ms + self._period_ms
        positions = self._log.positions(self._shards)
        behind = any(_is_before(self._archived(shard), positions[shard].stream_id) for shard in self._shards)
        if behind and not self._queue_size():
            self._send()

    def _archived(self, shard: int) -> StreamId:
        archived = self._log.passed(shard).get(ARCHIVE_READER, NOTHING_NEEDED)
        return STREAM_START if archived == NOTHING_NEEDED else archived


def _is_before(stream_id: StreamId, other: StreamId) -> bool:
    return split_stream_id(stream_id) < split_stream_id(other)
