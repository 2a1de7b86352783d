"""The persistence: `python -m persist.main migrate | await | nudge | work`.

ev:{k}, in:{k} ──> nudge ──> Dramatiq queue ──> work: transactions of segments and of rows ──> passed:{k}
"""

import argparse
import gc
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import prometheus_client
import psycopg
import structlog
from dramatiq import Worker
from dramatiq.brokers.redis import RedisBroker

from persist.actors import (
    SLOW_POLL_MS,
    IngestRunner,
    archive_once,
    declare_archive,
    declare_ingest,
    make_broker,
)
from persist.archive import Archiver, Retention, withdraw
from persist.backfill import finish_backfills
from persist.first_start import PERIOD_S as SCHEMA_PERIOD_S
from persist.first_start import SchemaNote, Wait, await_schema, migrate_when_there, why_not_migrated
from persist.ingest import ShardIngest
from persist.lost_tail_comparison import LogGuard
from persist.mails import Mailer, mailer_of, send_due
from persist.migrate import MigrationError
from persist.nudge import ArchiveNudger, Nudger
from persist.retention import HistoryRetention, drop_history
from persist.slots import look_at_copies
from persist.wanted import Wanted
from protocol.streams import JOBS_NAMESPACE
from runtime import process, redis_clients
from runtime.database_roles import ServiceRole, database_url_of
from runtime.lifecycle import stop_flag
from runtime.metrics import Heartbeat, reach_redis
from runtime.probes import Probes, Reach
from runtime.process import Process
from runtime.settings import Settings
from runtime.tracing import Tracer
from stream_log.redis_log import RETRY_AFTER_S, RedisStreamLog, Unreachable

BLOCK_MS = 500
"""How long the nudger waits for events before it checks whether it should stop."""
WORKER_THREADS_MAX = 2
WATCH_PERIOD_S = 1.0
WATCH_TIMEOUT_S = 2
"""Timeout for the checks of Redis and the database."""
STEP_S_MAX = 600.0
"""A batch that takes longer is considered hung; the longest ones refresh old candles."""
GUARD_PERIOD_MS = 100
"""Interval at which the nudger checks whether Redis was restarted; a starting shard waits for it."""
GUARD_RETRY_MS = 1_000
MAILS_PERIOD_S = 2.0
"""How long a mail may wait before it is sent."""
RETENTION_PERIOD_S = 3_600
"""Interval at which a worker drops old history."""
GC_THRESHOLD = 1_000_000
"""Objects created before the collector looks for cycles: a batch creates about 100,000 tuples and no cycles.

The collections took a fifth of its time.
"""

_log = structlog.get_logger()

_database_reachable = prometheus_client.Gauge(
    "exchange_database_reachable", "1: the database answered this process when it was asked last", ["process"]
)


