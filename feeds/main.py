"""Runs the feeds of all shards, or of some: `python -m feeds.main`.

ev:{k} ──> worker ──> commit: feeds:{k}, read models, pub:SYMBOL:KIND, account:ID
"""

import sys
import time

import prometheus_client
import structlog

from feeds.state import InvariantError
from feeds.store import FeedsStore, RewoundError, SupersededError
from feeds.worker import FeedsWorker
from runtime.lifecycle import stop_flag
from runtime.log import configure_logs
from runtime.metrics import Heartbeat, serve_metrics
from runtime.redis_stream_log import RETRY_AFTER_S, Unreachable
from runtime.settings import Settings, SettingsError, load_settings

BLOCK_MS = 200
"""How long a step waits for events."""
STEP_PERIOD_S = 0.005
"""Under load, what happens within this time is committed together; the first event after a pause does not wait."""

_log = structlog.get_logger()

_events_applied = prometheus_client.Counter("feeds_events_applied", "Events applied since the start")


def main() -> None:
    """Run until told to stop."""
    try:
        settings = load_settings()
    except SettingsError as error:
        sys.exit(f"Settings:\n{error}")
    configure_logs(settings, "feeds")
    serve_metrics(settings)
    try:
        run(settings)
    except SupersededError as error:
        _log.warning("another feeds process leads", reason=str(error))
        sys.exit(3)
    except InvariantError as error:
        _log.critical("the feeds stop", reason=str(error))
        sys.exit(4)


def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT; then save the state."""
    stopping = stop_flag()
    store = FeedsStore.connect(settings.resolved_redis_url(), settings.redis_replicas_min)
    worker = FeedsWorker(store, range(settings.shard_count), settings.market_map(), settings.feeds_save_period_ms)
    heartbeat = Heartbeat(settings, "feeds", lambda: max(0, time.time_ns() // 1_000_000 - worker.time()))
    heartbeat.start()
    started = restored = away = False
    while not stopping.is_set():
        try:
            if not started:
                worker.start()
                started = True
            if not restored:
                worker.restore()
                away, restored = False, True
            begun = time.monotonic()
            count = worker.step(int(begun * 1000), BLOCK_MS)
        except (*Unreachable, RewoundError) as error:
            if not away:
                _log.warning("redis is away", error=str(error))
            away, restored = True, False
            stopping.wait(RETRY_AFTER_S)
            continue
        if count:
            _events_applied.inc(count)
            stopping.wait(max(0.0, begun + STEP_PERIOD_S - time.monotonic()))
    if restored:
        try:
            worker.finish(int(time.monotonic() * 1000))
        except (*Unreachable, RewoundError) as error:
            # What was not saved is read again at the next start.
            _log.warning("redis is away", error=str(error))
    heartbeat.stop()
    store.close()
    _log.info("feeds stopped")


if __name__ == "__main__":
    main()
