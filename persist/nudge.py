"""Nudges the workers when a shard has new events, but not again before the last nudge took effect.

A transaction costs as much as hundreds of orders in it. So a shard's events are collected for a while, unless
somebody waits for them.
"""

from collections.abc import Callable, Iterable
from functools import partial

import prometheus_client

from protocol.stream_id import NOTHING_NEEDED, STREAM_START, StreamId
from protocol.streams import ARCHIVE_READER, EventReader, events
from stream_log.interface import StreamLog

_ingest_lag = prometheus_client.Gauge(
    "persist_ingest_lag_seconds",
    "How far a shard's ingest is behind its events, in their own time",
    ["shard"],
)
_archive_lag = prometheus_client.Gauge(
    "persist_archive_lag_seconds", "How far a shard's archive is behind its input, in its own time", ["shard"]
)
_nudges = prometheus_client.Counter("persist_nudges", "Nudges of a shard's ingest", ["shard"])
_queued = prometheus_client.Gauge(
    "persist_queue_nudges", "Nudges that wait or are worked on, as the last sweep saw it"
)

QUEUED_MAX = 10
"""Maximum of waiting nudges per shard while there is no progress."""
LINGER_MS = 100
"""How long a shard's events are collected after its last nudge. The first event after that does not wait."""
LOOK_MS = 30
"""Least time between two nudges of a shard, and between two looks whether one took effect.

So whoever asks for ever more cannot make every few events a transaction of their own.
"""


