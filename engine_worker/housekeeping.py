"""A worker's periodic checks: its accounting, foreign entries in its outbox, and an old halt."""

import time
from typing import Any

from prometheus_client import Counter

from engine_worker import metrics
from engine_worker.worker import Worker
from protocol import streams
from protocol.stream_id import StreamId
from runtime import redis_clients
from runtime.settings import Settings
from stream_log.halt import clear_halt
from stream_log.redis_log import RedisStreamLog

INTERVAL_S = 1.0


class Care:
    """Runs between two batches, about once a second; takes less than a millisecond each time."""

    def __init__(self, worker: Worker, log: RedisStreamLog, settings: Settings) -> None:
        self._worker = worker
        self._streams = log
        self._shard = settings.shard
        self._redis = redis_clients.client_for(settings.resolved_redis_url(), streams.halted(settings.shard))
        self._due_s = 0.0
        self._counted: dict[str, int] = {}
        """The counts at the last time: orders, and trades by market."""

    def run(self) -> None:
        """Do what is due.

        Raises:
            InvariantBroken: the accounting is wrong.
        """
        if time.monotonic() < self._due_s:
            return
        self._due_s = time.monotonic() + INTERVAL_S
        differences = self._worker.core.differences()
        for asset, difference in differences.items():
            metrics.DIFFERENCE.labels(self._shard, asset).set(difference)
        metrics.CONSERVED.labels(self._shard).set(not any(differences.values()))
        self._worker.core.check_money()
        self._measure()
        if not self._worker.leads:
            return  # the leader delivers the outbox
        # A step has got past the place at which this shard was halted.
        clear_halt(self._redis, self._shard)
        self._worker.clean_outbox()
        metrics.DEAD_LETTERS.labels(self._shard).set(self._redis.xlen(streams.dead_letters(self._shard)))
        metrics.STANDBYS.labels(self._shard).set(len(self._streams.standbys(self._shard)))

    def _measure(self) -> None:
        """Update the metrics of the shard.

        Only the leader counts new orders and trades; otherwise they would count twice.
        """
        core, leads = self._worker.core, self._worker.leads
        metrics.LEADER.labels(self._shard).set(leads)
        metrics.EPOCH.labels(self._shard).set(self._worker.position.epoch)
        metrics.LAG.labels(self._shard).set(self._worker.lag_ms / 1_000)
        for symbol, market in core.market_counts().items():
            metrics.RESTING.labels(self._shard, symbol).set(market.resting)
            self._count(metrics.TRADES.labels(self._shard, symbol), symbol, market.trades, leads)
        metrics.UNSTORED.labels(self._shard).set(len(self._worker.unstored_orders))
        self._count(
            metrics.UNSTORED_LOST.labels(self._shard), "lost", self._worker.unstored_orders.lost, leads
        )
        self._count(metrics.ACCEPTED.labels(self._shard), "", core.order_count, leads)
        position_ms = self._worker.position.stream_id.ms
        if snapshots := self._streams.saved_snapshots(self._shard):
            metrics.SNAPSHOT_TIME.labels(self._shard).set(time.time() - snapshots[0].age_ms / 1_000)
            from_ms = snapshots[0].stream_id.ms
        else:
            oldest: Any = self._redis.xrange(streams.commands(self._shard), count=1)
            from_ms = StreamId.parse(oldest[0][0]).ms if oldest else position_ms
        metrics.SNAPSHOT_BEHIND.labels(self._shard).set(max(0, position_ms - from_ms) / 1_000)

    def _count(self, counter: Counter, name: str, total: int, leads: bool) -> None:
        total_before = self._counted.get(name, total)
        if leads:
            counter.inc(max(0, total - total_before))
        self._counted[name] = total
