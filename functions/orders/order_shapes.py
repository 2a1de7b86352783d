"""Orders in Binance's shapes."""

from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from functions.api.shapes import (
    Amount,
    OrderTypeName,
    PreventionName,
    SideName,
    StatusName,
    Time,
    TimeInForceName,
)
from protocol.market import Market
from protocol.orders import (
    CloseReason,
    FillReport,
    OrderState,
    OrderStatus,
    OrderType,
    Prevented,
    SelfTradePrevention,
    Side,
    TimeInForce,
)
from protocol.units import QuantityLots

SIDES: Final = {side.name: side for side in Side}
ORDER_TYPES: Final = {order_type.name: order_type for order_type in OrderType}
TIMES_IN_FORCE: Final = {time_in_force.name: time_in_force for time_in_force in TimeInForce}
SELF_TRADE_PREVENTIONS: Final = {mode.name: mode for mode in SelfTradePrevention}

_NO_LIST: Final = -1
_ZERO: Final = "0.00000000"
# Names by number, because an enum's `name` is a slow lookup, and every answer to an order has these.
_SIDE: Final = {int(side): side.name for side in Side}
_ORDER_TYPE: Final = {int(order_type): order_type.name for order_type in OrderType}
_TIME_IN_FORCE: Final = {int(time_in_force): time_in_force.name for time_in_force in TimeInForce}
_STATUS: Final = {int(status): status.name for status in OrderStatus}
_PREVENTION: Final = {int(mode): mode.name for mode in SelfTradePrevention}
_EXPIRY_REASONS: Final = {
    CloseReason.CANCELED_BY_OPERATOR: "EXCHANGE_CANCELED",
    CloseReason.MARKET_DELISTED: "EXCHANGE_CANCELED",
    CloseReason.TOO_MANY_MATCHES: "TOO_MANY_MATCHES",  # our extension: Binance has no such limit
    CloseReason.PRICE_RANGE_EXCEEDED: "EXECUTION_RULE_PRICE_RANGE_EXCEEDED",
}
"""The reasons that cannot be derived from the order itself."""


class AckShape(msgspec.Struct, gc=False, rename="camel"):
    """Answer to a placed order, ACK."""

    symbol: str
    order_id: int
    order_list_id: int
    client_order_id: str
    transact_time: Time


class _PlacedShape(msgspec.Struct, gc=False, rename="camel"):
    symbol: str
    order_id: int
    order_list_id: int
    client_order_id: str
    transact_time: Time
    price: Amount
    orig_qty: Amount
    executed_qty: Amount
    orig_quote_order_qty: Amount
    cummulative_quote_qty: Amount
    status: StatusName
    time_in_force: TimeInForceName
    type: OrderTypeName
    side: SideName
    working_time: Time
    self_trade_prevention_mode: PreventionName


class PreventedShape(msgspec.Struct, gc=False, rename="camel"):
    """A prevented trade; a quantity is present if that order was ended."""

    prevented_match_id: int
    maker_symbol: str
    maker_order_id: int
    price: Amount
    taker_prevented_quantity: Amount | UnsetType = UNSET
    maker_prevented_quantity: Amount | UnsetType = UNSET


class ResultShape(_PlacedShape, gc=False, rename="camel"):
    """Answer to a placed order, RESULT. Fields with a default are present only if they apply."""

    expiry_reason: str | UnsetType = UNSET
    prevented_quantity: Amount | UnsetType = UNSET
    strategy_id: int | UnsetType = UNSET
    strategy_type: int | UnsetType = UNSET
    prevented_matches: list[PreventedShape] | UnsetType = UNSET


class FillShape(msgspec.Struct, gc=False, rename="camel"):
    """One of the fills in a FULL answer."""

    price: Amount
    qty: Amount
    commission: Amount
    commission_asset: str
    trade_id: int


class FullShape(_PlacedShape, gc=False, rename="camel"):
    """Answer to a placed order, FULL; fields with a default as in `ResultShape`."""

    fills: list[FillShape]
    expiry_reason: str | UnsetType = UNSET
    prevented_quantity: Amount | UnsetType = UNSET
    strategy_id: int | UnsetType = UNSET
    strategy_type: int | UnsetType = UNSET
    prevented_matches: list[PreventedShape] | UnsetType = UNSET


