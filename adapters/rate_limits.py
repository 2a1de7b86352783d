"""Rate limits shared by all processes, without a Redis round trip per request.

A process admits requests from its share of a limit, and asks for more when the share does not suffice: the
arithmetic is in adapters/shares.py, the connection to Redis in adapters/limit_exchange.py. Limits count
networks (`networks_of`), not addresses, and accounts' unfilled orders. Bans are stored in the durable Redis:
docs/decisions/0035, 0037.

A method that returns an awaitable has not decided: the caller awaits it. Far from a limit it returns None.
"""

import asyncio
import zlib
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, Protocol

import redis.asyncio
import structlog

from adapters.bans import BANS_MAX, Ban, Bans
from adapters.networks import WIDE_FACTOR, Networks, networks_of
from adapters.shares import Bucket, Share, Word
from functions.api.errors import ApiError
from protocol import streams
from protocol.market import MarketMap
from protocol.units import AccountId, TimeMs
from runtime.settings import Settings

_MINUTE_MS: Final = 60_000

WEIGHT: Final = "weight"
RAW_REQUESTS: Final = "raw"
CONNECTIONS: Final = "connections"
ORDERS_10S: Final = streams.ORDERS_10S
ORDERS_DAY: Final = streams.ORDERS_DAY
REFUSALS: Final = "refusals"
"""Requests after a limit was used up."""
WINDOW_MS: Final = {
    WEIGHT: _MINUTE_MS,
    RAW_REQUESTS: 5 * _MINUTE_MS,
    CONNECTIONS: 5 * _MINUTE_MS,
    REFUSALS: 2 * _MINUTE_MS,
    **streams.ORDER_WINDOWS_MS,
}

REFUSALS_BEFORE_BAN: Final = 600
"""A network with this many refused requests within two minutes is banned."""
_WAIT_S_MAX: Final = 0.25
"""How long a request waits for shares that other processes hold of its limit."""
_TTL_EXTRA_MS: Final = 60_000
"""How long a pot outlives its window, for processes whose clock is behind."""
_AHEAD_MS: Final = 1_000
"""This long before a window ends, its active owners get a share of the next one."""
_AHEAD_PER_TURN: Final = 2_000
_BANS_PER_READ: Final = 1_000
_UNSENT_BANS_MAX: Final = 10_000
"""Maximum of bans that wait for an unavailable Redis; older ones are then known only to this process."""

_log = structlog.get_logger()

Undecided = Awaitable[None]
"""Completes when a request is admitted, or raises its refusal."""
Short = Sequence[tuple[Share, int]]
"""Insufficient shares, and the amount needed of each."""
Over = Callable[[Short], Undecided | None]
"""Raises a refusal, or returns an awaitable that does."""


