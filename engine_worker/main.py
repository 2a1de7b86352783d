"""Runs one shard: `python -m engine_worker.main`, with EXCHANGE_SHARD naming the shard.

Of several workers one leads and the others stand by.

    in:{k} ──> worker ──> commit: pos:{k}, ev:{k}, out:{k} ──> replies, other shards' in, answers
          └──> standby, up to pos:{k}
"""

import gc
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import NamedTuple

import msgspec
import structlog

from engine_worker import metrics, snapshot_from_log
from engine_worker.candidate import Candidate
from engine_worker.checksum import StateDiffers
from engine_worker.cores import chosen_core
from engine_worker.frame_core import InvariantBroken
from engine_worker.housekeeping import Care
from engine_worker.lost_tail_check import await_guard
from engine_worker.snapshots import Snapshotter
from engine_worker.worker import FOLLOW_ENTRIES, LogDamaged, Worker
from protocol import streams
from protocol.codec import LaterFormatError
from runtime import process, redis_clients
from runtime.agreement import Agreement
from runtime.lifecycle import stop_flag
from runtime.metrics import (
    HEARTBEAT_INTERVAL_S,
    HEARTBEAT_TTL_S,
    health_keys,
    health_now,
    reach_redis,
)
from runtime.operator_keys import first_config
from runtime.probes import Probes, Reach
from runtime.process import Process
from runtime.redis_reserve import write_reserved
from runtime.settings import Settings
from runtime.tracing import Tracer
from stream_log.durability import NotDurableError, check_durability
from stream_log.halt import HALTED_EXIT_CODE, write_halt
from stream_log.interface import Fenced, Rewound
from stream_log.redis_log import RETRY_AFTER_S, RedisStreamLog, Unreachable

DURABILITY_RETRY_S = 1.0
"""Interval at which a worker that cannot stand by checks the durability of its server."""
DIFFERS_RETRY_S = 30.0
"""After this time a worker whose state differed from the leader's restores the newest snapshot.

The supervisor waits as long after a halt.
"""
BLOCKS_PER_LEASE = 10
"""A step waits for input for this fraction of the lease.

It is the granularity of everything else that this process does.
"""

_log = structlog.get_logger()


def main() -> None:
    """Run until a stop request."""
    process.run(_run, Settings.engine_name)


def _run(started: Process) -> None:
    settings = started.settings
    # Both raise errors in the settings before anything is done.
    first_config(settings)
    chosen_core(settings)
    try:
        run(settings, started.probes, started.tracer())
    except Fenced as error:
        _log.warning("another worker leads", reason=str(error))
        sys.exit(3)
    except LaterFormatError as error:
        _log.critical("this program is too old for the log", shard=settings.shard, reason=str(error))
        sys.exit(HALTED_EXIT_CODE)
    except (InvariantBroken, LogDamaged, NotDurableError) as error:
        _log.critical("the shard stops", shard=settings.shard, reason=str(error))
        _say_halted(settings, str(error))
        sys.exit(HALTED_EXIT_CODE)


def run(settings: Settings, probes: Probes, tracer: Tracer | None = None) -> None:
    """Run the shard until SIGTERM or SIGINT; then save its state."""
    stopping = stop_flag()
    process = _Process(settings, stopping, probes, reach_redis(probes, settings.engine_name()), tracer)
    # A collection would pause matching while it scans all orders. Reference cycles in an unused state are
    # broken up explicitly instead (`Worker.let_go`).
    gc.disable()
    was_away = False
    while not stopping.is_set():
        try:
            _work(process, was_away=was_away)
        except Rewound as error:
            _log.warning("starting anew from what Redis has", reason=str(error))
            was_away = False
        except Unreachable as error:
            _log.warning("redis is away", error=str(error))
            was_away = True
            process.reach.failed(error)
            probes.starting("waiting for Redis")
            stopping.wait(RETRY_AFTER_S)
        except NotDurableError as error:
            # For a standby this is no reason to stop the shard; the server may be corrected meanwhile.
            if not _another_leads(settings):
                raise
            _log.critical("this worker cannot stand by", shard=settings.shard, reason=str(error))
            probes.starting(str(error))
            stopping.wait(DURABILITY_RETRY_S)
        except StateDiffers as error:
            # The leader's state was published, and the leader continues. This process stays, so that its
            # metric is visible.
            if not _another_leads(settings):
                raise
            _log.critical("this worker cannot stand by", shard=settings.shard, reason=str(error))
            metrics.DIFFERS.labels(settings.shard).set(1)
            probes.starting(str(error))
            stopping.wait(DIFFERS_RETRY_S)
    if tracer is not None:
        tracer.close()


class _Process(NamedTuple):
    """State that outlives single workers."""

    settings: Settings
    stopping: threading.Event
    probes: Probes
    reach: Reach
    """Whether Redis answers."""
    tracer: Tracer | None


def _work(process: _Process, *, was_away: bool) -> None:
    """Create a worker from the data in Redis, and let it follow and lead until `stopping`.

    Raises:
        Rewound: Redis has lost data on which the worker is based.
        Unreachable: Redis was unreachable before there was a worker.
    """
    settings = process.settings
    url = settings.resolved_redis_url()
    connect = partial(
        RedisStreamLog.connect,
        shard=settings.shard,
        replicas_min=settings.redis_replicas_min,
        check=check_durability if settings.redis_durability_check_enabled else None,
    )
    log = connect(url, settings.engine_name())
    worker = Worker.of(settings, log, process.tracer)
    try:
        _run_on(log, worker, partial(connect, url), process, was_away=was_away)
    finally:
        worker.let_go()
        log.close()


