"""Runs one shard: `python -m engine_worker.main`, with EXCHANGE_SHARD naming which.

in:{k} ──> worker ──> commit: pos:{k}, ev:{k}, out:{k} ──> replies, other shards' in, answers
"""

import gc
import os
import sys
import threading
import time
from functools import partial

import msgspec
import prometheus_client
import structlog

from engine_worker.core.accounts import InvariantBroken
from engine_worker.snapshots import Snapshotter
from engine_worker.worker import LogDamaged, Worker
from protocol import streams
from runtime import redis_clients
from runtime.lifecycle import stop_flag
from runtime.log import configure_logs
from runtime.metrics import HEARTBEAT_INTERVAL_S, HEARTBEAT_TTL_S, Health, serve_metrics
from runtime.redis_stream_log import RETRY_AFTER_S, RedisStreamLog, Unreachable
from runtime.settings import Settings, SettingsError, load_settings
from runtime.stream_log import Fenced, Rewound

BLOCK_MS = 200
"""How long a step waits for input; the granularity of everything else that this process does."""

_log = structlog.get_logger()

_batch_entries = prometheus_client.Histogram(
    "engine_batch_entries", "Stream entries in one batch", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
)
_commands_applied = prometheus_client.Gauge("engine_commands_applied", "Commands applied since the exchange began")


def main() -> None:
    """Run until told to stop."""
    try:
        settings = load_settings()
    except SettingsError as error:
        sys.exit(f"Settings:\n{error}")
    configure_logs(settings, f"engine-{settings.shard}")
    serve_metrics(settings)
    try:
        run(settings)
    except Fenced as error:
        _log.warning("another worker leads", reason=str(error))
        sys.exit(3)
    except (InvariantBroken, LogDamaged) as error:
        _log.critical("the shard stops", shard=settings.shard, reason=str(error))
        sys.exit(4)


def run(settings: Settings) -> None:
    """Run the shard until SIGTERM or SIGINT; then save its state."""
    stopping = stop_flag()
    while not stopping.is_set():
        try:
            _lead(settings, stopping)
        except Rewound as error:
            _log.warning("starting anew from what Redis has", reason=str(error))
        except Unreachable as error:
            _log.warning("redis is away", error=str(error))
            stopping.wait(RETRY_AFTER_S)


def _lead(settings: Settings, stopping: threading.Event) -> None:
    """Start the shard from what Redis has, and run it until `stopping`."""
    url = settings.resolved_redis_url()
    log = RedisStreamLog.connect(url, shard=settings.shard, replicas_min=settings.redis_replicas_min)
    worker = Worker(
        log,
        settings.shard,
        settings.market_map(),
        closed_orders_max=settings.closed_orders_max,
        batch_entries_max=settings.batch_commands_max,
    )
    worker.start()
    # The state has no reference cycles, and a collection would pause matching for as long as it takes to walk all orders.
    gc.collect()
    gc.freeze()
    gc.disable()
    connect = partial(RedisStreamLog.connect, url, shard=settings.shard, replicas_min=settings.redis_replicas_min)
    snapshotter = Snapshotter(worker, log, connect, settings.shard, float(settings.snapshot_interval_s))
    heartbeat = _Heartbeat(settings)
    while not stopping.is_set():
        try:
            processed = worker.step(BLOCK_MS)
            snapshotter.run()
            heartbeat.run()
        except Unreachable as error:
            _log.warning("redis is away", error=str(error))
            stopping.wait(RETRY_AFTER_S)
            continue
        except Rewound:
            snapshotter.abandon()
            raise
        if processed:
            _batch_entries.observe(processed)
            _commands_applied.set(worker.shard.command_count)
    worker.finish()
    snapshotter.finish()
    heartbeat.finish()
    _log.info("shard stopped", shard=settings.shard, position=worker.position.stream_id)


class _Heartbeat:
    """Says that the shard is alive from within its loop: a thread would not stop with it, and is in the way of a fork."""

    def __init__(self, settings: Settings) -> None:
        self._key = streams.health(f"engine-{settings.shard}")
        self._redis = redis_clients.client_for(settings.resolved_redis_url(), self._key)
        self._due_s = 0.0

    def run(self) -> None:
        if time.monotonic() >= self._due_s:
            self._due_s = time.monotonic() + HEARTBEAT_INTERVAL_S
            health = Health(os.getpid(), time.time())
            self._redis.set(self._key, msgspec.json.encode(health), ex=HEARTBEAT_TTL_S)

    def finish(self) -> None:
        self._redis.delete(self._key)


if __name__ == "__main__":
    main()
