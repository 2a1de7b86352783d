"""Runs the feeds of all shards, or of those in EXCHANGE_FEEDS_SHARDS: `python -m feeds.main`.

ev:{k} ──> worker ──> commit: feeds:{k}, read models, pub:SYMBOL:KIND, account:ID
repeat:{k}, ev:{k} ──> repeats ──> repeated:NAME:{k}
"""

import sys
import time

import structlog

from feeds.missed_events import Repeats
from feeds.store import FeedsStore
from feeds.worker import FeedsWorker
from protocol.codec import LaterFormatError
from protocol.violations import InvariantBroken, MarketsUnknownError
from runtime import process
from runtime.lifecycle import stop_flag
from runtime.metrics import Heartbeat, reach_redis
from runtime.probes import Probes
from runtime.process import Process
from runtime.settings import Settings
from runtime.tracing import Tracer
from stream_log.interface import Fenced, Rewound
from stream_log.redis_log import RETRY_AFTER_S, Unreachable

PROCESS = "feeds"
BLOCK_MS = 200
"""How long a step waits for events."""
STEP_PERIOD_S = 0.005
"""Under load, the events of this time are committed together.

The first event after a pause does not wait.
"""

_log = structlog.get_logger()


def main() -> None:
    """Run until a stop request."""
    # A new process starts before the one that it replaces ends, so for a moment both use the port.
    process.run(_run, lambda settings: settings.name_of_process(PROCESS), is_metrics_port_shared=True)


def _run(started: Process) -> None:
    try:
        run(started.settings, started.probes, started.tracer())
    except Fenced as error:
        _log.warning("another feeds process leads", reason=str(error))
        sys.exit(3)
    except (InvariantBroken, LaterFormatError) as error:
        _log.critical("the feeds stop", reason=str(error))
        sys.exit(4)


def run(settings: Settings, probes: Probes, tracer: Tracer | None = None) -> None:
    """Run until SIGTERM or SIGINT; then save the state."""
    stopping = stop_flag()
    store = FeedsStore.connect(
        settings.resolved_redis_url(), settings.redis_replicas_min, settings.resolved_cache_url()
    )
    shards, name = settings.shards_of_feeds(), settings.name_of_process(PROCESS)
    _log.info("following", shards=shards)
    worker = FeedsWorker(store, shards, settings.feeds_save_period_ms, tracer)

    repeats = Repeats(settings.resolved_redis_url(), settings.resolved_cache_url(), shards)
    repeats.start()
    reach = reach_redis(probes, name)
    probes.ready_when("lag", lambda: _why_not_ready(worker.behind_ms(), settings.ready_lag_ms_max))
    heartbeat = Heartbeat(settings, name, worker.behind_ms)
    heartbeat.start()
    started = restored = away = False
    while not stopping.is_set():
        try:
            # Once, not after every outage: it raises the epoch, and would end the process that has taken over
            # meanwhile. `restore` finds out whether one has (`Fenced`).
            if not started:
                worker.start()
                started = True
            if not restored:
                worker.restore()
                away, restored = False, True
            step_start_s = time.monotonic()
            count = worker.step(int(step_start_s * 1000), BLOCK_MS)
            reach.answered()
            probes.turned()
        except MarketsUnknownError as error:
            reach.answered()
            if not away:
                _log.warning("the feeds wait", reason=str(error))
            away = True
            probes.starting(str(error))
            stopping.wait(RETRY_AFTER_S)
            continue
        except (*Unreachable, Rewound) as error:
            if not away:
                _log.warning("redis is away", error=str(error))
            away, restored = True, False
            reach.failed(error)
            probes.starting("waiting for Redis, to restore the feeds' state")
            stopping.wait(RETRY_AFTER_S)
            continue
        if count:
            stopping.wait(max(0.0, step_start_s + STEP_PERIOD_S - time.monotonic()))
    probes.leaving()
    if restored:
        try:
            worker.finish(int(time.monotonic() * 1000))
        except (*Unreachable, Rewound) as error:
            # Unsaved events are read again at the next start.
            _log.warning("redis is away", error=str(error))
    repeats.close()
    heartbeat.stop()
    store.close()
    if tracer is not None:
        tracer.close()
    _log.info("feeds stopped")


def _why_not_ready(lag_ms: int, lag_ms_max: int) -> str | None:
    return (
        None
        if lag_ms <= lag_ms_max
        else f"the feeds are {lag_ms} ms behind; more than {lag_ms_max} is too much"
    )


if __name__ == "__main__":
    main()