def _run_on(
    log: RedisStreamLog,
    worker: Worker,
    connect: Callable[[], RedisStreamLog],
    process: _Process,
    *,
    was_away: bool,
) -> None:
    settings, stopping, probes, reach, _ = process
    if settings.lost_tail_check_enabled:
        await_guard(settings.resolved_redis_url(), settings.shard, stopping, probes)
        if stopping.is_set():
            return
    candidate = Candidate(worker, log, settings.engine_name(), os.getpid(), settings.lease_ms)
    probes.starting("restoring the shard's state")
    candidate.join()
    metrics.DIFFERS.labels(settings.shard).set(0)
    probes.ready_when("shard", lambda: why_not_ready(worker, settings.ready_lag_ms_max))
    # The restored state lives as long as the process: forked children, which take snapshots, then share its
    # pages.
    gc.freeze()
    if was_away:
        candidate.redis_was_away()
    snapshotter = Snapshotter(
        worker,
        log,
        connect,
        settings.shard,
        settings.snapshot_interval_s,
        start_from_log=snapshot_from_log.start,
        log_bytes_max=settings.log_mb_max << 20,
    )
    heartbeat = _Heartbeat(settings, worker)
    care = Care(worker, log, settings)
    while not stopping.is_set():
        try:
            processed = candidate.step(settings.lease_ms // BLOCKS_PER_LEASE)
            candidate.tick(time.time_ns() // 1_000)
            # After the step, when no batch is in progress: a snapshot is of committed state.
            snapshotter.run()
            heartbeat.run()
            care.run()
            reach.answered()
            probes.turned()
        except Unreachable as error:
            _log.warning("redis is away", error=str(error))
            candidate.redis_was_away()
            reach.failed(error)
            probes.turned()
            stopping.wait(RETRY_AFTER_S)
            continue
        except (Rewound, StateDiffers):
            # The state that a child is about to save is no longer the log's.
            snapshotter.abandon()
            raise
        if not candidate.leads and processed < FOLLOW_ENTRIES:
            # Also with entries to follow: to read each as it comes would cost more than to lead.
            stopping.wait(candidate.poll_ms / 1_000)
    probes.leaving()
    # The lease first: a standby takes over while this process still saves.
    candidate.leave()
    snapshotter.finish()
    heartbeat.finish()
    _log.info("shard stopped", shard=settings.shard, position=str(worker.position.stream_id))


def why_not_ready(worker: Worker, lag_ms_max: int) -> str | None:
    """Return why a worker is not ready, or None: a standby must be in step."""
    if worker.leads or worker.lag_ms <= lag_ms_max:
        return None
    return f"it stands by, {worker.lag_ms} ms behind; more than {lag_ms_max} is too much"


def _another_leads(settings: Settings) -> bool:
    """Return whether another worker leads the shard and continues, as far as Redis can be asked."""
    try:
        with closing(RedisStreamLog.connect(settings.resolved_redis_url(), shard=settings.shard)) as log:
            sight = log.lease(settings.shard)
    except redis_clients.RedisOutage:
        return False
    leader = sight.leader if sight.connected else None
    return leader is not None and (leader.process, leader.pid) != (settings.engine_name(), os.getpid())


def _say_halted(settings: Settings, reason: str) -> None:
    """Record why the shard is halted, unless another worker leads: then clients must not be refused."""
    try:
        if _another_leads(settings):
            _log.critical("another worker leads the shard; only this one stops", shard=settings.shard)
            return
        client = redis_clients.client_for(settings.resolved_redis_url(), streams.halted(settings.shard))
        write_halt(client, settings.shard, reason)
    except redis_clients.RedisOutage as error:
        _log.warning("the halt is not written down", error=str(error))


class _Heartbeat:
    """Reports that the shard is alive from within its loop.

    A thread would not stop with the loop, and would interfere with a fork.
    """

    def __init__(self, settings: Settings, worker: Worker) -> None:
        self._worker = worker
        self._core = chosen_core(settings)
        metrics.CORE.labels(settings.shard, self._core).set(1)
        self._keys = health_keys(settings.engine_name())
        self._redis = redis_clients.client_for(settings.resolved_redis_url(), self._keys[0])
        self._agreement = Agreement(settings, settings.engine_name(), settings.shard)
        self._due_s = 0.0

    def run(self) -> None:
        if time.monotonic() >= self._due_s:
            self._due_s = time.monotonic() + HEARTBEAT_INTERVAL_S
            lag_ms = None if self._worker.leads else self._worker.lag_ms
            health = msgspec.json.encode(health_now(lag_ms, self._core))
            for key in self._keys:
                write_reserved(self._redis, "SET", key, health, "EX", HEARTBEAT_TTL_S)
            self._agreement.renew_or_end()

    def finish(self) -> None:
        self._redis.delete(*self._keys)
        self._agreement.leave()


if __name__ == "__main__":
    main()
