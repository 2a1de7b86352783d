"""What the gateway counts, for Prometheus."""

from collections.abc import Callable
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

REQUESTS: Final = Counter("gateway_requests", "Requests by function and HTTP status.", ["function", "status"])
LATENCY: Final = Histogram(
    "gateway_request_seconds",
    "Time from request to answer by function.",
    ["function"],
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
PENDING: Final = Gauge("gateway_pending_requests", "Requests that wait for a shard's reply.")
BACKLOG: Final = Gauge("gateway_backlog_age_seconds", "Age of the oldest command that waits in front of a shard.")


class FunctionMetrics:
    """The counters of one function, looked up once."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._latency = LATENCY.labels(name)
        self._by_status: dict[int, Callable[[], None]] = {}

    def observe(self, status: int, seconds: float) -> None:
        """Count one request."""
        count = self._by_status.get(status)
        if count is None:
            count = self._by_status[status] = REQUESTS.labels(self._name, str(status)).inc
        count()
        self._latency.observe(seconds)
