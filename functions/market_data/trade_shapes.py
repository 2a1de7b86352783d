"""Public trades in Binance's shape."""

import msgspec

from functions.api.shapes import Amount, Time
from protocol.market import Market
from protocol.orders import Side
from protocol.units import PriceTicks, QuantityLots, TimeMs, TradeId


class TradeShape(msgspec.Struct, gc=False, rename="camel"):
    """One trade."""

    id: int
    price: Amount
    qty: Amount
    quote_qty: Amount
    time: Time
    is_buyer_maker: bool
    is_best_match: bool


def trade_shape(
    market: Market,
    trade_id: TradeId,
    price: PriceTicks,
    quantity: QuantityLots,
    time: TimeMs,
    taker_side: Side,
    time_scale: int,
) -> TradeShape:
    """Return a trade."""
    return TradeShape(
        id=trade_id,
        price=market.format_price(price),
        qty=market.format_quantity(quantity),
        quote_qty=market.format_quote(market.notional(price, quantity)),
        time=time * time_scale,
        is_buyer_maker=taker_side == Side.SELL,
        is_best_match=True,
    )