def seconds_left(kind: str, now: TimeMs) -> int:
    """Return the seconds until the current window of `kind` ends, at least 1."""
    window_ms = WINDOW_MS[kind]
    return -(-(window_ms - now % window_ms) // 1000)


class Pots(Protocol):
    """The counts of all processes together."""

    @property
    def hears(self) -> bool:
        """Whether every change of a pot is received."""
        ...

    @property
    def processes(self) -> int:
        """The number of processes that share the limits."""
        ...

    is_away: bool
    """Whether the pots are unreachable."""
    outage: int
    """The number of the current or last outage, from 1."""

    def ask(self, share: Share, needed: int) -> Awaitable[bool | None]:
        """Request an amount: True, it was granted; False, it was not; None: the pots are unreachable."""
        ...

    def hand_back(self, share: Share) -> None:
        """Return the rest of a share at once."""
        ...


class _Alone:
    """The pots of a process that shares its limits with no other."""

    hears, processes, is_away, outage = True, 1, True, 1

    async def ask(self, _share: Share, _needed: int) -> bool | None:
        """Answer that the pots are unreachable."""
        return None

    def hand_back(self, share: Share) -> None:
        """Do nothing."""


class _Lane:
    """The shares of one kind in the current window.

    A finished window is dropped as a whole: no step iterates over every owner.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.window_ms = WINDOW_MS[kind]
        self.number = -1
        self.since = self.until = 0
        """The bounds of the window (ms)."""
        self.shares: dict[str, Share] = {}
        self.next: dict[str, Share] = {}
        """Shares of the next window."""
        self.active: dict[str, None] = {}
        """Owners that have used something in this window, as far as it was reported."""

    def turn(self, now: TimeMs) -> None:
        """Begin the window of `now`.

        A clock that goes back by less than a window does not begin the previous one again.
        """
        if self.since - self.window_ms <= now < self.until:
            return
        number = now // self.window_ms
        self.shares = self.next if number == self.number + 1 else {}
        self.next, self.active = {}, {}
        self.number, self.since, self.until = number, number * self.window_ms, (number + 1) * self.window_ms


class RateLimits:
    """The limits of networks (requests, their weight, connections) and accounts (unfilled orders).

    Implements `functions.api.ports.OrderCounts`.
    """

    def __init__(
        self, settings: Settings, shard_of_account: Callable[[AccountId], int] | None = None
    ) -> None:
        """Count with the limits of the settings, alone until `share_with`.

        `shard_of_account` gives the place of an account's counts.
        """
        self.enabled = settings.rate_limits_enabled
        self._shard_count = settings.shard_count
        self._shard_of_account = (
            shard_of_account or MarketMap.placed([], settings.shard_count).shard_of_account
        )
        self._pots: Pots = _Alone()
        self._lanes = {kind: _Lane(kind) for kind in WINDOW_MS}
        self._weights, self._raws = self._lanes[WEIGHT], self._lanes[RAW_REQUESTS]
        self._orders_10s, self._orders_day = self._lanes[ORDERS_10S], self._lanes[ORDERS_DAY]
        self._dirty: list[Share] = []
        """Shares with unreported changes; some may be of finished windows."""
        self._waiting: defaultdict[Share, list[asyncio.Future[None]]] = defaultdict(list)
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

    def share_with(self, pots: Pots) -> None:
        """Share the limits with the processes that use `pots` from now on."""
        self._pots = pots

    def call_when_banned(self, callback: Callable[[Ban], None]) -> None:
        """Call `callback` for each new ban, including those of other processes."""
        self._on_ban.append(callback)

    def charge(self, address: str, weight: int, now: TimeMs) -> Undecided | None:
        """Count one request and add to its network's request weight.

        `weight` is the part known before anything is read: `correct` adds the rest.

        Raises:
            ApiError: -1003, HTTP 429 over a limit, 418 for a banned network.
        """
        if not self.enabled:
            return None
        networks = networks_of(address)
        own = networks.own
        if self._bans and (banned := self._refusal_of_banned(networks, now)) is not None:
            # The answer to a banned client reports its usage, too: pots that this process does not know yet
            # are read first.
            knowing = self._knowing(self._shares_of(networks, WEIGHT, self._weight_max, now))
            if knowing is None:
                raise banned
            return _then_raise(knowing, banned)
        weights, raws = self._weights, self._raws
        weight_share, raw_share = weights.shares.get(own), raws.shares.get(own)
        if (
            weight_share is not None
            and raw_share is not None
            and weights.since <= now < weights.until
            and raws.since <= now < raws.until
            and weight_share.left >= weight
            and raw_share.left > 0
            and not networks.wide
        ):
            # `Share.take`, inlined: every request passes here.
            weight_share.left -= weight
            weight_share.unsaid += weight
            raw_share.left -= 1
            raw_share.unsaid += 1
            if not weight_share.is_dirty:
                self._note_change(weight_share)
            if not raw_share.is_dirty:
                self._note_change(raw_share)
            return None
        needs = [(share, 1) for share in self._shares_of(networks, RAW_REQUESTS, self._raw_max, now)]
        needs += [(share, weight) for share in self._shares_of(networks, WEIGHT, self._weight_max, now)]
        return self._decide(needs, lambda short: self._over_requests(networks, short, now))

    def correct(self, address: str, more: int, now: TimeMs) -> Undecided | None:
        """Add to the weight of a request that was charged at `now`, or take some back.

        Raises:
            ApiError: -1003, HTTP 429 over the limit.
        """
        if not self.enabled or now < self._weights.since:
            return None  # the minute in which it was charged is over
        networks = networks_of(address)
        shares = self._shares_of(networks, WEIGHT, self._weight_max, now)
        if more > 0:
            return self._decide(
                [(share, more) for share in shares], lambda short: self._over_requests(networks, short, now)
            )
        for share in shares:
            self._take_back(share, -more)
        return None

    def count_connection(self, address: str, now: TimeMs) -> Undecided | None:
        """Count one attempt to open a WebSocket.

        Raises:
            ApiError: -1034, HTTP 429, too many within five minutes.
        """
        if not self.enabled:
            return None
        networks = networks_of(address)
        shares = self._shares_of(networks, CONNECTIONS, self._connections_max, now)
        return self._decide(
            [(share, 1) for share in shares], lambda short: self._over_connections(networks, short, now)
        )

    def weight_used(self, address: str, now: TimeMs) -> int:
        """Return the weight that an address's network has used in this minute, in all processes."""
        return self._count_of(self._weights, networks_of(address).own, now)

    def _count_of(self, lane: _Lane, owner: str, now: TimeMs) -> int:
        if now >= lane.until:
            return 0
        share = lane.shares.get(owner)
        return share.count if share is not None else 0

    def _share(self, kind: str, owner: str, limit: int, place: int, now: TimeMs) -> Share:
        lane = self._lanes[kind]
        if not lane.since <= now < lane.until:
            lane.turn(now)
        share = lane.shares.get(owner)
        if share is None:
            bucket = Bucket(kind, owner, lane.number)
            share = lane.shares[owner] = Share(bucket, limit, streams.rate(place, *bucket), place)
        return share

    def _shares_of(self, networks: Networks, kind: str, limit: int, now: TimeMs) -> Sequence[Share]:
        lane = self._lanes[kind]
        if not networks.wide and lane.since <= now < lane.until:
            share = lane.shares.get(networks.own)
            if share is not None:
                return (share,)
        place = zlib.crc32((networks.wide or networks.own).encode()) % self._shard_count
        own = self._share(kind, networks.own, limit, place, now)
        if not networks.wide:
            return (own,)
        return own, self._share(kind, networks.wide, limit * WIDE_FACTOR, place, now)

    def _note_change(self, share: Share) -> None:
        if not share.is_dirty:
            share.is_dirty = True
            self._dirty.append(share)

    def _take_back(self, share: Share, units: int) -> None:
        share.take_back(units)
        self._note_change(share)

    def _decide(self, needs: Sequence[tuple[Share, int]], over: Over) -> Undecided | None:
        """Take the needed amount of every share; `over` refuses if some shares are insufficient."""
        short = [(share, needed) for share, needed in needs if not self._takes(share, needed)]
        if not short:
            return None
        if self._pots.is_away or all(self._is_out(*missing_share) for missing_share in short):
            return over(short)
        return self._obtain_all(short, over)

    def _takes(self, share: Share, needed: int) -> bool:
        self._note_change(share)
        if share.take(needed):
            return True
        if not self._pots.is_away:
            return False
        share.borrow(self._pots.outage, self._pots.processes)
        return share.take(needed)

    def _is_alone(self) -> bool:
        return self._pots.is_away

    def _is_out(self, share: Share, needed: int) -> bool:
        return self._pots.hears and share.is_out(needed)

    async def _obtain_all(self, needs: Short, over: Over) -> None:
        requests = [
            (share, needed, None if self._is_out(share, needed) else self._pots.ask(share, needed))
            for share, needed in needs
        ]
        short = []
        for share, needed, answer in requests:
            is_met = await answer if answer is not None else False
            if not is_met and not await self._obtain(share, needed):
                short.append((share, needed))
        if short and (undecided := over(short)) is not None:
            await undecided

    async def _obtain(self, share: Share, needed: int) -> bool:
        """Return whether a request gets the amount that its process's share did not have.

        It waits for other processes to return theirs.
        """
        loop = asyncio.get_running_loop()
        until_s = loop.time() + _WAIT_S_MAX
        while not self._takes(share, needed):
            if self._is_alone() or self._is_out(share, needed):
                return False
            if share.left or share.limit - share.taken >= needed or not self._pots.hears:
                if await self._pots.ask(share, needed):
                    return True
                if self._is_alone() or share.left:
                    continue
            if not share.awaits(needed):
                return False
            if loop.time() >= until_s:
                share.give_up_on_others()
                return False
            await self._news(share, until_s - loop.time())
        return True

    async def _news(self, share: Share, seconds: float) -> None:
        """Wait until a share's pot changes, for at most `seconds`."""
        news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[share].append(news)
        await asyncio.wait((news,), timeout=seconds)

    def wake(self, share: Share) -> None:
        """Wake the requests that wait for a share's pot."""
        for news in self._waiting.pop(share, ()):
            if not news.done():
                news.set_result(None)

    def _over_requests(self, networks: Networks, short: Short, now: TimeMs) -> Undecided | None:
        for share, needed in short:
            share.overrun(needed)  # the weight of a refused request counts, too
        if any(share.bucket.kind == RAW_REQUESTS for share, _ in short):
            limit = f"{self._raw_max} requests per 5 MINUTE"
            return self._refuse(
                networks, _too_much("Too many requests", limit, seconds_left(RAW_REQUESTS, now)), now
            )
        limit = f"{self._weight_max} request weight per 1 MINUTE"
        error = _too_much("Too much request weight used", limit, seconds_left(WEIGHT, now))
        return self._refuse(networks, error, now)

    def _over_connections(self, networks: Networks, short: Short, now: TimeMs) -> Undecided | None:
        for share, needed in short:
            share.overrun(needed)
        text = (
            f"Too many connection attempts from IP; current limit is {self._connections_max} per '5 MINUTE'."
        )
        return self._refuse(networks, ApiError(-1034, text, 429, seconds_left(CONNECTIONS, now)), now)

    def _refuse(self, networks: Networks, error: ApiError, now: TimeMs) -> Undecided:
        """Raise a refusal after counting it; a network with too many refusals is banned."""
        shares = self._shares_of(networks, REFUSALS, REFUSALS_BEFORE_BAN - 1, now)
        undecided = self._decide([(share, 1) for share in shares], lambda short: self._ban(short, now))
        if undecided is None:
            raise error
        return _then_raise(undecided, error)

    def _ban(self, short: Short, now: TimeMs) -> None:
        for share, _ in short:
            network = share.bucket.owner
            if self._bans.until(network, now) is None:
                ban = self._bans.ban(network, now)
                self._unsent_bans.append(ban)
                self._tell(ban)

    def _refusal_of_banned(self, networks: Networks, now: TimeMs) -> ApiError | None:
        until = self._bans.until(networks.own, now)
        if until is None and networks.wide:
            until = self._bans.until(networks.wide, now)
        if until is None:
            return None
        return ApiError(
            -1003,
            f"Way too much request weight used; IP banned until {until}. "
            "Please use WebSocket Streams for live updates to avoid bans.",
            418,
            -(-(until - now) // 1000),
        )

    def _knowing(self, shares: Iterable[Share]) -> Undecided | None:
        """Read the pots that this process does not know yet."""
        unknown = [share for share in shares if not share.is_known]
        if not unknown or self._pots.is_away:
            return None
        return _all_of([self._pots.ask(share, 0) for share in unknown])

    def _tell(self, ban: Ban) -> None:
        _log.info("network banned", network=ban.network, until=ban.until, times=ban.times)
        for callback in self._on_ban:
            callback(ban)

    def count_order(self, account_id: AccountId, now: TimeMs) -> Undecided | None:
        """Count one order that is about to be placed.

        Raises:
            ApiError: -1015, the account has used up one of its limits.
        """
        if not self.enabled:
            return None
        shares = self._shares_of_account(account_id, now)
        ten_seconds, day = shares
        if ten_seconds.left > 0 and day.left > 0:
            ten_seconds.take(1)
            day.take(1)
            self._note_change(ten_seconds)
            self._note_change(day)
            return None
        return self._decide(
            [(share, 1) for share in shares], lambda short: self._over_orders(shares, short, now)
        )

    def _shares_of_account(self, account_id: AccountId, now: TimeMs) -> tuple[Share, Share]:
        owner = str(account_id)
        first, second = self._orders_10s, self._orders_day
        if first.since <= now < first.until and second.since <= now < second.until:
            ten_seconds, day = first.shares.get(owner), second.shares.get(owner)
            if ten_seconds is not None and day is not None:
                return ten_seconds, day
        place = self._shard_of_account(account_id)
        (kind, most, _), (day_kind, day_most, _) = self._order_limits
        return self._share(kind, owner, most, place, now), self._share(day_kind, owner, day_most, place, now)

    def _over_orders(self, shares: Iterable[Share], short: Short, now: TimeMs) -> None:
        missing = [share for share, _ in short]
        for share in shares:
            if share not in missing:
                self._take_back(share, 1)
        (kind, largest, period) = next(
            order_limit for order_limit in self._order_limits if order_limit[0] == missing[0].bucket.kind
        )
        text = f"Too many new orders; current limit is {largest} orders per {period}."
        raise ApiError(-1015, text, 429, seconds_left(kind, now))

    def forgive_order(self, account_id: AccountId, now: TimeMs) -> None:
        """Take back an order that was counted at `now`: it was refused, or it traded at once."""
        if not self.enabled:
            return
        owner = str(account_id)
        for lane in (self._orders_10s, self._orders_day):
            share = lane.shares.get(owner) if lane.since <= now < lane.until else None
            if share is not None:
                self._take_back(share, 1)

    def know_orders(self, account_id: AccountId, now: TimeMs) -> Undecided | None:
        """Ensure that `order_counts` includes the counts of all processes."""
        return self._knowing(self._shares_of_account(account_id, now)) if self.enabled else None

    def order_counts(self, account_id: AccountId, now: TimeMs) -> tuple[int, int]:
        """Return the counts of the current 10 s and of the current day."""
        owner = str(account_id)
        return self._count_of(self._orders_10s, owner, now), self._count_of(self._orders_day, owner, now)

    def to_tell(self, now: TimeMs, most: int) -> list[Share]:
        """Return up to `most` shares with unreported changes, and those wanted of future windows."""
        shares = []
        dirty, self._dirty = self._dirty[:most], self._dirty[most:]
        for lane in self._lanes.values():
            if not lane.since <= now < lane.until:
                lane.turn(now)
        for share in dirty:
            share.is_dirty = False
            lane = self._lanes[share.bucket.kind]
            if share.bucket.window >= lane.number:
                shares.append(share)
                if share.unsaid > 0:
                    lane.active[share.bucket.owner] = None
        for lane in self._lanes.values():
            if lane.active and now >= lane.until - min(_AHEAD_MS, lane.window_ms // 5):
                shares += self._shares_ahead(lane)
        return shares

    def _shares_ahead(self, lane: _Lane) -> Iterator[Share]:
        for owner in list(islice(lane.active, _AHEAD_PER_TURN)):
            del lane.active[owner]
            share = lane.shares.get(owner)
            if share is not None and owner not in lane.next:
                bucket = Bucket(lane.kind, owner, lane.number + 1)
                key = streams.rate(share.place, *bucket)
                ahead = lane.next[owner] = Share(bucket, share.limit, key, share.place)
                yield ahead

    def shares(self) -> list[Share]:
        """Return every share with a rest or unreported changes."""
        return [
            share
            for lane in self._lanes.values()
            for share in (*lane.shares.values(), *lane.next.values())
            if share.left or share.unsaid or share.borrowed
        ]

    def distrust(self) -> None:
        """Mark every pot as unknown: changes may have been missed."""
        for lane in self._lanes.values():
            for share in (*lane.shares.values(), *lane.next.values()):
                self._note_change(share)

    def hear(self, key: str, word: Word, *, is_wanted: bool) -> None:
        """Process a change of a pot.

        The rest of the share is returned when little is left for all, or a process has asked in vain.

        Raises:
            ValueError: the key is not that of a pot.
        """
        _, _, kind, rest = key.split(":", 3)
        owner, _, window = rest.rpartition(":")
        lane = self._lanes.get(kind)
        if lane is None:
            return
        ahead = int(window) - lane.number
        share = (lane.shares if ahead == 0 else lane.next if ahead == 1 else {}).get(owner)
        if share is None or not share.hear(word):
            return
        if (share.left and share.is_in_reserve) or (is_wanted and (share.left or share.unsaid)):
            self._pots.hand_back(share)
        self.wake(share)

    @staticmethod
    def ttl_ms(share: Share) -> int:
        """Return the time to live of a share's pot."""
        return WINDOW_MS[share.bucket.kind] + _TTL_EXTRA_MS

    async def exchange_bans(self, client: redis.asyncio.Redis, now: TimeMs) -> None:
        """Read the bans of others from `client`, the durable Redis, and write those made here."""
        self._bans.forget(now)
        while True:
            start = self._last_ban if self._last_ban == "-" else f"({self._last_ban}"
            entries: Any = await client.xrange(streams.bans(), start, "+", _BANS_PER_READ)
            for entry_id, written in entries:
                self._last_ban = entry_id.decode()
                remote_ban = _ban_of(written)
                if remote_ban is not None and self._bans.learn(remote_ban) and now < remote_ban.until:
                    self._tell(remote_ban)
            if len(entries) < _BANS_PER_READ:
                break
        while self._unsent_bans:
            ban = self._unsent_bans[0]
            fields: dict[Any, Any] = {"network": ban.network, "until": ban.until, "times": ban.times}
            await client.xadd(streams.bans(), fields, maxlen=BANS_MAX, approximate=True)
            if self._unsent_bans and self._unsent_bans[0] is ban:  # otherwise it was dropped to make room
                self._unsent_bans.popleft()


def _ban_of(fields: Mapping[bytes, bytes]) -> Ban | None:
    """Return the ban of an entry; None: a later release wrote it in another form."""
    try:
        return Ban(fields[b"network"].decode(), TimeMs(int(fields[b"until"])), int(fields[b"times"]))
    except (KeyError, ValueError):
        return None


def _too_much(excess: str, limit: str, retry_after_s: int) -> ApiError:
    return ApiError(
        -1003,
        f"{excess}; current limit is {limit}. Please use WebSocket Streams for live updates to avoid polling "
        "the API.",
        429,
        retry_after_s,
    )


async def _then_raise(undecided: Undecided, error: ApiError) -> None:
    await undecided
    raise error


async def _all_of(answers: Iterable[Awaitable[bool | None]]) -> None:
    for answer in answers:
        await answer
