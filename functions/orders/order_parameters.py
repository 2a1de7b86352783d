"""Converts the parameters of a new order into an order that passes its market's filters.

Pure; shared by placing and testing.
"""

from enum import StrEnum
from typing import Final, NamedTuple

from functions.api.errors import (
    FILTER_FAILURE,
    ApiError,
    filter_failure,
    invalid_parameter,
    mandatory_missing,
    not_required,
)
from functions.api.function import NEW_CLIENT_ORDER_ID, SYMBOL, Parameter
from functions.api.idempotency import IDEMPOTENCY_KEY
from functions.api.parameters import Parameters
from functions.orders.order_shapes import ORDER_TYPES, SELF_TRADE_PREVENTIONS, SIDES, TIMES_IN_FORCE
from protocol.market import Market, MarketMap
from protocol.market_data import BookTicker
from protocol.orders import OrderTerms, OrderType, SelfTradePrevention, Side, TimeInForce
from protocol.units import AMOUNT_UNITS_MAX, PPM, AssetUnits, PriceTicks, QuantityLots


class ResponseType(StrEnum):
    """The level of detail of the answer to a placed order."""

    ACK = "ACK"
    RESULT = "RESULT"
    FULL = "FULL"


class OrderRequest(NamedTuple):
    """A new order that passed every check that needs no book; `price` is 0 for a MARKET order."""

    market: Market
    side: Side
    order_type: OrderType
    time_in_force: TimeInForce
    price: PriceTicks
    quantity: QuantityLots
    quote_quantity: AssetUnits
    self_trade_prevention: SelfTradePrevention
    client_order_id: str | None
    response_type: ResponseType
    terms: OrderTerms | None = None


ORDER_PARAMETERS: Final = (
    SYMBOL,
    Parameter("side", "BUY or SELL.", required=True, choices=tuple(SIDES)),
    Parameter("type", "LIMIT, LIMIT_MAKER or MARKET.", required=True, choices=tuple(ORDER_TYPES)),
    Parameter("timeInForce", "GTC, IOC or FOK; required for LIMIT.", choices=tuple(TIMES_IN_FORCE)),
    Parameter("quantity", "Amount of the base asset.", kind="decimal"),
    Parameter("quoteOrderQty", "Amount of the quote asset to spend or receive; MARKET only.", kind="decimal"),
    Parameter("price", "Limit price; required for LIMIT and LIMIT_MAKER.", kind="decimal"),
    NEW_CLIENT_ORDER_ID._replace(
        description="Your own id of the order, unique among your open orders; made for you when left out."
    ),
    IDEMPOTENCY_KEY,
    Parameter(
        "newOrderRespType",
        "ACK, RESULT or FULL; FULL by default for LIMIT and MARKET, otherwise ACK.",
        choices=tuple(ResponseType),
    ),
    Parameter(
        "selfTradePreventionMode",
        "NONE, EXPIRE_TAKER, EXPIRE_MAKER or EXPIRE_BOTH.",
        choices=tuple(SELF_TRADE_PREVENTIONS),
    ),
    Parameter("strategyId", "Your own number of the strategy that the order belongs to.", kind="integer"),
    Parameter("strategyType", "Your own kind of strategy; at least 1000000.", kind="integer"),
    Parameter("stopPrice", "No order type here takes it.", kind="decimal"),
    Parameter("trailingDelta", "No order type here takes it.", kind="integer"),
    Parameter("icebergQty", "Iceberg orders are not supported.", kind="decimal"),
    Parameter("pegPriceType", "Pegged orders are not supported."),
    Parameter("pegOffsetType", "Pegged orders are not supported."),
    Parameter("pegOffsetValue", "Pegged orders are not supported.", kind="integer"),
)