class CanceledShape(msgspec.Struct, gc=False, rename="camel"):
    """Answer to a cancel."""

    symbol: str
    orig_client_order_id: str
    order_id: int
    order_list_id: int
    client_order_id: str
    transact_time: Time
    price: Amount
    orig_qty: Amount
    executed_qty: Amount
    orig_quote_order_qty: Amount
    cummulative_quote_qty: Amount
    status: StatusName
    time_in_force: TimeInForceName
    type: OrderTypeName
    side: SideName
    self_trade_prevention_mode: PreventionName
    strategy_id: int | UnsetType = UNSET
    strategy_type: int | UnsetType = UNSET


class OrderShape(msgspec.Struct, gc=False, rename="camel"):
    """A queried order; fields with a default as in `ResultShape`."""

    symbol: str
    order_id: int
    order_list_id: int
    client_order_id: str
    price: Amount
    orig_qty: Amount
    executed_qty: Amount
    cummulative_quote_qty: Amount
    status: StatusName
    time_in_force: TimeInForceName
    type: OrderTypeName
    side: SideName
    stop_price: Amount
    iceberg_qty: Amount
    time: Time
    update_time: Time
    is_working: bool
    working_time: Time
    orig_quote_order_qty: Amount
    self_trade_prevention_mode: PreventionName
    expiry_reason: str | UnsetType = UNSET
    prevented_quantity: Amount | UnsetType = UNSET
    prevented_match_id: int | UnsetType = UNSET
    strategy_id: int | UnsetType = UNSET
    strategy_type: int | UnsetType = UNSET


def shown_price(order: OrderState, market: Market) -> str:
    """Return the limit price; a MARKET order has none."""
    return _ZERO if order.order_type is OrderType.MARKET else market.format_price(order.price)


def shown_time_in_force(order: OrderState) -> str:
    """Return the time in force as Binance shows it: GTC if the order's type leaves no choice."""
    return _TIME_IN_FORCE[order.time_in_force] if order.order_type is OrderType.LIMIT else "GTC"


def expiry_reason(order: OrderState) -> str | None:
    """Return why an order has expired, in Binance's words, or None."""
    if order.status is not OrderStatus.EXPIRED:
        return None
    if order.close_reason in _EXPIRY_REASONS:
        return _EXPIRY_REASONS[order.close_reason]
    if order.order_type is OrderType.MARKET:
        return "INSUFFICIENT_LIQUIDITY"
    return (
        "UNFILLED_FOK_ORDER_EXPIRED"
        if order.time_in_force is TimeInForce.FOK
        else "UNFILLED_IOC_QUANTITY_EXPIRED"
    )


def prevented_quantity(order: OrderState, market: Market) -> str | None:
    """Return the quantity that self-trade prevention has taken off an order; None: none, or unknown.

    For an order that closed before orders recorded it, this is the remaining quantity, since every mode takes
    all; for one by quote quantity it is unknown.
    """
    if order.status is not OrderStatus.EXPIRED_IN_MATCH:
        return None
    if order.course is not None:
        return market.format_quantity(order.course.prevented_quantity)
    return (
        None
        if order.quote_quantity
        else market.format_quantity(QuantityLots(order.quantity - order.cum_quantity))
    )


def _conditional(
    order: OrderState, market: Market
) -> tuple[str | UnsetType, str | UnsetType, int | UnsetType, int | UnsetType]:
    """Return `expiryReason`, `preventedQuantity`, `strategyId` and `strategyType`."""
    reason: str | UnsetType = UNSET
    prevented: str | UnsetType = UNSET
    if order.status is OrderStatus.EXPIRED or order.status is OrderStatus.EXPIRED_IN_MATCH:
        reason, prevented = expiry_reason(order) or UNSET, prevented_quantity(order, market) or UNSET
    return reason, prevented, *strategy(order)


def strategy(order: OrderState) -> tuple[int | UnsetType, int | UnsetType]:
    """Return the strategy that the order's owner has assigned: `strategyId` and `strategyType`."""
    if order.terms is None:
        return UNSET, UNSET
    strategy_id, strategy_type = order.terms.strategy_id, order.terms.strategy_type
    return UNSET if strategy_id is None else strategy_id, UNSET if strategy_type is None else strategy_type


def _prevented(matches: tuple[Prevented, ...], market: Market) -> list[PreventedShape] | UnsetType:
    def shown(lots: QuantityLots) -> str | UnsetType:
        return market.format_quantity(lots) if lots else UNSET

    if not matches:
        return UNSET
    return [
        PreventedShape(
            match.match_id,
            market.symbol,
            match.maker_order_id,
            market.format_price(match.price),
            shown(match.taker_quantity),
            shown(match.maker_quantity),
        )
        for match in matches
    ]


