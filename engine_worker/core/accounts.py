"""Accounts: what is available, what is held, and a shard's own books of money.

Per asset and shard, always: available + held + fees = deposited - withdrawn + settled. `settled` is what fills brought to the
accounts of this shard less what they took from them; over all shards it sums to zero when no settlement is on its way.

What was deposited, withdrawn and settled grows for as long as the exchange lives. It is exact whatever its size, and leaves the core as
`Large` pairs.
"""

import msgspec

from engine_worker.core.outcomes import KeyedRequests
from protocol.orders import Balance, OrderState
from protocol.units import AccountId, AssetUnits, Large, OrderId, TimeMs, split_large


class InvariantBroken(Exception):  # noqa: N818 - it is a verdict on the program, not an error of a caller
    """What must always be true is not; the shard stops and publishes nothing."""


class Funds:
    """An account's money in one asset, in asset units."""

    __slots__ = ("available", "held")

    def __init__(self, available: int = 0, held: int = 0) -> None:
        self.available = available
        self.held = held

    def hold(self, amount: int) -> None:
        """Set `amount` aside. The caller has checked that it is available."""
        self.available -= amount
        self.held += amount
        if self.available < 0:
            raise InvariantBroken(f"available is {self.available} after a hold of {amount}")

    def release(self, amount: int) -> None:
        """Make a held `amount` available again."""
        self.held -= amount
        self.available += amount
        if self.held < 0:
            raise InvariantBroken(f"held is {self.held} after a release of {amount}")

    def pay(self, amount: int, released: int) -> None:
        """Pay `amount` out of what is held, and release what the hold no longer needs."""
        self.held -= amount + released
        self.available += released
        if self.held < 0:
            raise InvariantBroken(f"held is {self.held} after a payment of {amount} and a release of {released}")


class AssetTotals:
    """What one shard knows of one asset beyond its accounts' funds."""

    __slots__ = ("deposited", "fees", "funds", "settled", "withdrawn")

    def __init__(self, fees: int = 0, deposited: int = 0, withdrawn: int = 0, settled: int = 0) -> None:
        self.fees = fees
        self.deposited = deposited
        self.withdrawn = withdrawn
        self.settled = settled
        self.funds = deposited - withdrawn + settled - fees
        """What all accounts have, by what was seen of it before and after each change."""

    @property
    def outstanding(self) -> int:
        """What came in by this shard and has not gone out by it; below 0 where money leaves that came in by another."""
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


class Account:
    """One account: funds by asset, open orders by market and by client order id, and the keys of its requests."""

    __slots__ = ("account_id", "client_order_ids", "funds", "keyed", "open_orders")

    def __init__(self, account_id: AccountId) -> None:
        self.account_id = account_id
        self.funds: dict[str, Funds] = {}
        self.open_orders: dict[str, dict[OrderId, OrderState]] = {}
        self.client_order_ids: dict[str, PlacedOrder] = {}
        """Of open orders only."""
        self.keyed: KeyedRequests | None = None
        """Requests with an idempotency key; None: there are none."""

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
        return Balance(asset, AssetUnits(funds.available), AssetUnits(funds.held))

    def forget_if_empty(self, asset: str) -> None:
        """Keep no record of nothing. The caller knows that no open order of the account needs it."""
        funds = self.funds.get(asset)
        if funds is not None and not funds.available and not funds.held:
            del self.funds[asset]

    def is_in_use(self, now: TimeMs) -> bool:
        """Return whether there is anything that must not be forgotten."""
        return (
            any(funds.available or funds.held for funds in self.funds.values())
            or any(self.open_orders.values())
            or (self.keyed is not None and bool(self.keyed.under_way or not self.keyed.outcomes.is_empty(now)))
        )

    def balances(self) -> tuple[Balance, ...]:
        """Return the funds in every asset of which there are any, and perhaps some more, by their names."""
        return tuple(self.balance(asset) for asset in sorted(self.funds))
