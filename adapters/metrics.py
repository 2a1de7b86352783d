"""The gateway's metrics, for Prometheus."""

from collections.abc import Callable
from enum import StrEnum
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from functions.api.errors import STATUS_UNKNOWN, ApiError

REQUESTS: Final = Counter("gateway_requests", "Requests by function and HTTP status.", ["function", "status"])
LATENCY: Final = Histogram(
    "gateway_request_seconds",
    "Time from request to answer by function.",
    ["function"],
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
PENDING: Final = Gauge("gateway_pending_requests", "Requests that wait for a shard's reply.")
CONNECTIONS: Final = Gauge("gateway_connections", "Open connections.")
CONNECTIONS_MAX: Final = Gauge("gateway_connections_max", "Connections that this gateway holds at most.")
LIMITS_ASKED: Final = Counter("limits_asked", "Requests that had to ask in Redis for their part of a limit.")
LIMITS_ALONE: Final = Gauge(
    "limits_alone",
    "1: limits are counted by this process alone, since the Redis of what may be lost does not answer.",
)
BACKLOG: Final = Gauge(
    "gateway_backlog_age_seconds", "Age of the oldest command that waits in front of a shard.", ["shard"]
)
FILLED: Final = Gauge(
    "gateway_log_filled_ratio",
    "How full a shard's Redis, or what a shard's log may take of it, is: new orders are refused above 1, "
    "cancels above 1.2.",
    ["shard"],
)
CLOCK_OFFSET: Final = Gauge(
    "gateway_clock_offset_seconds",
    "How far the clock of a shard's entries is ahead of this process's own.",
    ["shard"],
)
HALTED: Final = Gauge(
    "gateway_shard_halted", "1: the shard has stopped for good, and says why in Redis.", ["shard"]
)
ORDERS: Final = Counter(
    "gateway_orders",
    "Requests to place an order, by what they were answered: accepted, or the error's code.",
    ["answer"],
)
# At 0, so that the first one is visible as an increase.
_by_answer: dict[str, Callable[[], None]] = {
    answer: ORDERS.labels(answer).inc for answer in ("accepted", str(STATUS_UNKNOWN))
}


class Refusal(StrEnum):
    """Why a request or a connection was refused before it was examined."""

    BANNED = "banned"
    WEIGHT = "weight"
    """Too many requests, too much weight, or too many handshakes."""
    CONNECTIONS = "connections"
    HEAD = "head"
    URL = "url"
    BODY = "body"
    SLOW = "slow"
    """The request did not arrive in time, or the client did not take its answer."""


_REFUSALS: Final = Counter(
    "gateway_refusals", "Requests and connections refused at the door, by reason.", ["reason"]
)
# At 0, so that the first one is visible as an increase.
_by_refusal: Final = {refusal: _REFUSALS.labels(refusal.value).inc for refusal in Refusal}
BATCH: Final = Histogram(
    "gateway_batch_commands",
    "Commands of one event-loop tick that went to a shard together.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000),
)
REPEATED: Final = Counter(
    "gateway_commands_repeated", "Commands sent again because their answer may be lost."
)
_STAGE: Final = Histogram(
    "gateway_stage_seconds",
    "How long a part of an order's way took: parse (of every 16th order: limits, signature, parameters), "
    "append (from a batch's first command until the shard's input has it), reply (from the first command of "
    "a frame of replies until that).",
    ["stage"],
    buckets=(0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)
PARSE: Final = _STAGE.labels("parse")
APPEND: Final = _STAGE.labels("append")
REPLY: Final = _STAGE.labels("reply")
PARSES_EVERY: Final = 16
"""A histogram costs a microsecond, so only a sample of the orders is measured."""


def count_order(error: ApiError | None) -> None:
    """Count the answer to a request to place an order."""
    answer = "accepted" if error is None else str(error.code)
    count = _by_answer.get(answer)
    if count is None:
        count = _by_answer[answer] = ORDERS.labels(answer).inc
    count()


def count_refusal(refusal: Refusal) -> None:
    """Count a refusal at the door."""
    _by_refusal[refusal]()


def refusal_of(error: ApiError) -> Refusal:
    """Return why a request was refused at the door."""
    by_status = {413: Refusal.BODY, 414: Refusal.URL, 418: Refusal.BANNED}
    return by_status.get(error.status, Refusal.WEIGHT)


class FunctionMetrics:
    """The counters of one function, looked up once."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._latency = LATENCY.labels(name)
        # At 0, so that the first failure is visible as an increase.
        self._by_status: dict[int, Callable[[], None]] = {
            status: REQUESTS.labels(name, str(status)).inc for status in (200, 500, 503)
        }

    def observe(self, status: int, seconds: float) -> None:
        """Count one request."""
        count = self._by_status.get(status)
        if count is None:
            count = self._by_status[status] = REQUESTS.labels(self._name, str(status)).inc
        count()
        self._latency.observe(seconds)
