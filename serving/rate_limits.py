"""Rate limits shared by all processes without a Redis round trip per request.

Each process counts on its own and decides by what it counted plus what all had counted at the last exchange; several
times a second it adds its counts to Redis and reads the totals back. So several gateways together may overshoot a limit by what
arrives in a fraction of a second, never by more. What is counted is a network (`networks_of`), not an address. The counting
(`Windows`) and the bans (`Bans`) are pure. Bans stand in the Redis of what must not be lost: docs/decisions/0035.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, NamedTuple

import redis.asyncio
import structlog

from functions.errors import ApiError
from protocol import streams
from protocol.units import AccountId, TimeMs
from runtime.redis_clients import RedisOutage
from runtime.settings import Settings
from runtime.tasks import end_tasks
from serving.bans import BANS_MAX, Ban, Bans
from serving.networks import WIDE_FACTOR, Networks, networks_of
from serving.pipelined import pipelined

_MINUTE_MS: Final = 60_000
_TEN_SECONDS_MS: Final = 10_000
_DAY_MS: Final = 86_400_000
_SYNC_S: Final = 0.15

WEIGHT: Final = "weight"
RAW_REQUESTS: Final = "raw"
CONNECTIONS: Final = "connections"
ORDERS_10S: Final = "orders10s"
ORDERS_DAY: Final = "ordersday"
REFUSALS: Final = "refusals"
"""Requests that came after a limit was used up."""
WINDOW_MS: Final = {
    WEIGHT: _MINUTE_MS,
    RAW_REQUESTS: 5 * _MINUTE_MS,
    CONNECTIONS: 5 * _MINUTE_MS,
    ORDERS_10S: _TEN_SECONDS_MS,
    ORDERS_DAY: _DAY_MS,
    REFUSALS: 2 * _MINUTE_MS,
}

REFUSALS_BEFORE_BAN: Final = 600
"""So many refused requests within two minutes ban a network."""
_BUCKETS_PER_EXCHANGE: Final = 5_000
"""What one exchange sends at most, so that it never takes long; the next one goes on."""
_BANS_PER_READ: Final = 1_000
_UNSENT_BANS_MAX: Final = 10_000
"""Bans that wait for a Redis that cannot take them; the oldest are then known to this process alone."""

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


class _Window:
    """One window of one kind: counts by owner."""

    __slots__ = ("added", "total")

    def __init__(self) -> None:
        self.total: dict[str, int] = {}
        self.added: dict[str, int] = {}


class Windows:
    """Counts per bucket: what this process added since the last exchange, and the total as of then.

    A window that is over is dropped whole: no step looks at every owner.
    """

    def __init__(self) -> None:
        self._windows: dict[tuple[str, int], _Window] = {}

    def used(self, of: Bucket) -> int:
        """Return the count, never less than 0."""
        window = self._windows.get((of.kind, of.window))
        return max(0, window.total.get(of.owner, 0) + window.added.get(of.owner, 0)) if window is not None else 0

    def add(self, to: Bucket, count: int) -> int:
        """Add and return the new count."""
        return self._add(to.kind, to.owner, to.window, count)

    def add_now(self, kind: str, owner: str, now: TimeMs, count: int) -> int:
        """Add to the bucket of now and return the new count: each request comes by here, so it makes no `Bucket`."""
        return self._add(kind, owner, now // WINDOW_MS[kind], count)

    def _add(self, kind: str, owner: str, number: int, count: int) -> int:
        window = self._windows.get((kind, number))
        if window is None:
            window = self._windows[kind, number] = _Window()
        added = window.added[owner] = window.added.get(owner, 0) + count
        used = window.total.get(owner, 0) + added
        return used if used > 0 else 0

    def unsent(self, most: int | None = None) -> dict[Bucket, int]:
        """Return what was added since the last exchange: of `most` buckets, or all."""
        return dict(islice(self._unsent(), most))

    def _unsent(self) -> Iterator[tuple[Bucket, int]]:
        for (kind, number), window in self._windows.items():
            for owner, count in window.added.items():
                if count:
                    yield Bucket(kind, owner, number), count

    def exchanged(self, sent: Mapping[Bucket, int], totals: Mapping[Bucket, int]) -> None:
        """Note that `sent` is now part of `totals`."""
        for of, count in sent.items():
            window = self._windows.get((of.kind, of.window))
            if window is None:
                continue  # it is over
            left = window.added.get(of.owner, 0) - count
            if left:
                window.added[of.owner] = left
            else:
                window.added.pop(of.owner, None)
        for of, total in totals.items():
            window = self._windows.get((of.kind, of.window))
            if window is not None:
                window.total[of.owner] = total

    def forget_before(self, now: TimeMs) -> None:
        """Drop the windows that are over."""
        for kind, number in [each for each in self._windows if each[1] < now // WINDOW_MS[each[0]]]:
            del self._windows[kind, number]


class RateLimits:
    """The limits of networks (requests, their weight, connections) and accounts (unfilled orders).

    Implements `functions.ports.OrderCounts`.
    """

    def __init__(self, settings: Settings) -> None:
        self.enabled = settings.rate_limits_enabled
        self._windows = Windows()
        self._bans = Bans()
        self._unsent_bans: deque[Ban] = deque(maxlen=_UNSENT_BANS_MAX)
        self._last_ban = "-"
        """The stream id of the last ban that was read; "-": none."""
        self._on_ban: list[Callable[[Ban], None]] = []
        self._weight_max = settings.request_weight_per_minute
        self._raw_max = settings.raw_requests_per_5m
        self._connections_max = settings.ws_connections_per_5m
        self._order_limits = (
            (ORDERS_10S, settings.orders_per_10s, "10 SECOND"),
            (ORDERS_DAY, settings.orders_per_day, "1 DAY"),
        )

    def call_when_banned(self, callback: Callable[[Ban], None]) -> None:
        """Call `callback` for each ban from now on, also for one that another process made."""
        self._on_ban.append(callback)

    def charge(self, address: str, weight: int, now: TimeMs) -> int:
        """Count one request and add to its network's request weight; return what the network has used.

        `weight` is what is known of it before anything is read: `correct` adds the rest.

        Raises:
            ApiError: -1003, HTTP 429 over a limit, 418 for a network that is banned.
        """
        if not self.enabled:
            return 0
        networks = networks_of(address)
        if self._bans:
            self._refuse_banned(networks, now)
        if self._is_over(RAW_REQUESTS, networks, 1, self._raw_max, now):
            # The weight counts all the same, as that of every refused request.
            self._windows.add_now(WEIGHT, networks.own, now, weight)
            self._note_refusal(networks, now)
            raise _too_much(
                "Too many requests", f"{self._raw_max} requests per 5 MINUTE", seconds_left(RAW_REQUESTS, now)
            )
        return self._weigh(networks, weight, now)

    def correct(self, address: str, more: int, now: TimeMs) -> int:
        """Add to the weight of a request that was charged, or take some back; return what its network has used.

        Raises:
            ApiError: -1003, HTTP 429 over the limit.
        """
        return self._weigh(networks_of(address), more, now) if self.enabled else 0

    def count_connection(self, address: str, now: TimeMs) -> None:
        """Count one attempt to open a WebSocket.

        Raises:
            ApiError: -1034, HTTP 429, too many within five minutes.
        """
        if not self.enabled:
            return
        networks = networks_of(address)
        if self._is_over(CONNECTIONS, networks, 1, self._connections_max, now):
            self._note_refusal(networks, now)
            raise ApiError(
                -1034,
                f"Too many connection attempts from IP; current limit is {self._connections_max} per '5 MINUTE'.",
                429,
                seconds_left(CONNECTIONS, now),
            )

    def weight_used(self, address: str, now: TimeMs) -> int:
        """Return the request weight that an address's network has used in the current minute."""
        return self._windows.used(bucket(WEIGHT, networks_of(address).own, now))

    def _weigh(self, networks: Networks, weight: int, now: TimeMs) -> int:
        used = self._windows.add_now(WEIGHT, networks.own, now, weight)
        over = used > self._weight_max
        if networks.wide:
            wide_used = self._windows.add_now(WEIGHT, networks.wide, now, weight)
            over = over or wide_used > self._weight_max * WIDE_FACTOR
        if over and weight > 0:
            self._note_refusal(networks, now)
            limit = f"{self._weight_max} request weight per 1 MINUTE"
            raise _too_much("Too much request weight used", limit, seconds_left(WEIGHT, now))
        return used

    def _is_over(self, kind: str, networks: Networks, count: int, largest: int, now: TimeMs) -> bool:
        over = self._windows.add_now(kind, networks.own, now, count) > largest
        if networks.wide:
            over = self._windows.add_now(kind, networks.wide, now, count) > largest * WIDE_FACTOR or over
        return over

    def _note_refusal(self, networks: Networks, now: TimeMs) -> None:
        for network, most in ((networks.own, REFUSALS_BEFORE_BAN), (networks.wide, REFUSALS_BEFORE_BAN * WIDE_FACTOR)):
            if (
                network
                and self._windows.add_now(REFUSALS, network, now, 1) >= most
                and self._bans.until(network, now) is None
            ):
                ban = self._bans.ban(network, now)
                self._unsent_bans.append(ban)
                self._tell(ban)

    def _refuse_banned(self, networks: Networks, now: TimeMs) -> None:
        until = self._bans.until(networks.own, now)
        if until is None and networks.wide:
            until = self._bans.until(networks.wide, now)
        if until is not None:
            raise ApiError(
                -1003,
                f"Way too much request weight used; IP banned until {until}. "
                "Please use WebSocket Streams for live updates to avoid bans.",
                418,
                -(-(until - now) // 1000),
            )

    def _tell(self, ban: Ban) -> None:
        _log.info("network banned", network=ban.network, until=ban.until, times=ban.times)
        for callback in self._on_ban:
            callback(ban)

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
            self._windows.add_now(kind, owner, now, 1)

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
        sent = self._windows.unsent(_BUCKETS_PER_EXCHANGE)
        if not sent:
            return
        commands: list[tuple[str | int, ...]] = []
        for of, count in sent.items():
            key = streams.rate(of.kind, of.owner, of.window)
            commands += (("INCRBY", key, count), ("PEXPIRE", key, 2 * WINDOW_MS[of.kind]))
        answers = await pipelined(client, commands)
        self._windows.exchanged(sent, dict(zip(sent, answers[::2], strict=True)))

    async def exchange_bans(self, client: redis.asyncio.Redis, now: TimeMs) -> None:
        """Read the bans of others from `client`, the Redis of what must not be lost, and write those that were made here."""
        self._bans.forget(now)
        while True:
            start = self._last_ban if self._last_ban == "-" else f"({self._last_ban}"
            entries: Any = await client.xrange(streams.bans(), start, "+", _BANS_PER_READ)
            for entry_id, written in entries:
                self._last_ban = entry_id.decode()
                other = _ban_of(written)
                if other is not None and self._bans.learn(other) and now < other.until:
                    self._tell(other)
            if len(entries) < _BANS_PER_READ:
                break
        while self._unsent_bans:
            ban = self._unsent_bans[0]
            fields: dict[Any, Any] = {"network": ban.network, "until": ban.until, "times": ban.times}
            await client.xadd(streams.bans(), fields, maxlen=BANS_MAX, approximate=True)
            if self._unsent_bans and self._unsent_bans[0] is ban:  # else it has made room meanwhile
                self._unsent_bans.popleft()


def _ban_of(fields: Mapping[bytes, bytes]) -> Ban | None:
    """Return the ban of an entry; None: a later release wrote it in another form."""
    try:
        return Ban(fields[b"network"].decode(), TimeMs(int(fields[b"until"])), int(fields[b"times"]))
    except (KeyError, ValueError):
        return None


def _too_much(what: str, limit: str, retry_after_s: int) -> ApiError:
    return ApiError(
        -1003,
        f"{what}; current limit is {limit}. Please use WebSocket Streams for live updates to avoid polling the API.",
        429,
        retry_after_s,
    )


class RateLimitExchange:
    """Keeps one process's limits in touch with the others': counts in `cache`, which may be lost, and bans in `log`."""

    def __init__(
        self,
        limits: RateLimits,
        cache: redis.asyncio.Redis,
        log: redis.asyncio.Redis,
        now_ms: Callable[[], TimeMs],
    ) -> None:
        self._limits = limits
        self._cache = cache
        self._log = log
        self._now_ms = now_ms
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Exchange a last time and stop."""
        await end_tasks([self._task])
        await self._exchange()

    async def _run(self) -> None:
        while True:
            await self._exchange()
            await asyncio.sleep(_SYNC_S)

    async def _exchange(self) -> None:
        if not self._limits.enabled:
            return
        for exchange, client in ((self._limits.exchange, self._cache), (self._limits.exchange_bans, self._log)):
            try:
                await exchange(client, self._now_ms())
            except RedisOutage as error:
                _log.debug("rate limits not exchanged", error=str(error))
