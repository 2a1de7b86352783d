"""The Dramatiq side: a message is a nudge, "look at shard k", without data; the database has the state.

A nudge may therefore be lost, duplicated or late. Dramatiq keeps a message until its worker has acknowledged
it; a killed worker's message is given to another one when the worker's heartbeat is `HEARTBEAT_TIMEOUT_MS`
old.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import dramatiq
import prometheus_client
import redis
import structlog
from dramatiq.brokers.redis import RedisBroker
from dramatiq.errors import DecodeError
from dramatiq.middleware import Middleware, Retries
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from persist.archive import Archiver, LostTailError
from persist.ingest import IngestStoppedError, Progress, ShardIngest
from protocol import streams
from protocol.stream_id import STREAM_START
from protocol.streams import JOBS_NAMESPACE
from runtime.redis_clients import client_for
from runtime.redis_reserve import write_reserved
from stream_log.interface import DeadLetter

QUEUE = "ingest"
ARCHIVE_QUEUE = "archive"
HEARTBEAT_TIMEOUT_MS = 2_000
RETRY_MS_MIN, RETRY_MS_MAX = 250, 4_000
"""Pause before a retry while the database is unreachable."""
POLL_MS = 20
"""Maximum delay before a worker that was woken looks for its nudge to ingest."""
WAKE_S = 0.25
"""How long a worker sleeps until it is woken.

Then it looks anyway: it may not have been told.
"""
_WAKES_MAX = 8
"""Wakes that wait for a worker; one is as good as many."""
SLOW_POLL_MS = RETRY_MS_MIN
"""Maximum delay before it sees a nudge to archive, or one that waits for a retry."""
MAINTENANCE_CHANCE = 100_000
"""How many of a million commands check for dead workers.

An idle worker sends about 12 per second, 4 for each queue.
"""

Nudge = Callable[[int], None]

_log = structlog.get_logger()

_jobs = prometheus_client.Counter(
    "persist_jobs", "Nudges that were worked on, by how that ended", ["actor", "outcome"]
)
_retries = prometheus_client.Counter("persist_job_retries", "Nudges that were worked on once more", ["actor"])
_job_seconds = prometheus_client.Histogram("persist_job_seconds", "How long a nudge was worked on", ["actor"])


class NudgeBroker(RedisBroker):
    """Moves invalid messages into the dead letters of shard 0, and wakes workers that wait for a nudge.

    Without the first, Dramatiq would stop for seconds at each of them. Without the second, a worker would
    have to look fifty times a second whether there is a nudge.
    """

    letters: redis.Redis
    """On a cluster the dead letters are on another node than the queue."""

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = SLOW_POLL_MS) -> dramatiq.Consumer:
        """Return a consumer of a queue that polls every `timeout` ms, more often where it is woken."""
        return super().consume(queue_name, prefetch, POLL_MS if queue_name == QUEUE else timeout)

    def do_fetch(self, queue_name: str, count: int) -> list[Any]:
        """Take up to `count` messages from the queue; called by Dramatiq's consumer."""
        return [
            payload for payload in self._fetch(queue_name, count) if self._is_message(queue_name, payload)
        ]

    def enqueue(self, message: dramatiq.Message[Any], *, delay: int | None = None) -> dramatiq.Message[Any]:
        """Send a nudge, and wake a worker."""
        sent = super().enqueue(message, delay=delay)
        if message.queue_name == QUEUE and delay is None:
            wakes = _wakes(self.namespace)
            with self.client.pipeline(transaction=False) as pipeline:
                pipeline.lpush(wakes, 1)
                pipeline.ltrim(wakes, 0, _WAKES_MAX - 1)
                pipeline.execute()
        return sent

    def _fetch(self, queue_name: str, count: int) -> list[Any]:
        fetched = self._take(queue_name, count)
        if not fetched and queue_name == QUEUE and self.client.blpop([_wakes(self.namespace)], WAKE_S):
            return self._take(queue_name, count)
        return fetched

    def _take(self, queue_name: str, count: int) -> list[Any]:
        taken: list[Any] = self.__getattr__("do_fetch")(queue_name, count)  # type: ignore[no-untyped-call]
        return taken

    def _is_message(self, queue_name: str, payload: Any) -> bool:
        if payload is None:
            return True  # the consumer skips it
        try:
            dramatiq.Message.decode(payload).options["redis_message_id"]
        except (DecodeError, TypeError, ValueError, LookupError) as error:
            self._bury(queue_name, payload, f"{type(error).__name__}: {error}")
            return False
        return True

    def _bury(self, queue_name: str, payload: bytes, reason: str) -> None:
        _log.warning("nudge not understood", queue=queue_name, reason=reason)
        source = f"{self.namespace}:{queue_name}"
        # Only the queue's own table has its name.
        named: Any = self.client.hgetall(f"{source}.msgs")
        names = [name.decode("utf-8", "replace") for name, value in named.items() if value == payload]
        letter = DeadLetter(source, names[0] if names else STREAM_START, reason, payload)
        fields = (part for pair in letter.fields().items() for part in pair)
        write_reserved(self.letters, "XADD", streams.dead_letters(0), "*", *fields)
        if names:
            self.do_ack(queue_name, names[0])


def _wakes(namespace: str) -> str:
    return f"{namespace}:{QUEUE}.wakes"


