"""The persistence: `python -m persist.main migrate | nudge | work`.

ev:{k}, in:{k} ──> nudge ──> Dramatiq queue ──> work: transactions of segments and of rows ──> passed:{k}
"""

import argparse
import gc
import sys
import threading
import time
from collections.abc import Callable

import psycopg
import structlog
from dramatiq import Worker
from dramatiq.brokers.redis import RedisBroker

from persist.actors import IngestRunner, archive_once, declare_archive, declare_ingest, make_broker
from persist.archive import Archiver, Retention, withdraw
from persist.guard import LogGuard
from persist.ingest import ShardIngest
from persist.migrate import MigrationError, migrate
from persist.nudge import ArchiveNudger, Nudger
from persist.retention import HistoryRetention, drop_history
from runtime.lifecycle import stop_flag
from runtime.log import configure_logs
from runtime.metrics import Heartbeat, serve_metrics
from runtime.redis_stream_log import RETRY_AFTER_S, RedisStreamLog, Unreachable
from runtime.settings import Settings, SettingsError, load_settings

NUDGE_PERIOD_S = 0.03
"""Under load, what happens within this time is stored together; the first event after a pause does not wait."""
BLOCK_MS = 500
"""How long the nudger waits for events before it looks whether it should stop."""
POLL_MS = 20
"""How long an idle worker waits between two looks at its queue."""
WORKER_THREADS_MAX = 2
GUARD_PERIOD_MS = 100
"""How often the nudger looks whether Redis was started anew; a shard that starts then waits for it."""
GUARD_RETRY_MS = 1_000
RETENTION_PERIOD_S = 3_600
"""How often a worker looks for history that has become too old."""
GC_THRESHOLD = 1_000_000
"""Objects made before the collector looks for cycles: a batch makes some 100,000 tuples, and none; looking cost a fifth of its time."""

_log = structlog.get_logger()


def main() -> None:
    """Run the part that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m persist.main", description="Moves the event log into the database."
    )
    parser.add_argument("part", choices=["migrate", "nudge", "work"])
    part = parser.parse_args().part
    try:
        settings = load_settings()
        configure_logs(settings, f"persist-{part}")
        if part == "migrate":
            migrate(settings.resolved_database_url())
            return
    except SettingsError as error:
        sys.exit(f"Settings:\n{error}")
    except MigrationError as error:
        sys.exit(f"Migrations:\n{error}")
    serve_metrics(settings)
    if part == "nudge":
        nudge(settings)
    else:
        work(settings)


def nudge(settings: Settings) -> None:
    """Nudge the workers until SIGTERM or SIGINT."""
    stopping = stop_flag()
    broker = make_broker(settings.resolved_redis_url())
    ingest = declare_ingest(broker, _not_here)
    log = RedisStreamLog.connect(settings.resolved_redis_url(), replicas_min=settings.redis_replicas_min)
    nudger = Nudger(
        log,
        range(settings.shard_count),
        send=ingest.send,
        queue_size=lambda: int(broker.do_qsize(ingest.queue_name)),
        sweep_ms=settings.ingest_sweep_s * 1000,
    )
    heartbeat = Heartbeat(settings, "persist-nudger", nudger.lag_ms)
    heartbeat.start()
    beside = _Beside(settings, broker)
    while not stopping.is_set():
        try:
            now_ms = time.monotonic_ns() // 1_000_000
            beside.step(now_ms)
            nudger.step(now_ms)
            if nudger.is_waiting():
                stopping.wait(NUDGE_PERIOD_S)
            else:
                nudger.wait(BLOCK_MS)
        except Unreachable as error:
            _log.warning("redis is away", error=str(error))
            nudger.forget()
            stopping.wait(RETRY_AFTER_S)
    heartbeat.stop()
    broker.close()
    _log.info("nudge stopped")


class _Beside:
    """What the nudger does besides: it nudges the archive, and looks after each start of Redis whether the log is whole."""

    def __init__(self, settings: Settings, broker: RedisBroker) -> None:
        redis_url, shards = settings.resolved_redis_url(), range(settings.shard_count)
        log, archive = RedisStreamLog.connect(redis_url), declare_archive(broker, _nothing_here)
        self._database_url = settings.resolved_database_url()
        self._archive = ArchiveNudger(
            log, shards, archive.send, lambda: int(broker.do_qsize(archive.queue_name)), settings.archive_period_ms
        )
        self._guard = LogGuard(log, self._database_url, shards)
        self._guard_due_ms = 0
        self._enabled = settings.archive_enabled
        self._withdraw: Callable[[], None] | None = None
        if not settings.archive_enabled:
            self._withdraw = lambda: withdraw(log, self._database_url, shards)

    def step(self, now_ms: int) -> None:
        if now_ms >= self._guard_due_ms:
            self._guard_due_ms = now_ms + GUARD_PERIOD_MS
            try:
                self._guard.step()
                if self._withdraw is not None:
                    self._withdraw()
                    self._withdraw = None
            except psycopg.Error as error:
                _log.warning("the log cannot be compared with the database", error=str(error).strip())
                self._guard_due_ms = now_ms + GUARD_RETRY_MS
        if self._enabled:
            self._archive.step(now_ms)


def work(settings: Settings) -> None:
    """Ingest whatever shards are nudged until SIGTERM or SIGINT; then finish the batch under way."""
    stopping = stop_flag()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    redis_url, database_url, markets = (
        settings.resolved_redis_url(),
        settings.resolved_database_url(),
        settings.market_map(),
    )
    retention = Retention(settings.archive_snapshot_interval_s, settings.archive_snapshots_max, settings.archive_days)
    archiver = Archiver(
        RedisStreamLog.connect(redis_url, replicas_min=settings.redis_replicas_min),
        range(settings.shard_count),
        database_url,
        retention,
    )
    ingests = {
        shard: ShardIngest(
            shard,
            RedisStreamLog.connect(redis_url, shard=shard, replicas_min=settings.redis_replicas_min),
            database_url,
            markets,
            settings.ingest_batch_entries,
            archiver.cover if settings.archive_enabled else None,
        )
        for shard in range(settings.shard_count)
    }
    runner = IngestRunner(ingests, stopping)
    broker = make_broker(redis_url)
    declare_ingest(broker, runner.run)
    threads = min(settings.shard_count, WORKER_THREADS_MAX)
    if settings.archive_enabled:
        declare_archive(broker, lambda: archive_once(archiver))
        threads += 1
    worker = Worker(broker, worker_threads=threads, worker_timeout=POLL_MS)
    heartbeat = Heartbeat(settings, "persist-worker")
    worker.start()
    heartbeat.start()
    _drop_history_until(stopping, database_url, HistoryRetention.of(settings))
    worker.stop()
    heartbeat.stop()
    runner.close()
    archiver.close()
    broker.close()
    _log.info("work stopped")


def _drop_history_until(stopping: threading.Event, database_url: str, retention: HistoryRetention) -> None:
    while not stopping.is_set():
        try:
            drop_history(database_url, retention)
        except psycopg.Error as error:
            _log.warning("old history was not dropped; the next time will be in an hour", error=str(error).strip())
        stopping.wait(RETENTION_PERIOD_S)


def _nothing_here() -> None:
    raise AssertionError("the nudger only sends")


def _not_here(_shard: int) -> None:
    raise AssertionError("the nudger only sends")


if __name__ == "__main__":
    main()