_UNSUPPORTED_TYPES: Final = {
    "STOP_LOSS": "Stop loss orders are not supported for this symbol.",
    "STOP_LOSS_LIMIT": "Stop loss limit orders are not supported for this symbol.",
    "TAKE_PROFIT": "Take profit orders are not supported for this symbol.",
    "TAKE_PROFIT_LIMIT": "Take profit limit orders are not supported for this symbol.",
}
_FOREIGN_PREVENTIONS: Final = frozenset({"DECREMENT", "TRANSFER"})
"""Binance's modes that no market here allows."""
_STRATEGY_TYPE_MIN: Final = 1_000_000
_PEGGING: Final = ("pegPriceType", "pegOffsetType", "pegOffsetValue")
_RESPONSE_TYPES: Final = {response_type.value: response_type for response_type in ResponseType}


def parse_order(parameters: Parameters, markets: MarketMap) -> OrderRequest:
    """Return the order that the parameters describe.

    Raises:
        ApiError: a parameter is missing, malformed or not allowed, or a filter fails.
    """
    market = parameters.market(markets)
    side = parameters.choice("side", SIDES, _invalid_side)
    if side is None:
        raise mandatory_missing("side")
    order_type = _order_type(parameters)
    time_in_force = parameters.choice("timeInForce", TIMES_IN_FORCE, _invalid_time_in_force)
    _refuse_what_does_not_belong(parameters, order_type)
    if order_type is OrderType.LIMIT:
        if time_in_force is None:
            raise mandatory_missing("timeInForce")
    elif order_type is OrderType.MARKET:
        time_in_force = TimeInForce.IOC
    else:
        time_in_force = TimeInForce.GTC
    price, quantity, quote_quantity = _amounts(parameters, market, order_type)
    prevention = _prevention(parameters)
    default = ResponseType.ACK if order_type is OrderType.LIMIT_MAKER else ResponseType.FULL
    return OrderRequest(
        market,
        side,
        order_type,
        time_in_force,
        price,
        quantity,
        quote_quantity,
        prevention,
        parameters.client_order_id("newClientOrderId"),
        parameters.choice("newOrderRespType", _RESPONSE_TYPES, _invalid_response_type) or default,
        _strategy(parameters),
    )


def _amounts(
    parameters: Parameters, market: Market, order_type: OrderType
) -> tuple[PriceTicks, QuantityLots, AssetUnits]:
    """Return price, quantity and quote quantity; those that the order does not have are 0."""
    if order_type is not OrderType.MARKET:
        quantity = _quantity(parameters, market, "LOT_SIZE")
        price = _price(parameters, market)
        # Only orders with a price: the worth of a MARKET order depends on the book, so the shard checks it.
        if market.notional(price, quantity) < market.notional_min:
            raise filter_failure("NOTIONAL")
        return price, quantity, AssetUnits(0)
    if ("quantity" in parameters) == ("quoteOrderQty" in parameters):
        raise (
            mandatory_missing("quantity") if "quantity" not in parameters else not_required("quoteOrderQty")
        )
    if "quantity" in parameters:
        return PriceTicks(0), _quantity(parameters, market, "MARKET_LOT_SIZE"), AssetUnits(0)
    return PriceTicks(0), QuantityLots(0), _quote_quantity(parameters, market)


