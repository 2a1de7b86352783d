"""What a process tells about itself: metrics for Prometheus, and a heartbeat in Redis for `exchange status`.

Metrics are declared where they are counted, with `prometheus_client` itself. Counting is an addition in memory; nothing here is
on the way of an order.
"""

import os
import threading
import time
from collections.abc import Callable

import msgspec
import prometheus_client
import redis
import structlog

from protocol import streams
from runtime import redis_clients
from runtime.settings import Settings

HEARTBEAT_INTERVAL_S = 1.0
HEARTBEAT_TTL_S = 10

_log = structlog.get_logger()


class Health(msgspec.Struct, frozen=True):
    """What a process said last: who it is, when (seconds since the epoch), and how far behind (milliseconds; None: it has no backlog)."""

    pid: int
    time: float
    lag_ms: int | None = None


def serve_metrics(settings: Settings) -> None:
    """Serve this process's metrics over HTTP when a port is set for it."""
    if settings.metrics_port:
        prometheus_client.start_http_server(settings.metrics_port, settings.host)


class Heartbeat:
    """Writes `health:NAME` every second from a thread of its own, so that a busy process still answers for itself.

    `lag_ms` is called for the milliseconds that the process is behind, if it has a backlog at all.
    """

    def __init__(self, settings: Settings, process: str, lag_ms: Callable[[], int] | None = None) -> None:
        self._key = streams.health(process)
        self._redis = redis_clients.client_for(
            settings.resolved_redis_url(), self._key, socket_timeout=float(HEARTBEAT_TTL_S)
        )
        self._lag_ms = lag_ms
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write no more, and say that the process left."""
        self._stopped.set()
        self._thread.join(HEARTBEAT_INTERVAL_S)
        try:
            self._redis.delete(self._key)
        except redis.RedisError as error:
            _log.debug("heartbeat not removed", error=str(error))
        self._redis.close()

    def _beat(self) -> None:
        while not self._stopped.is_set():
            health = Health(os.getpid(), time.time(), self._lag_ms() if self._lag_ms else None)
            try:
                self._redis.set(self._key, msgspec.json.encode(health), ex=HEARTBEAT_TTL_S)
            except redis.RedisError as error:
                _log.debug("heartbeat not written", error=str(error))
            self._stopped.wait(HEARTBEAT_INTERVAL_S)


def read_health(client: redis.Redis, process: str) -> Health | None:
    """Return what a process said last, None when it has been silent for `HEARTBEAT_TTL_S`."""
    payload = client.get(streams.health(process))
    return msgspec.json.decode(payload, type=Health) if isinstance(payload, bytes) else None