def main() -> None:
    """Run the part named on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m persist.main", description="Moves the event log into the database."
    )
    parser.add_argument("part", choices=["migrate", "await", "nudge", "work"])
    match parser.parse_args().part:
        case "migrate":
            process.run(_migrate, "persist-migrate", allows_unsafe=True, agrees=False, has_metrics=False)
        case "await":
            process.run(_await, "persist-await", allows_unsafe=True, agrees=False, has_metrics=False)
        case "nudge":
            process.run(lambda started: nudge(started.settings, started.probes), "persist-nudger")
        case "work":
            process.run(
                lambda started: work(started.settings, started.probes, started.tracer()), "persist-worker"
            )


def _migrate(started: Process) -> None:
    try:
        if not migrate_when_there(started.settings, stop_flag()):
            sys.exit("Stopped before the database was there; nothing was migrated.")
    except MigrationError as error:
        sys.exit(f"Migrations:\n{error}")


def _await(started: Process) -> None:
    try:
        await_schema(started.settings, stop_flag())
    except MigrationError as error:
        sys.exit(f"Migrations:\n{error}")


def nudge(settings: Settings, probes: Probes) -> None:
    """Nudge the workers until SIGTERM or SIGINT."""
    stopping = stop_flag()
    broker = make_broker(settings.resolved_cache_url(), settings.resolved_redis_url())
    ingest = declare_ingest(broker, _not_here)
    log = RedisStreamLog.connect(settings.resolved_redis_url(), replicas_min=settings.redis_replicas_min)
    nudger = Nudger(
        log,
        range(settings.shard_count),
        send=ingest.send,
        queue_size=lambda: int(broker.do_qsize(ingest.queue_name)),
        sweep_ms=settings.ingest_sweep_s * 1000,
    )
    wanted = Wanted(settings.resolved_cache_url(), range(settings.shard_count))
    reach = reach_redis(probes, "persist-nudger")
    heartbeat = Heartbeat(settings, "persist-nudger", nudger.lag_ms)
    heartbeat.start()
    beside = _Beside(settings, broker)
    probes.ready_when("schema", beside.schema.why_not, once=True)
    while not stopping.is_set():
        try:
            now_ms = time.monotonic_ns() // 1_000_000
            beside.step(now_ms)
            nudger.step(now_ms)
            reach.answered()
            probes.turned()
            # While the ingest lags, its progress is checked periodically; otherwise the next event is waited
            # for.
            if nudger.is_waiting():
                for shard in wanted.wait(nudger.pause_ms(now_ms) / 1_000):
                    nudger.want(shard)
            else:
                nudger.wait(BLOCK_MS)
        except Unreachable as error:
            _log.warning("redis is away", error=str(error))
            reach.failed(error)
            probes.turned()
            # The sent nudges may be lost with Redis.
            nudger.forget()
            stopping.wait(RETRY_AFTER_S)
    probes.leaving()
    heartbeat.stop()
    wanted.close()
    broker.close()
    _log.info("nudge stopped")


class _Beside:
    """The nudger's other tasks: nudge the archive, and compare the log after each start of Redis."""

    def __init__(self, settings: Settings, broker: RedisBroker) -> None:
        redis_url, shards = settings.resolved_redis_url(), range(settings.shard_count)
        log, archive = RedisStreamLog.connect(redis_url), declare_archive(broker, _nothing_here)
        self._database_url = database_url_of(settings, ServiceRole.PERSIST)
        self._archive = ArchiveNudger(
            log,
            shards,
            archive.send,
            lambda: int(broker.do_qsize(archive.queue_name)),
            settings.archive_period_ms,
        )
        self._guard = LogGuard(log, self._database_url, shards)
        self._guard_due_ms = 0
        self.schema = SchemaNote(log.at(0), self._database_url)
        self._enabled = settings.archive_enabled
        self._withdraw: Callable[[], None] | None = None
        if not settings.archive_enabled:
            self._withdraw = lambda: withdraw(log, self._database_url, shards)

    def step(self, now_ms: int) -> None:
        self.schema.step(now_ms / 1_000)
        if self.schema.why_not() is None and now_ms >= self._guard_due_ms:
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


def work(settings: Settings, probes: Probes, tracer: Tracer | None = None) -> None:
    """Ingest nudged shards until SIGTERM or SIGINT; then finish the batch in progress."""
    stopping = stop_flag()
    # The modules live as long as the process: no collection needs to look at them.
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    redis_url, database_url = settings.resolved_redis_url(), database_url_of(settings, ServiceRole.PERSIST)
    retention = Retention(
        settings.archive_snapshot_interval_s, settings.archive_snapshots_max, settings.archive_days
    )
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
            settings.shard_count,
            settings.ingest_batch_entries,
            archiver.cover if settings.archive_enabled else None,
            tracer,
        )
        for shard in range(settings.shard_count)
    }
    runner = IngestRunner(ingests, stopping)
    broker = make_broker(settings.resolved_cache_url(), redis_url)
    declare_ingest(broker, runner.run)
    threads = min(settings.shard_count, WORKER_THREADS_MAX)
    if settings.archive_enabled:
        declare_archive(broker, lambda: archive_once(archiver))
        threads += 1
    worker = Worker(broker, worker_threads=threads, worker_timeout=SLOW_POLL_MS)
    heartbeat = Heartbeat(settings, settings.name_of_process("persist-worker"))
    # Before the wait for the schema: a process that waits already announces the formats that it reads
    # (docs/decisions/0027).
    heartbeat.start()
    # No job is taken before the tables exist: each would fail, and be repeated.
    _await_schema_for_work(database_url, stopping, probes)
    worker.start()
    # In a separate thread: dropping may take long. A process that stops leaves the rest to the next time.
    dropping = (stopping, database_url, HistoryRetention.of(settings))
    threading.Thread(target=_drop_history_until, args=dropping, name="retention", daemon=True).start()
    filling = (database_url, stopping)
    threading.Thread(target=finish_backfills, args=filling, name="backfill", daemon=True).start()
    if (mailer := mailer_of(settings)) is not None:
        sending = (stopping, database_url, mailer)
        threading.Thread(target=_send_mails_until, args=sending, name="mails", daemon=True).start()
    sweeping = (stopping, runner, archiver if settings.archive_enabled else None, 2 * settings.ingest_sweep_s)
    threading.Thread(target=_sweep_until, args=sweeping, name="sweep", daemon=True).start()
    with closing(_Watch(settings, worker, runner, probes)) as watch:
        while not stopping.wait(WATCH_PERIOD_S):
            watch.look()
    probes.leaving()
    # First the worker, which finishes its jobs: they use the connections that are closed after it.
    worker.stop()
    heartbeat.stop()
    runner.close()
    archiver.close()
    broker.close()
    if tracer is not None:
        tracer.close()
    _log.info("work stopped")


