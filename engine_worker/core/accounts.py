"""Accounts: what is available, what is held, and a shard's own books of money.

Per asset and shard, always: available + held + fees = deposited - withdrawn + settled. `settled` is what
fills brought to the accounts of this shard less what they took from them; over all shards it sums to zero
when no settlement is on its way.

What was deposited, withdrawn and settled grows for as long as the exchange lives. It is exact whatever its
size, and leaves the core as `Large` pairs.
"""

import msgspec

from engine_worker.core.enums import make_balance
from engine_worker.core.invariants import InvariantBroken
from engine_worker.core.outcomes import KeyedRequests
from protocol.configuration import AccountLimits
from protocol.orders import Balance, OrderState, RejectReason
from protocol.units import AccountId, AssetUnits, Large, OrderId, TimeMs, split_large


class Funds:
    """An account's money in one asset, in asset units."""

    __slots__ = ("available", "held")

    def __init__(self, available: int = 0, held: int = 0) -> None:
        self.available = available
        self.held = held

    def hold(self, amount: int) -> None:
        """Set `amount` aside. The caller has checked that it is available."""
        assert amount > 0, "an order without a hold is refused"
        self.available -= amount
        self.held += amount
        if self.available < 0:
            raise InvariantBroken(f"available is {self.available} after a hold of {amount}")

    def release(self, amount: int) -> None:
        """Make a held `amount` available again."""
        if amount < 0:
            raise InvariantBroken(f"a release of {amount}")
        self.held -= amount
        self.available += amount
        if self.held < 0:
            raise InvariantBroken(f"held is {self.held} after a release of {amount}")

    def pay(self, amount: int, released: int) -> None:
        """Pay `amount` out of what is held, and release what the hold no longer needs."""
        self.held -= amount + released
        self.available += released
        # A negative release would take what is available: the fill has cost more than was held for it.
        if self.held < 0 or released < 0:
            raise InvariantBroken(
                f"held is {self.held} after a payment of {amount} and a release of {released}"
            )


class AssetTotals:
    """What one shard knows of one asset beyond its accounts' funds."""

    __slots__ = ("deposited", "fees", "funds", "held", "settled", "withdrawn")

    def __init__(self, fees: int = 0, deposited: int = 0, withdrawn: int = 0, settled: int = 0) -> None:
        self.fees = fees
        self.deposited = deposited
        self.withdrawn = withdrawn
        self.settled = settled
        self.funds = deposited - withdrawn + settled - fees
        """What all accounts have, by what was seen of it before and after each change."""
        self.held = 0
        """What of that is held, likewise. It follows from the open orders, so no snapshot has it."""

    @property
    def outstanding(self) -> int:
        """What came in by this shard and has not gone out by it.

        Below 0 where money leaves that came in by another.
        """
        return self.deposited - self.withdrawn

    def stored(self) -> tuple[Large, Large, Large, Large]:
        """Return (fees, deposited, withdrawn, settled) as snapshots and digests hold them."""
        return (
            split_large(self.fees),
            split_large(self.deposited),
            split_large(self.withdrawn),
            split_large(self.settled),
        )

    def difference(self) -> int:
        """Return how much more there is than there must be; 0 is right."""
        return self.funds + self.fees - self.deposited + self.withdrawn - self.settled