class _Counting(Middleware):
    """Counts the outcomes of nudges."""

    def __init__(self) -> None:
        self._thread = threading.local()
        """Per worker thread, which handles one nudge at a time: when that began."""

    def after_worker_boot(self, broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        """Start at 0, so that the first failure is visible as an increase."""
        for actor in broker.get_declared_actors():
            for outcome in ("done", "failed"):
                _jobs.labels(actor, outcome)
            _retries.labels(actor)
            _job_seconds.labels(actor)

    def before_process_message(self, _broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        """Record when it began."""
        if message.options.get("retries"):
            _retries.labels(message.actor_name).inc()
        self._thread.began = time.perf_counter()

    def after_process_message(
        self,
        _broker: dramatiq.Broker,
        message: dramatiq.MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        """Count it."""
        _jobs.labels(message.actor_name, "done" if exception is None else "failed").inc()
        _job_seconds.labels(message.actor_name).observe(time.perf_counter() - self._thread.began)


def make_broker(redis_url: str, letters_url: str = "") -> RedisBroker:
    """Return the broker of nudges, at `redis_url`.

    Invalid messages become dead letters at `letters_url`, or there, too.
    """
    broker = NudgeBroker(  # type: ignore[no-untyped-call]  # the library lacks the annotation
        # Its script builds its keys itself; with a hash tag as namespace all of them are on one node of a
        # cluster.
        client=client_for(
            redis_url, JOBS_NAMESPACE, retry=Retry(ExponentialWithJitterBackoff(base=0.01, cap=1), 10)
        ),
        namespace=JOBS_NAMESPACE,
        middleware=[Retries(min_backoff=RETRY_MS_MIN, max_backoff=RETRY_MS_MAX), _Counting()],
        heartbeat_timeout=HEARTBEAT_TIMEOUT_MS,
        maintenance_chance=MAINTENANCE_CHANCE,
    )
    broker.letters = client_for(letters_url or redis_url, streams.dead_letters(0))
    return broker


def declare_ingest(broker: RedisBroker, ingest: Callable[[int], None]) -> dramatiq.Actor[[int], None]:
    """Declare the actor that runs `ingest` for a nudge; `actor.send(shard)` sends one."""
    declare = dramatiq.actor(actor_name="ingest_shard", queue_name=QUEUE, broker=broker, max_retries=None)
    return declare(ingest)


def declare_archive(broker: RedisBroker, archive: Callable[[], None]) -> dramatiq.Actor[[], None]:
    """Declare the actor that runs `archive` for a nudge."""
    declare = dramatiq.actor(actor_name="archive", queue_name=ARCHIVE_QUEUE, broker=broker, max_retries=None)
    return declare(archive)


def archive_once(archiver: Archiver) -> None:
    """Handle a nudge to archive.

    Errors of the database or of Redis are raised, so that Dramatiq retries.
    """
    try:
        archiver.step()
    except LostTailError as error:
        _log.critical("the archive stands still", reason=str(error))


class IngestRunner:
    """Handles nudges to ingest: ingests the shard until it has caught up or the process stops."""

    def __init__(self, ingests: Mapping[int, ShardIngest], stopping: threading.Event) -> None:
        self._ingests = {shard: (ingest, threading.Lock()) for shard, ingest in ingests.items()}
        self._stopping = stopping
        self._stopped: dict[int, str] = {}
        self._began_s: dict[int, float | None] = dict.fromkeys(ingests)
        self._asked_s = dict.fromkeys(ingests, time.monotonic())

    def run(self, shard: int) -> None:
        """Ingest one shard. Errors of the database or of Redis are raised, so that Dramatiq retries."""
        if shard not in self._ingests:
            _log.error("nudged about a shard that is not configured", shard=shard)
            return
        ingest, lock = self._ingests[shard]
        self._asked_s[shard] = time.monotonic()
        with lock:
            try:
                while not self._stopping.is_set() and self._step(shard, ingest) is Progress.MORE:
                    pass
            except IngestStoppedError as error:
                # The error is reported already; the next sweep tries again.
                self._stopped[shard] = str(error)
            else:
                self._stopped.pop(shard, None)

    def _step(self, shard: int, ingest: ShardIngest) -> Progress:
        self._began_s[shard] = time.monotonic()
        try:
            return ingest.step()
        finally:
            self._began_s[shard] = None

    def sweep(self, unasked_s: float) -> bool:
        """Ingest the shards without a nudge for `unasked_s`, and return whether there were any.

        The queue, which may be lost, unreachable or full, only speeds this up. Errors of the database or of
        Redis are raised.
        """
        now_s = time.monotonic()
        unasked = [shard for shard, asked_s in self._asked_s.items() if now_s - asked_s >= unasked_s]
        for shard in unasked:
            self.run(shard)
        return bool(unasked)

    def stopped(self) -> dict[int, str]:
        """Return the shards whose ingest has stopped, with the reasons."""
        return dict(self._stopped)

    def under_way_s(self) -> float:
        """Return the duration of the longest batch in progress."""
        began_s = [began for began in self._began_s.values() if began is not None]
        return time.monotonic() - min(began_s) if began_s else 0.0

    def close(self) -> None:
        """Close the connections."""
        for ingest, _ in self._ingests.values():
            ingest.close()
