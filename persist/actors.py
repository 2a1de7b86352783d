"""The Dramatiq side: a message is a nudge, "look at shard k", with no data; the database knows what is done.

So a nudge may be lost, doubled or late. Dramatiq keeps a message until its worker has acknowledged it; that of a worker which was
killed goes to another as soon as the worker's heartbeat is `HEARTBEAT_TIMEOUT_MS` old.
"""

import threading
from collections.abc import Callable, Mapping

import dramatiq
import structlog
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Retries
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from persist.ingest import IngestStoppedError, Progress, ShardIngest
from protocol.streams import JOBS_NAMESPACE
from runtime.redis_clients import client_for

QUEUE = "ingest"
HEARTBEAT_TIMEOUT_MS = 2_000
MAINTENANCE_CHANCE = 100_000
"""Of a million commands, how many look for dead workers; an idle worker sends some 20 per second."""
RETRY_MS_MIN, RETRY_MS_MAX = 250, 4_000
"""Pause before another attempt while the database is away."""

Nudge = Callable[[int], None]

_log = structlog.get_logger()


def make_broker(redis_url: str) -> RedisBroker:
    """Return the broker that nudges go through."""
    return RedisBroker(  # type: ignore[no-untyped-call]  # the library lacks the annotation
        # Its script makes up its keys by itself; with a namespace that is a hash tag they all are on one node of a cluster.
        client=client_for(redis_url, JOBS_NAMESPACE, retry=Retry(ExponentialWithJitterBackoff(base=0.01, cap=1), 10)),
        namespace=JOBS_NAMESPACE,
        middleware=[Retries(min_backoff=RETRY_MS_MIN, max_backoff=RETRY_MS_MAX)],
        heartbeat_timeout=HEARTBEAT_TIMEOUT_MS,
        maintenance_chance=MAINTENANCE_CHANCE,
    )


def declare_ingest(broker: RedisBroker, ingest: Callable[[int], None]) -> dramatiq.Actor[[int], None]:
    """Declare the actor that runs `ingest` for a nudge; to send one is `actor.send(shard)`."""
    declare = dramatiq.actor(actor_name="ingest_shard", queue_name=QUEUE, broker=broker, max_retries=None)
    return declare(ingest)


class IngestRunner:
    """What a worker does for a nudge: ingest the shard until it is caught up or the process stops."""

    def __init__(self, ingests: Mapping[int, ShardIngest], stopping: threading.Event) -> None:
        self._ingests = {shard: (ingest, threading.Lock()) for shard, ingest in ingests.items()}
        self._stopping = stopping

    def run(self, shard: int) -> None:
        """Ingest one shard. An error of the database or of Redis goes up, so that Dramatiq tries again."""
        if shard not in self._ingests:
            _log.error("nudged about a shard that is not configured", shard=shard)
            return
        ingest, lock = self._ingests[shard]
        with lock:
            try:
                while not self._stopping.is_set() and ingest.step() is Progress.MORE:
                    pass
            except IngestStoppedError:
                # It has said so; the next sweep looks again.
                return

    def close(self) -> None:
        """Let go of the connections."""
        for ingest, _ in self._ingests.values():
            ingest.close()