def ack(order: OrderState, time_scale: int) -> AckShape:
    """Return the ACK answer to a placed order."""
    return AckShape(
        order.market, order.order_id, _NO_LIST, order.client_order_id, order.updated_time * time_scale
    )


def result(
    order: OrderState, market: Market, time_scale: int, prevented: tuple[Prevented, ...] = ()
) -> ResultShape:
    """Return the RESULT answer to a placed order."""
    fields = _result_fields(order, market, time_scale)
    return ResultShape(*fields, *_conditional(order, market), _prevented(prevented, market))  # type: ignore[arg-type, call-arg]


def full(
    order: OrderState,
    fills: tuple[FillReport, ...],
    market: Market,
    time_scale: int,
    prevented: tuple[Prevented, ...] = (),
) -> FullShape:
    """Return the FULL answer to a placed order."""
    shapes = [
        FillShape(
            market.format_price(fill.price),
            market.format_quantity(fill.quantity),
            market.format_amount(fill.fee, fill.fee_asset),
            fill.fee_asset,
            fill.trade_id,
        )
        for fill in fills
    ]
    fields = _result_fields(order, market, time_scale)
    return FullShape(*fields, shapes, *_conditional(order, market), _prevented(prevented, market))  # type: ignore[arg-type, call-arg]


def _result_fields(order: OrderState, market: Market, time_scale: int) -> tuple[object, ...]:
    return (
        order.market,
        order.order_id,
        _NO_LIST,
        order.client_order_id,
        order.updated_time * time_scale,
        shown_price(order, market),
        market.format_quantity(order.quantity),
        market.format_quantity(order.cum_quantity),
        market.format_quote(order.quote_quantity),
        market.format_quote(order.cum_quote),
        _STATUS[order.status],
        shown_time_in_force(order),
        _ORDER_TYPE[order.order_type],
        _SIDE[order.side],
        order.accepted_time * time_scale,
        _PREVENTION[order.self_trade_prevention],
    )


def canceled(order: OrderState, market: Market, cancel_id: str, time_scale: int) -> CanceledShape:
    """Return the answer to a cancel; `cancel_id` is the cancel's own client order id."""
    strategy_id, strategy_type = strategy(order)
    return CanceledShape(
        symbol=order.market,
        orig_client_order_id=order.client_order_id,
        order_id=order.order_id,
        order_list_id=_NO_LIST,
        client_order_id=cancel_id,
        transact_time=order.updated_time * time_scale,
        price=shown_price(order, market),
        orig_qty=market.format_quantity(order.quantity),
        executed_qty=market.format_quantity(order.cum_quantity),
        orig_quote_order_qty=market.format_quote(order.quote_quantity),
        cummulative_quote_qty=market.format_quote(order.cum_quote),
        status=_STATUS[order.status],
        time_in_force=shown_time_in_force(order),
        type=_ORDER_TYPE[order.order_type],
        side=_SIDE[order.side],
        self_trade_prevention_mode=_PREVENTION[order.self_trade_prevention],
        strategy_id=strategy_id,
        strategy_type=strategy_type,
    )


def order_shape(order: OrderState, market: Market, time_scale: int) -> OrderShape:
    """Return the answer to a query of an order."""
    reason, prevented, strategy_id, strategy_type = _conditional(order, market)
    return OrderShape(
        symbol=order.market,
        order_id=order.order_id,
        order_list_id=_NO_LIST,
        client_order_id=order.client_order_id,
        price=shown_price(order, market),
        orig_qty=market.format_quantity(order.quantity),
        executed_qty=market.format_quantity(order.cum_quantity),
        cummulative_quote_qty=market.format_quote(order.cum_quote),
        status=_STATUS[order.status],
        time_in_force=shown_time_in_force(order),
        type=_ORDER_TYPE[order.order_type],
        side=_SIDE[order.side],
        stop_price=_ZERO,
        iceberg_qty=_ZERO,
        time=order.accepted_time * time_scale,
        update_time=order.updated_time * time_scale,
        is_working=True,
        working_time=order.accepted_time * time_scale,
        orig_quote_order_qty=market.format_quote(order.quote_quantity),
        self_trade_prevention_mode=_PREVENTION[order.self_trade_prevention],
        expiry_reason=reason,
        prevented_quantity=prevented,
        prevented_match_id=(order.course.prevented_match_id or UNSET) if order.course is not None else UNSET,
        strategy_id=strategy_id,
        strategy_type=strategy_type,
    )