def estimated_bound(request: OrderRequest, ticker: BookTicker | None) -> PriceTicks:
    """Return the estimated maximum price of a MARKET BUY by quantity, which determines only what it holds.

    The market's shard bounds the order by the book at the moment when it arrives there. `ticker` may be old.
    If it has no ask, the estimate is the market's maximum price.
    """
    market = request.market
    if ticker is None or not ticker.ask_price:
        return market.price_max
    # Rounded up: an estimate that is one tick too low would end the order early.
    worst = -(-ticker.ask_price * (PPM + market.market_slippage_ppm) // PPM)
    return PriceTicks(min(worst, market.price_max))


def _invalid_side() -> ApiError:
    return ApiError(-1117, "Invalid side.")


def _invalid_type() -> ApiError:
    return ApiError(-1116, "Invalid orderType.")


def _invalid_time_in_force() -> ApiError:
    return ApiError(-1115, "Invalid timeInForce.")


def _invalid_response_type() -> ApiError:
    return invalid_parameter("newOrderRespType")


def _invalid_prevention() -> ApiError:
    return invalid_parameter("selfTradePreventionMode")


def _prevention(parameters: Parameters) -> SelfTradePrevention:
    if parameters.optional("selfTradePreventionMode") in _FOREIGN_PREVENTIONS:
        raise ApiError(FILTER_FAILURE, "This symbol does not allow the specified self-trade prevention mode.")
    mode = parameters.choice("selfTradePreventionMode", SELF_TRADE_PREVENTIONS, _invalid_prevention)
    return SelfTradePrevention.EXPIRE_MAKER if mode is None else mode


def _order_type(parameters: Parameters) -> OrderType:
    text = parameters.required("type")
    order_type = ORDER_TYPES.get(text)
    if order_type is None:
        if text in _UNSUPPORTED_TYPES:
            raise ApiError(-1013, _UNSUPPORTED_TYPES[text])
        raise _invalid_type()
    return order_type


def _refuse_what_does_not_belong(parameters: Parameters, order_type: OrderType) -> None:
    for name in ("stopPrice", "trailingDelta"):
        if name in parameters:
            raise not_required(name)
    if "icebergQty" in parameters and parameters.decimal("icebergQty"):
        raise ApiError(-1013, "Iceberg orders are not supported for this symbol.")
    if any(name in parameters for name in _PEGGING):
        raise ApiError(FILTER_FAILURE, "Pegged orders are not supported for this symbol.")
    if order_type is OrderType.MARKET:
        if "price" in parameters:
            raise not_required("price")
        if "timeInForce" in parameters:
            raise not_required("timeInForce")
    else:
        if "quoteOrderQty" in parameters:
            raise not_required("quoteOrderQty")
        if order_type is OrderType.LIMIT_MAKER and "timeInForce" in parameters:
            raise not_required("timeInForce")
    _strategy(parameters)


def _strategy(parameters: Parameters) -> OrderTerms | None:
    strategy_id, strategy_type = parameters.integer("strategyId"), parameters.integer("strategyType")
    if strategy_type is not None and strategy_type < _STRATEGY_TYPE_MIN:
        raise ApiError(-1134, "`strategyType` was less than 1000000.")
    if strategy_id is None and strategy_type is None:
        return None
    return OrderTerms(strategy_id=strategy_id, strategy_type=strategy_type)


def _price(parameters: Parameters, market: Market) -> PriceTicks:
    units = parameters.decimal("price")
    if units is None:
        raise mandatory_missing("price")
    if not units:
        raise ApiError(-1013, "Invalid price.")
    ticks, rest = divmod(units, market.tick_size)
    if rest or ticks > market.price_max:
        raise filter_failure("PRICE_FILTER")
    return PriceTicks(ticks)


def _quantity(parameters: Parameters, market: Market, filter_name: str) -> QuantityLots:
    units = parameters.decimal("quantity")
    if units is None:
        raise mandatory_missing("quantity")
    if not units:
        raise ApiError(-1013, "Invalid quantity.")
    lots, rest = divmod(units, market.lot_size)
    if rest or not market.quantity_min <= lots <= market.quantity_max:
        raise filter_failure(filter_name)
    return QuantityLots(lots)


def _quote_quantity(parameters: Parameters, market: Market) -> AssetUnits:
    units = parameters.decimal("quoteOrderQty", market.quote_scale)
    if not units:
        raise ApiError(-1013, "Invalid quoteOrderQty.")
    if units < market.notional_min or units > AMOUNT_UNITS_MAX // 10:
        raise filter_failure("NOTIONAL")
    return AssetUnits(units)
