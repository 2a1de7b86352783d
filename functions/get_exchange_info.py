"""GET /api/v3/exchangeInfo: the markets, their filters, and the rate limits."""

from typing import Any, Final

import msgspec

from functions.errors import bad_combination, invalid_parameter
from functions.function import OPTIONAL_SYMBOL, SYMBOL_STATUS, SYMBOLS, Function, Group, Parameter
from functions.market_choice import all_markets, shown_status, wanted_status, with_status
from functions.parameters import Parameters
from functions.ports import Call, Ports
from functions.rate_limits import order_limits, raw_requests_limit, weight_limit
from protocol.listing import Listing
from protocol.market import Market
from protocol.orders import OrderType, SelfTradePrevention
from protocol.units import AMOUNT_UNITS_MAX, PriceTicks, format_decimal

_ORDER_TYPES: Final = [order_type.name for order_type in OrderType]
_PREVENTIONS: Final = [mode.name for mode in SelfTradePrevention]
_PERMISSIONS: Final = frozenset({"SPOT", "MARGIN", "LEVERAGED", *(f"TRD_GRP_{number:03d}" for number in range(2, 300))})


class SymbolShape(msgspec.Struct, rename="camel"):
    """A market with its filters."""

    symbol: str
    status: str
    base_asset: str
    base_asset_precision: int
    quote_asset: str
    quote_precision: int
    quote_asset_precision: int
    base_commission_precision: int
    quote_commission_precision: int
    order_types: list[str]
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
    filters: list[dict[str, Any]]
    permissions: list[str]
    permission_sets: list[list[str]]
    default_self_trade_prevention_mode: str
    allowed_self_trade_prevention_modes: list[str]
    matches_max: int
    """Ours: resting orders that one arriving order may meet. What is left when it would meet one more expires; FOK is refused."""
    market_slippage: str
    """Ours: a MARKET order trades up to this fraction beyond the best price that it meets. What is left expires."""


class ExchangeInfoShape(msgspec.Struct, rename="camel"):
    """The exchange and its markets."""

    timezone: str
    server_time: int
    rate_limits: list[dict[str, Any]]
    exchange_filters: list[dict[str, Any]]
    symbols: list[SymbolShape]


async def get_exchange_info(ports: Ports, call: Call) -> object:
    """Return the markets asked for, or all."""
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
        symbols=[symbol_shape(market, shown_status(listing, market), shown) for market in _chosen(parameters, listing)],
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


def exchange_filters(listing: Listing) -> list[dict[str, object]]:
    """Return the rules that an account must keep over all markets."""
    most = listing.open_orders_max
    return [{"filterType": "EXCHANGE_MAX_NUM_ORDERS", "maxNumOrders": most}] if most else []


def filters(market: Market) -> list[dict[str, object]]:
    """Return the rules that an order must keep."""
    up, down = format_decimal(market.band_up_ppm, 6), format_decimal(market.band_down_ppm, 6)
    lots = {
        "minQty": market.format_quantity(market.quantity_min),
        "maxQty": market.format_quantity(market.quantity_max),
        "stepSize": format_decimal(market.lot_size),
    }
    notional_min = market.format_quote(market.notional_min)
    return [
        {
            "filterType": "PRICE_FILTER",
            "minPrice": market.format_price(PriceTicks(1)),
            "maxPrice": market.format_price(market.price_max),
            "tickSize": format_decimal(market.tick_size),
        },
        {"filterType": "LOT_SIZE", **lots},
        {"filterType": "ICEBERG_PARTS", "limit": 10},
        {"filterType": "MARKET_LOT_SIZE", **lots},
        {
            "filterType": "PERCENT_PRICE_BY_SIDE",
            "bidMultiplierUp": up,
            "bidMultiplierDown": down,
            "askMultiplierUp": up,
            "askMultiplierDown": down,
            "avgPriceMins": 0,
        },
        {
            "filterType": "NOTIONAL",
            "minNotional": notional_min,
            "applyMinToMarket": True,
            "maxNotional": market.format_quote(AMOUNT_UNITS_MAX // 10),
            "applyMaxToMarket": False,
            "avgPriceMins": 0,
        },
        {"filterType": "MIN_NOTIONAL", "minNotional": notional_min, "applyToMarket": True, "avgPriceMins": 0},
        {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": market.open_orders_max},
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
        Parameter("showPermissionSets", "Whether permissionSets is filled in; true by default.", kind="boolean"),
        SYMBOL_STATUS,
    ),
    answer=ExchangeInfoShape,
)
