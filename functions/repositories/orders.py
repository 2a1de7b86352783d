"""Orders of accounts, with their fills and prevented matches."""

from typing import NamedTuple, Protocol

from protocol.orders import Liquidity, OrderState, SelfTradePrevention, Side
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots, TimeMs, TradeId


class StoredFill(NamedTuple):
    """An order's share of a trade. The fee is in units of `fee_asset`."""

    trade_id: TradeId
    order_id: OrderId
    price: PriceTicks
    quantity: QuantityLots
    quote: AssetUnits
    fee: AssetUnits
    fee_asset: str
    time: TimeMs
    side: Side
    liquidity: Liquidity


class PreventedMatch(NamedTuple):
    """A trade of an account with itself that self-trade prevention prevented.

    A quantity is 0 if that order was not ended.
    """

    match_id: int
    taker_order_id: OrderId
    maker_order_id: OrderId
    mode: SelfTradePrevention
    price: PriceTicks
    taker_quantity: QuantityLots
    maker_quantity: QuantityLots
    time: TimeMs


class Orders(Protocol):
    """An account's orders in one market, their fills, and their prevented matches.

    Lists are oldest first.

    Only the shard knows what an order holds: it is 0 here.
    """

    async def find(
        self, account_id: AccountId, symbol: str, order_id: OrderId, client_order_id: str
    ) -> OrderState | None:
        """Return the newest order with this number (0: any) and this client order id (empty: any)."""
        ...

    async def page(
        self,
        account_id: AccountId,
        symbol: str,
        *,
        from_id: int | None,
        start: TimeMs | None,
        end: TimeMs | None,
        limit: int,
    ) -> list[OrderState]:
        """Return the first `limit` orders from a number or an acceptance time on, or else the newest ones.

        Only orders up to `end`.
        """
        ...

    async def fills(
        self,
        account_id: AccountId,
        symbol: str,
        *,
        order_id: int | None,
        from_id: int | None,
        start: TimeMs | None,
        end: TimeMs | None,
        limit: int,
    ) -> list[StoredFill]:
        """Return the first `limit` fills from a trade or a time on, or else the newest ones.

        Only fills up to `end`.

        With `order_id` only those of this order.
        """
        ...

    async def prevented_matches(
        self,
        account_id: AccountId,
        symbol: str,
        *,
        match_id: int | None,
        order_id: int | None,
        from_id: int,
        limit: int,
    ) -> list[PreventedMatch]:
        """Return the first `limit` matches from a number on.

        With `match_id` only this one; with `order_id` only those of this order.
        """
        ...