class PlacedOrder(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Who placed an order: where the reply goes, and the idempotency key under which it is remembered."""

    order_id: OrderId
    request_id: int
    reply_to: str
    idempotency_key: str = ""


class OrderCounts(msgspec.Struct, array_like=True, gc=False):
    """The orders that an account with limits placed in the ten seconds and the day (UTC) of its last one."""

    ten_seconds: int = 0
    in_ten_seconds: int = 0
    day: int = 0
    in_day: int = 0

    def turn_to(self, time: TimeMs) -> None:
        """Begin to count anew where a new time has begun."""
        ten_seconds, day = time // 10_000, time // 86_400_000
        if ten_seconds != self.ten_seconds:
            self.ten_seconds, self.in_ten_seconds = ten_seconds, 0
        if day != self.day:
            self.day, self.in_day = day, 0


class Account:
    """One account: funds by asset, open orders by market and by client order id, request keys, limits."""

    __slots__ = (
        "account_id",
        "changed_time",
        "client_order_ids",
        "funds",
        "keyed",
        "limits",
        "open_orders",
        "order_counts",
    )

    def __init__(self, account_id: AccountId, changed_time: TimeMs) -> None:
        self.account_id = account_id
        self.changed_time = changed_time
        """When the funds changed last. For answers alone: it decides nothing."""
        self.funds: dict[str, Funds] = {}
        self.open_orders: dict[str, dict[OrderId, OrderState]] = {}
        self.client_order_ids: dict[str, PlacedOrder] = {}
        """Of open orders only."""
        self.keyed: KeyedRequests | None = None
        """Requests with an idempotency key; None: there are none."""
        self.limits: AccountLimits | None = None
        """What an operator has set for this account; None: nothing ever."""
        self.order_counts: OrderCounts | None = None
        """Of an account with limits."""

    @property
    def is_frozen(self) -> bool:
        """Whether an operator has frozen the account."""
        return self.limits is not None and self.limits.is_frozen

    def reason_of_limits(self, time: TimeMs) -> RejectReason | None:
        """Return why an account that has limits may not place an order now; None: it may."""
        limits, counts = self.limits, self.order_counts
        assert limits is not None
        assert counts is not None
        counts.turn_to(time)
        if limits.is_frozen:
            return RejectReason.ACCOUNT_FROZEN
        if limits.open_orders_max and len(self.client_order_ids) >= limits.open_orders_max:
            return RejectReason.TOO_MANY_OPEN_ORDERS
        too_many = (limits.orders_10s_max and counts.in_ten_seconds >= limits.orders_10s_max) or (
            limits.orders_1d_max and counts.in_day >= limits.orders_1d_max
        )
        return RejectReason.TOO_MANY_ORDERS if too_many else None

    def count_order(self, time: TimeMs) -> None:
        """Count one more order of an account that has limits."""
        assert self.order_counts is not None
        self.order_counts.turn_to(time)
        self.order_counts.in_ten_seconds += 1
        self.order_counts.in_day += 1

    def funds_in(self, asset: str) -> Funds:
        """Return the account's funds in `asset`, which may be none yet."""
        funds = self.funds.get(asset)
        if funds is None:
            funds = self.funds[asset] = Funds()
        return funds

    def balance(self, asset: str) -> Balance:
        """Return the funds in `asset` as a value."""
        funds = self.funds.get(asset)
        if funds is None:
            return Balance(asset, AssetUnits(0), AssetUnits(0))
        return make_balance(asset, funds.available, funds.held)

    def forget_empty(self, *assets: str) -> None:
        """Keep no record of nothing. The caller knows that no open order of the account needs it."""
        by_asset = self.funds
        for asset in assets:
            funds = by_asset.get(asset)
            if funds is not None and not (funds.available or funds.held):
                del by_asset[asset]

    def is_in_use(self, now: TimeMs) -> bool:
        """Return whether there is anything that must not be forgotten."""
        return (
            any(funds.available or funds.held for funds in self.funds.values())
            or any(self.open_orders.values())
            or (
                self.limits is not None
                and msgspec.structs.replace(self.limits, version=1) != AccountLimits(1)
            )
            or (
                self.keyed is not None and bool(self.keyed.under_way or not self.keyed.outcomes.is_empty(now))
            )
        )

    def balances(self) -> tuple[Balance, ...]:
        """Return the funds in every asset of which there are any, and perhaps some more, by their names."""
        return tuple(self.balance(asset) for asset in sorted(self.funds))