class Nudger:
    """Watches the shards' event streams.

    At most one nudge per shard is in progress, whatever happens meanwhile.

    The effect of a nudge is visible in `passed:{k}`, which the ingest advances after its commit; so a worker
    does not report to the nudger, and a restarted nudger knows as much as the previous one.
    """

    def __init__(
        self,
        log: StreamLog,
        shards: Iterable[int],
        send: Callable[[int], object],
        queue_size: Callable[[], int],
        sweep_ms: int,
        linger_ms: int = LINGER_MS,
    ) -> None:
        """`send` nudges a shard's ingest.

        `queue_size` counts the nudges that are waiting or in progress.
        """
        self._log = log
        self._send = send
        self._queue_size = queue_size
        self._sweep_ms = sweep_ms
        self._linger_ms = linger_ms
        self._seen = dict.fromkeys(shards, STREAM_START)
        self._passed = dict(self._seen)
        self._nudged = dict(self._seen)
        self._nudged_ms = dict.fromkeys(self._seen, -linger_ms)
        """When each shard was nudged for events."""
        self._wanted: set[int] = set()
        """Shards with events that somebody waits for."""
        self._behind_since_ms = dict.fromkeys(self._seen, 0)
        self._swept_ms: int | None = None
        self._swept_passed: dict[int, StreamId | None] = dict.fromkeys(self._seen)
        for shard in self._seen:
            _ingest_lag.labels(shard).set_function(partial(self._lag_s, shard))
            _nudges.labels(shard)

    def forget(self) -> None:
        """Nudge again: after an outage of Redis, a nudge may be lost, or counted but lost."""
        self._nudged = dict.fromkeys(self._nudged, STREAM_START)

    def is_waiting(self) -> bool:
        """Return whether the ingest of any shard lags behind the last known event."""
        return any(self._passed[shard] < seen for shard, seen in self._seen.items())

    def lag_ms(self) -> int:
        """Return how far the slowest shard's ingest lags behind its events, in their own time."""
        return max(map(self.lag_ms_of, self._seen))

    def lag_ms_of(self, shard: int) -> int:
        """Return how far a shard's ingest lags behind its events, in their own time."""
        seen, passed = self._seen[shard], self._passed[shard]
        if passed >= seen:
            return 0
        return seen.ms - max(passed.ms, self._behind_since_ms[shard])

    def _lag_s(self, shard: int) -> float:
        return self.lag_ms_of(shard) / 1_000

    def want(self, shard: int) -> None:
        """Somebody waits until the database has all current events of the shard."""
        if shard in self._seen:
            self._wanted.add(shard)

    def pause_ms(self, now_ms: int) -> int:
        """Return how long to wait until the next step, if any shard's ingest lags behind."""
        if self._wanted:
            return LOOK_MS
        behind = [shard for shard, seen in self._seen.items() if self._passed[shard] < seen]
        return min((max(LOOK_MS, self._due_ms(shard) - now_ms) for shard in behind), default=LOOK_MS)

    def _due_ms(self, shard: int) -> int:
        return self._nudged_ms[shard] + (LOOK_MS if shard in self._wanted else self._linger_ms)

    def wait(self, block_ms: int) -> None:
        """Wait until there are new events, at most `block_ms`."""
        self._log.read({events(shard): seen for shard, seen in self._seen.items()}, 1, block_ms)

    def step(self, now_ms: int) -> None:
        """Check every shard, and nudge where needed."""
        for shard, seen in self._seen.items():
            was_caught_up = self._passed[shard] >= seen
            self._passed[shard] = passed = self._log.passed(shard).get(EventReader.PERSIST, STREAM_START)
            self._seen[shard] = last = self._log.last_id(events(shard))
            if was_caught_up:
                self._behind_since_ms[shard] = last.ms
            if passed >= last:
                self._wanted.discard(shard)
            elif passed >= self._nudged[shard] and now_ms >= self._due_ms(shard):
                self._wanted.discard(shard)
                self._nudged_ms[shard] = now_ms
                self._nudge(shard)
        if self._swept_ms is None or now_ms - self._swept_ms >= self._sweep_ms:
            self._swept_ms = now_ms
            self._sweep()

    def _sweep(self) -> None:
        """Nudge every shard in case a nudge was lost, unless as many nudges as shards are waiting.

        A nudge that was lost on its way to a living worker counts as in progress for as long as that worker
        lives. So a shard without progress since the last sweep is nudged anyway, up to a bound.
        """
        queued, shards = self._queue_size(), len(self._seen)
        _queued.set(queued)
        for shard, seen in self._seen.items():
            stands = self._passed[shard] < seen and self._passed[shard] == self._swept_passed[shard]
            if queued < shards or (stands and queued < shards * QUEUED_MAX):
                self._nudge(shard)
            self._swept_passed[shard] = self._passed[shard]

    def _nudge(self, shard: int) -> None:
        self._send(shard)
        _nudges.labels(shard).inc()
        self._nudged[shard] = self._seen[shard]


class ArchiveNudger:
    """Nudges the archive periodically while a shard has committed more than is archived.

    The ingest archives what it stores, so these nudges are for input without events, and for due snapshots.
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
        self._first_ms: dict[int, int] = {}
        """When a shard without an archive had committed something; its archive lags since then."""
        for shard in self._shards:
            _archive_lag.labels(shard)

    def step(self, now_ms: int) -> None:
        """Nudge if it is due, there is something to do, and no nudge waits."""
        if self._due_ms is not None and now_ms < self._due_ms:
            return
        self._due_ms = now_ms + self._period_ms
        positions = self._log.positions(self._shards)
        archived = {shard: self._archived(shard) for shard in self._shards}
        for shard in self._shards:
            committed_ms, archived_ms = positions[shard].stream_id.ms, archived[shard].ms
            if archived[shard] == STREAM_START:
                archived_ms = self._first_ms.setdefault(shard, committed_ms) if committed_ms else 0
            _archive_lag.labels(shard).set(max(0, committed_ms - archived_ms) / 1_000)
        behind = any(archived[shard] < positions[shard].stream_id for shard in self._shards)
        if behind and not self._queue_size():
            self._send()

    def _archived(self, shard: int) -> StreamId:
        archived = self._log.passed(shard).get(ARCHIVE_READER, NOTHING_NEEDED)
        return STREAM_START if archived == NOTHING_NEEDED else archived
