"""The persistence: `python -m persist.main migrate | nudge | work`.

ev:{k} ──> nudge ──> Dramatiq queue ──> work: transaction of rows ──> passed:{k}
"""

import argparse
import gc
import sys
import time

import structlog
from dramatiq import Worker

from persist.actors import IngestRunner, declare_ingest, make_broker
from persist.ingest import ShardIngest
from persist.migrate import MigrationError, migrate
from persist.nudge import Nudger
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
    while not stopping.is_set():
        try:
            nudger.step(time.monotonic_ns() // 1_000_000)
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
    ingests = {
        shard: ShardIngest(
            shard,
            RedisStreamLog.connect(redis_url, shard=shard, replicas_min=settings.redis_replicas_min),
            database_url,
            markets,
            settings.ingest_batch_entries,
        )
        for shard in range(settings.shard_count)
    }
    runner = IngestRunner(ingests, stopping)
    broker = make_broker(redis_url)
    declare_ingest(broker, runner.run)
    worker = Worker(broker, worker_threads=min(settings.shard_count, WORKER_THREADS_MAX), worker_timeout=POLL_MS)
    heartbeat = Heartbeat(settings, "persist-worker")
    worker.start()
    heartbeat.start()
    stopping.wait()
    worker.stop()
    heartbeat.stop()
    runner.close()
    broker.close()
    _log.info("work stopped")


def _not_here(_shard: int) -> None:
    raise AssertionError("the nudger only sends")


if __name__ == "__main__":
    main()
