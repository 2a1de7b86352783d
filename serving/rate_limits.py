"""Rate limits shared by all gateways without a Redis round trip per request.

Each process counts on its own and decides by what it counted plus what all had counted at the last exchange; several
times a second it adds its counts to Redis and reads the totals back. So several gateways together may overshoot a limit by what
arrives in a fraction of a second, never by more. The counting itself (`Windows`) is pure.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import redis.asyncio
import structlog

from functions.errors import ApiError
from protocol import streams
from protocol.units import AccountId, TimeMs
from runtime.redis_clients import RedisOutage
from runtime.settings import Settings
from runtime.tasks import end_tasks
from serving.pipelined import pipelined

_MINUTE_MS: Final = 60_000
_TEN_SECONDS_MS: Final = 10_000
_DAY_MS: Final = 86_400_000
_SYNC_S: Final = 0.15

WEIGHT: Final = "weight"
ORDERS_10S: Final = "orders10s"
ORDERS_DAY: Final = "ordersday"
REFUSALS: Final = "refusals"
"""Requests that came after the limit was used up."""
WINDOW_MS: Final = {WEIGHT: _MINUTE_MS, ORDERS_10S: _TEN_SECONDS_MS, ORDERS_DAY: _DAY_MS, REFUSALS: 2 * _MINUTE_MS}

_REFUSALS_BEFORE_BAN: Final = 600
"""So many refused requests within two minutes ban an address until these two minutes are over."""

_log = structlog.get_logger()


class Bucket(NamedTuple):
    """What is counted, whose, and in which window (its number since the epoch)."""

    kind: str
    owner: str
    window: int


def bucket(kind: str, owner: str, now: TimeMs) -> Bucket:
    """Return the bucket that counts `kind` for `owner` now."""
    return Bucket(kind, owner, now // WINDOW_MS[kind])


def seconds_left(kind: str, now: TimeMs) -> int:
    """Return the seconds until the current window of `kind` ends, at least 1."""
    window_ms = WINDOW_MS[kind]
    return -(-(window_ms - now % window_ms) // 1000)


class Windows:
    """Counts per bucket: what this process added since the last exchange, and the total as of then."""

    def __init__(self) -> None:
        self._total: dict[Bucket, int] = {}
        self._added: dict[Bucket, int] = {}

    def used(self, of: Bucket) -> int:
        """Return the count, never less than 0."""
        return max(0, self._total.get(of, 0) + self._added.get(of, 0))

    def add(self, to: Bucket, count: int) -> int:
        """Add and return the new count."""
        added = self._added[to] = self._added.get(to, 0) + count
        return max(0, self._total.get(to, 0) + added)

    def unsent(self) -> dict[Bucket, int]:
        """Return what was added since the last exchange."""
        return {of: count for of, count in self._added.items() if count}

    def exchanged(self, sent: Mapping[Bucket, int], totals: Mapping[Bucket, int]) -> None:
        """Note that `sent` is now part of `totals`."""
        for of, count in sent.items():
            left = self._added.get(of, 0) - count
            if left:
                self._added[of] = left
            else:
                self._added.pop(of, None)
        self._total.update(totals)

    def forget_before(self, now: TimeMs) -> None:
        """Drop the windows that are over."""
        for counts in (self._total, self._added):
            for of in [of for of in counts if of.window < now // WINDOW_MS[of.kind]]:
                del counts[of]


class RateLimits:
    """The limits of addresses (request weight) and accounts (unfilled orders); implements `functions.ports.OrderCounts`."""

    def __init__(self, settings: Settings) -> None:
        self.enabled = settings.rate_limits_enabled
        self._windows = Windows()
        self._weight_max = settings.request_weight_per_minute
        self._order_limits = (
            (ORDERS_10S, settings.orders_per_10s, "10 SECOND"),
            (ORDERS_DAY, settings.orders_per_day, "1 DAY"),
        )

    def charge(self, address: str, weight: int, now: TimeMs) -> int:
        """Add to the address's request weight and return what it has used.

        Raises:
            ApiError: -1003, HTTP 429 over the limit, 418 for who goes on all the same.
        """
        if not self.enabled:
            return 0
        refusals = bucket(REFUSALS, address, now)
        if self._windows.used(refusals) >= _REFUSALS_BEFORE_BAN:
            left = seconds_left(REFUSALS, now)
            raise ApiError(
                -1003,
                f"Way too much request weight used; IP banned until {now + left * 1000}. "
                "Please use WebSocket Streams for live updates to avoid bans.",
                418,
                left,
            )
        used = self._windows.add(bucket(WEIGHT, address, now), weight)
        if used > self._weight_max:
            self._windows.add(refusals, 1)
            raise ApiError(
                -1003,
                f"Too much request weight used; current limit is {self._weight_max} request weight per 1 MINUTE. "
                "Please use WebSocket Streams for live updates to avoid polling the API.",
                429,
                seconds_left(WEIGHT, now),
            )
        return used

    def give_back(self, address: str, weight: int, now: TimeMs) -> int:
        """Take back what a request was charged at `now`, and return what the address has used."""
        return self._windows.add(bucket(WEIGHT, address, now), -weight) if self.enabled else 0

    def weight_used(self, address: str, now: TimeMs) -> int:
        """Return the address's request weight in the current minute."""
        return self._windows.used(bucket(WEIGHT, address, now))

    def count_order(self, account_id: AccountId, now: TimeMs) -> None:
        """Count one order that is about to be placed.

        Raises:
            ApiError: -1015, the account has used up one of its limits.
        """
        if not self.enabled:
            return
        owner = str(account_id)
        for kind, largest, period in self._order_limits:
            if self._windows.used(bucket(kind, owner, now)) >= largest:
                raise ApiError(
                    -1015,
                    f"Too many new orders; current limit is {largest} orders per {period}.",
                    429,
                    seconds_left(kind, now),
                )
        for kind, _, _ in self._order_limits:
            self._windows.add(bucket(kind, owner, now), 1)

    def forgive_order(self, account_id: AccountId, now: TimeMs) -> None:
        """Take one order back: it was refused, or it traded."""
        if self.enabled:
            for kind, _, _ in self._order_limits:
                self._windows.add(bucket(kind, str(account_id), now), -1)

    def order_counts(self, account_id: AccountId, now: TimeMs) -> tuple[int, int]:
        """Return the counts of the current 10 s and of the current day."""
        owner = str(account_id)
        return (
            self._windows.used(bucket(ORDERS_10S, owner, now)),
            self._windows.used(bucket(ORDERS_DAY, owner, now)),
        )

    async def exchange(self, client: redis.asyncio.Redis, now: TimeMs) -> None:
        """Add what was counted here to Redis and read the totals back."""
        self._windows.forget_before(now)
        sent = self._windows.unsent()
        if not sent:
            return
        commands: list[tuple[str | int, ...]] = []
        for of, count in sent.items():
            key = streams.rate(of.kind, of.owner, of.window)
            commands += (("INCRBY", key, count), ("PEXPIRE", key, 2 * WINDOW_MS[of.kind]))
        answers = await pipelined(client, commands)
        self._windows.exchanged(sent, dict(zip(sent, answers[::2], strict=True)))


class RateLimitExchange:
    """Keeps one process's limits in touch with the others'."""

    def __init__(self, limits: RateLimits, client: redis.asyncio.Redis, now_ms: Callable[[], TimeMs]) -> None:
        self._limits = limits
        self._client = client
        self._now_ms = now_ms
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Exchange a last time and stop."""
        await end_tasks([self._task])
        await self._exchange()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_SYNC_S)
            await self._exchange()

    async def _exchange(self) -> None:
        try:
            await self._limits.exchange(self._client, self._now_ms())
        except RedisOutage as error:
            _log.debug("rate limits not exchanged", error=str(error))