def _await_schema_for_work(database_url: str, stopping: threading.Event, probes: Probes) -> None:
    """Return when the schema exists or the process should stop.

    Without a schema, every nudge would fail with a traceback.
    """
    wait, database, reason = Wait("the schema"), Reach("the database"), None
    probes.ready_when("database", lambda: database.why_not() or reason)
    _database_reachable.labels("persist-worker").set_function(lambda: database.why_not() is None)
    while True:
        reason = why_not_migrated(database_url, database)
        if reason is None:
            return
        wait.say(reason)
        probes.turned()
        if stopping.wait(SCHEMA_PERIOD_S):
            return


class _Watch:
    """The task of the worker's main thread: it checks whether the other threads can work."""

    def __init__(self, settings: Settings, worker: Worker, runner: IngestRunner, probes: Probes) -> None:
        self._worker = worker
        self._runner = runner
        self._probes = probes
        self._redis = redis_clients.client_for(
            settings.resolved_redis_url(),
            JOBS_NAMESPACE,
            socket_timeout=WATCH_TIMEOUT_S,
            socket_connect_timeout=WATCH_TIMEOUT_S,
        )
        self._redis_reach, self._database_reach = reach_redis(probes, "persist-worker"), Reach("the database")
        probes.ready_when("database", self._database_reach.why_not)
        probes.ready_when("ingest", self._why_not_ingesting)
        _database_reachable.labels("persist-worker").set_function(
            lambda: self._database_reach.why_not() is None
        )
        self._database_url = database_url_of(settings, ServiceRole.PERSIST)
        self._database: psycopg.Connection[Any] | None = None

    def look(self) -> None:
        """Check Redis and the database.

        The process is alive while its threads are and make progress.
        """
        try:
            self._redis.ping()
            self._redis_reach.answered()
        except redis_clients.RedisOutage as error:
            self._redis_reach.failed(error)
        try:
            if self._database is None:
                self._database = psycopg.connect(
                    self._database_url,
                    autocommit=True,
                    connect_timeout=WATCH_TIMEOUT_S,
                    tcp_user_timeout=WATCH_TIMEOUT_S * 1000,
                    options=f"-c statement_timeout={WATCH_TIMEOUT_S}s",
                    application_name="watch",
                )
            look_at_copies(self._database)
            self._database_reach.answered()
        except psycopg.Error as error:
            self._database_reach.failed(error)
            self.close()
        threads = [*self._worker.consumers.values(), *self._worker.workers]
        if all(thread.is_alive() for thread in threads) and self._runner.under_way_s() < STEP_S_MAX:
            self._probes.turned()

    def close(self) -> None:
        """Close the connection to the database."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _why_not_ingesting(self) -> str | None:
        stopped = self._runner.stopped()
        return "; ".join(stopped.values()) if stopped else None


def _sweep_until(
    stopping: threading.Event, runner: IngestRunner, archiver: Archiver | None, unasked_s: float
) -> None:
    """Ingest and archive what has not been nudged.

    Otherwise an error in the queue would fill the log.
    """
    while not stopping.wait(unasked_s / 2):
        try:
            if runner.sweep(unasked_s) and archiver is not None:
                archive_once(archiver)
        except (psycopg.Error, *redis_clients.RedisOutage) as error:
            _log.warning("a sweep was not finished; there will be another", error=str(error).strip())
        except Exception:
            _log.exception("a sweep failed; there will be another")


def _send_mails_until(stopping: threading.Event, database_url: str, mailer: Mailer) -> None:
    while not stopping.wait(MAILS_PERIOD_S):
        try:
            send_due(database_url, mailer, lambda: not stopping.is_set())
        except psycopg.Error as error:
            _log.warning("mails wait", error=str(error).strip())
        except Exception:
            _log.exception("sending mails failed; there will be another try")


def _drop_history_until(stopping: threading.Event, database_url: str, retention: HistoryRetention) -> None:
    while not stopping.is_set():
        try:
            drop_history(database_url, retention)
        except psycopg.Error as error:
            _log.warning(
                "old history was not dropped; the next time will be in an hour", error=str(error).strip()
            )
        except Exception:
            _log.exception("dropping old history failed; the next time will be in an hour")
        stopping.wait(RETENTION_PERIOD_S)


def _nothing_here() -> None:
    raise AssertionError("the nudger only sends")


def _not_here(_shard: int) -> None:
    raise AssertionError("the nudger only sends")


if __name__ == "__main__":
    main()
