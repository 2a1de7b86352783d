"""What a worker looks after beside its batches: whether its money adds up, what strangers left in its outbox, an old halt."""

import time

import prometheus_client

from engine_worker.worker import Worker
from protocol import streams
from runtime import redis_clients
from runtime.halt import clear_halt
from runtime.redis_stream_log import RedisStreamLog
from runtime.settings import Settings

INTERVAL_S = 1.0

_difference = prometheus_client.Gauge(
    "engine_money_difference",
    "Units of an asset that are there beyond (or, below 0, short of) deposits - withdrawals + settlements; 0 is right",
    ["asset"],
)
_conserved = prometheus_client.Gauge("engine_money_conserved", "1: the shard's money adds up in every asset")
_dead_letters = prometheus_client.Gauge("engine_dead_letters", "Dead letters that are kept for the shard")


class Care:
    """Runs between two batches, about once a second; each time it costs less than a millisecond."""

    def __init__(self, worker: Worker, log: RedisStreamLog, settings: Settings) -> None:
        self._worker = worker
        self._streams = log
        self._shard = settings.shard
        self._redis = redis_clients.client_for(settings.resolved_redis_url(), streams.halted(settings.shard))
        self._due_s = 0.0
        self._is_first = True

    def run(self) -> None:
        """Look after what is due.

        Raises:
            InvariantBroken: the money does not add up.
        """
        if time.monotonic() < self._due_s:
            return
        self._due_s = time.monotonic() + INTERVAL_S
        differences = {asset: totals.difference() for asset, totals in self._worker.shard.totals.items()}
        for asset, difference in differences.items():
            _difference.labels(asset).set(difference)
        _conserved.set(not any(differences.values()))
        self._worker.shard.check_money()
        if not self._worker.leads:
            return  # what is in the outbox is the leader's to deliver
        if self._is_first:
            # Whatever this shard stopped at, a step has got past it.
            clear_halt(self._redis, self._shard)
            self._is_first = False
        self._worker.clean_outbox()
        _dead_letters.set(self._redis.xlen(streams.dead_letters(self._shard)))
