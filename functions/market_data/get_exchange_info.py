"""GET /api/v3/exchangeInfo: the markets, their filters, and the rate limits."""

from typing import Annotated, Final

import msgspec

from functions.api.errors import bad_combination, invalid_parameter
from functions.api.function import OPTIONAL_SYMBOL, SYMBOL_STATUS, SYMBOLS, Function, Group, Parameter
from functions.api.market_choice import MARKET_STATUSES, all_markets, shown_status, wanted_status, with_status
from functions.api.parameters import Parameters
from functions.api.ports import Call, Ports
from functions.api.rate_limits import order_limits, raw_requests_limit, weight_limit
from functions.api.shapes import Amount, LimitShape, Multiplier, OrderTypeName, PreventionName, Time, one_of
from protocol.listing import Listing
from protocol.market import Market
from protocol.orders import OrderType, SelfTradePrevention
from protocol.units import AMOUNT_UNITS_MAX, PriceTicks, format_decimal

_ORDER_TYPES: Final = [order_type.name for order_type in OrderType]
_PREVENTIONS: Final = [mode.name for mode in SelfTradePrevention]
_PERMISSIONS: Final = frozenset(
    {"SPOT", "MARGIN", "LEVERAGED", *(f"TRD_GRP_{number:03d}" for number in range(2, 300))}
)


class _Filter(msgspec.Struct, gc=False, rename="camel", tag_field="filterType"):
    pass


class PriceFilter(_Filter, tag="PRICE_FILTER"):
    """Prices are multiples of `tick_size`."""

    min_price: Amount
    max_price: Amount
    tick_size: Amount


class LotSize(_Filter, tag="LOT_SIZE"):
    """Quantities are multiples of `step_size`."""

    min_qty: Amount
    max_qty: Amount
    step_size: Amount


class MarketLotSize(_Filter, tag="MARKET_LOT_SIZE"):
    """The same for MARKET orders."""

    min_qty: Amount
    max_qty: Amount
    step_size: Amount


class IcebergParts(_Filter, tag="ICEBERG_PARTS"):
    """Orders have no iceberg parts here."""

    limit: int


class PercentPriceBySide(_Filter, tag="PERCENT_PRICE_BY_SIDE"):
    """How far from the last price an order may be."""

    bid_multiplier_up: Multiplier
    bid_multiplier_down: Multiplier
    ask_multiplier_up: Multiplier
    ask_multiplier_down: Multiplier
    avg_price_mins: int


class Notional(_Filter, tag="NOTIONAL"):
    """The allowed value of an order."""

    min_notional: Amount
    apply_min_to_market: bool
    max_notional: Amount
    apply_max_to_market: bool
    avg_price_mins: int


class MinNotional(_Filter, tag="MIN_NOTIONAL"):
    """The minimum value of an order."""

    min_notional: Amount
    apply_to_market: bool
    avg_price_mins: int


class MaxNumOrders(_Filter, tag="MAX_NUM_ORDERS"):
    """Maximum of an account's open orders in the market."""

    max_num_orders: int


class ExchangeMaxNumOrders(_Filter, tag="EXCHANGE_MAX_NUM_ORDERS"):
    """Maximum of an account's open orders in all markets."""

    max_num_orders: int


Filter = (
    PriceFilter
    | LotSize
    | IcebergParts
    | MarketLotSize
    | PercentPriceBySide
    | Notional
    | MinNotional
    | MaxNumOrders
)
ExchangeFilter = ExchangeMaxNumOrders


class SymbolShape(msgspec.Struct, rename="camel"):
    """A market with its filters."""

    symbol: str
    status: Annotated[str, one_of(MARKET_STATUSES)]
    base_asset: str
    base_asset_precision: int
    quote_asset: str
    quote_precision: int
    quote_asset_precision: int
    base_commission_precision: int
    quote_commission_precision: int
    order_types: list[OrderTypeName]
    iceberg_allowed: bool
    oco_allowed: bool
    oto_allowed: bool
    opo_allowed: bool
    quote_order_qty_market_allowed: bool
    allow_trailing_stop: bool
    cancel_replace_allowed: bool
    amend_allowed: bool
    peg_instructions_allowed: bool
    is_spot_trading_allowed: bool
    is_margin_trading_allowed: bool
    filters: list[Filter]
    permissions: list[str]
    permission_sets: list[list[str]]
    default_self_trade_prevention_mode: PreventionName
    allowed_self_trade_prevention_modes: list[PreventionName]
    matches_max: int
    """Our extension: maximum of resting orders that one arriving order may meet.

    Then its remainder expires; FOK is refused.
    """
    market_slippage: Multiplier
    """Our extension: a MARKET order trades at most this fraction beyond the best price.

    Then its remainder expires.
    """


class ExchangeInfoShape(msgspec.Struct, rename="camel"):
    """The exchange and its markets."""

    timezone: str
    server_time: Time
    rate_limits: list[LimitShape]
    exchange_filters: list[ExchangeFilter]
    symbols: list[SymbolShape]


async def get_exchange_info(ports: Ports, call: Call) -> ExchangeInfoShape:
    """Return the requested markets, or all."""
    parameters, listing = call.parameters, ports.listing()
    shown = parameters.boolean("showPermissionSets", default=True)
    return ExchangeInfoShape(
        timezone="UTC",
        server_time=call.now * call.time_scale,
        rate_limits=[
            weight_limit(ports.settings),
            *order_limits(ports.settings),
            raw_requests_limit(ports.settings),
        ],
        exchange_filters=exchange_filters(listing),
        symbols=[
            symbol_shape(market, shown_status(listing, market), shown)
            for market in _chosen(parameters, listing)
        ],
    )


def _chosen(parameters: Parameters, listing: Listing) -> list[Market]:
    by_name = [name for name in ("symbol", "symbols") if name in parameters]
    by_kind = [name for name in ("permissions", "symbolStatus") if name in parameters]
    if len(by_name) > 1 or (by_name and by_kind):
        raise bad_combination()
    if "symbol" in parameters:
        return [parameters.market(listing.listed)]
    chosen = parameters.markets(listing.listed)
    if chosen is not None:
        return chosen
    permissions = parameters.words("permissions")
    if permissions is not None and not set(permissions) <= _PERMISSIONS:
        raise invalid_parameter("permissions")
    status = wanted_status(parameters)
    if permissions is not None and "SPOT" not in permissions:
        return []
    return with_status(listing, all_markets(listing.listed), status)


def symbol_shape(market: Market, status: str, show_permission_sets: bool) -> SymbolShape:
    """Return a market with its filters."""
    return SymbolShape(
        symbol=market.symbol,
        status=status,
        base_asset=market.base,
        base_asset_precision=8,
        quote_asset=market.quote,
        quote_precision=8,
        quote_asset_precision=8,
        base_commission_precision=8,
        quote_commission_precision=8,
        order_types=_ORDER_TYPES,
        iceberg_allowed=False,
        oco_allowed=False,
        oto_allowed=False,
        opo_allowed=False,
        quote_order_qty_market_allowed=True,
        allow_trailing_stop=False,
        cancel_replace_allowed=False,
        amend_allowed=False,
        peg_instructions_allowed=False,
        is_spot_trading_allowed=True,
        is_margin_trading_allowed=False,
        filters=filters(market),
        permissions=[],
        permission_sets=[["SPOT"]] if show_permission_sets else [],
        default_self_trade_prevention_mode=SelfTradePrevention.EXPIRE_MAKER.name,
        allowed_self_trade_prevention_modes=_PREVENTIONS,
        matches_max=market.matches_max,
        market_slippage=format_decimal(market.market_slippage_ppm, 6),
    )


def exchange_filters(listing: Listing) -> list[ExchangeFilter]:
    """Return the rules for an account's orders over all markets."""
    most = listing.open_orders_max
    return [ExchangeMaxNumOrders(most)] if most else []


def filters(market: Market) -> list[Filter]:
    """Return the rules for an order."""
    up, down = format_decimal(market.band_up_ppm, 6), format_decimal(market.band_down_ppm, 6)
    smallest, largest = (
        market.format_quantity(market.quantity_min),
        market.format_quantity(market.quantity_max),
    )
    step = format_decimal(market.lot_size)
    notional_min = market.format_quote(market.notional_min)
    return [
        PriceFilter(
            market.format_price(PriceTicks(1)),
            market.format_price(market.price_max),
            format_decimal(market.tick_size),
        ),
        LotSize(smallest, largest, step),
        IcebergParts(10),
        MarketLotSize(smallest, largest, step),
        PercentPriceBySide(
            bid_multiplier_up=up,
            bid_multiplier_down=down,
            ask_multiplier_up=up,
            ask_multiplier_down=down,
            avg_price_mins=0,
        ),
        Notional(
            min_notional=notional_min,
            apply_min_to_market=True,
            max_notional=market.format_quote(AMOUNT_UNITS_MAX // 10),
            apply_max_to_market=False,
            avg_price_mins=0,
        ),
        MinNotional(min_notional=notional_min, apply_to_market=True, avg_price_mins=0),
        MaxNumOrders(market.open_orders_max),
    ]


FUNCTION = Function(
    "GET",
    "/api/v3/exchangeInfo",
    Group.MARKET_DATA,
    "Markets, filters and rate limits",
    get_exchange_info,
    weight=20,
    parameters=(
        OPTIONAL_SYMBOL,
        SYMBOLS,
        Parameter("permissions", 'Only markets with one of these permissions: SPOT, or ["SPOT","MARGIN"].'),
        Parameter(
            "showPermissionSets", "Whether permissionSets is filled in; true by default.", kind="boolean"
        ),
        SYMBOL_STATUS,
    ),
)
