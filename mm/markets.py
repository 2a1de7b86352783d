"""The exchange's market data and rules, converted to plans for quoting. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog

from mm.quoting import QuotingPlan, first_reference, is_priced, plan_for
from protocol.market import Market, MarketDefinition, MarketError
from protocol.units import AMOUNT_UNITS_MAX, UNITS_PER_ASSET, PriceTicks, format_decimal, parse_decimal

ORDERS_PER_10S_DEFAULT: Final = 100

_log = structlog.get_logger()


def plans_of(
    exchange_info: Mapping[str, Any], last_prices: Sequence[Mapping[str, Any]], levels: int
) -> list[QuotingPlan]:
    """Return a plan for every market that trades, around its last price, or one to start at if that is known.

    `exchange_info` and `last_prices` are the answers of /api/v3/exchangeInfo and /api/v3/ticker/price.
    """
    prices = {ticker["symbol"]: ticker["price"] for ticker in last_prices}
    plans = []
    for definition in exchange_info["symbols"]:
        if definition["status"] != "TRADING":
            continue
        try:
            market = _market(definition)
        except MarketError as error:
            _log.warning("market not quoted", market=definition["symbol"], reason=str(error))
            continue
        last_price = parse_decimal(prices.get(market.symbol, "0")) // market.tick_size
        if not last_price and not is_priced(market):
            _log.info(
                "market not quoted", market=market.symbol, reason="it has never traded, and no price is known"
            )
            continue
        plans.append(
            plan_for(market, PriceTicks(last_price) if last_price else first_reference(market), levels)
        )
    return plans


def trading_markets(exchange_info: Mapping[str, Any]) -> frozenset[str]:
    """Return the symbols with the status TRADING."""
    return frozenset(
        definition["symbol"] for definition in exchange_info["symbols"] if definition["status"] == "TRADING"
    )


def orders_per_10s(exchange_info: Mapping[str, Any]) -> int:
    """Return the exchange's limit of an account's orders per 10 s, or `ORDERS_PER_10S_DEFAULT`."""
    for limit in exchange_info.get("rateLimits", ()):
        if (limit["rateLimitType"], limit["interval"], limit["intervalNum"]) == ("ORDERS", "SECOND", 10):
            return int(limit["limit"])
    return ORDERS_PER_10S_DEFAULT


def _market(definition: Mapping[str, Any]) -> Market:
    filters = {filter_["filterType"]: filter_ for filter_ in definition["filters"]}
    prices, lots = filters["PRICE_FILTER"], filters["LOT_SIZE"]
    notional = filters.get("NOTIONAL") or filters.get("MIN_NOTIONAL") or {"minNotional": "0"}
    # The API writes every amount with eight decimals, so here every asset has eight. The largest order in an
    # asset with fewer decimals may exceed 63 bits; nobody quotes such quantities.
    quantity_fits = AMOUNT_UNITS_MAX // 10 * UNITS_PER_ASSET // parse_decimal(prices["maxPrice"])
    return MarketDefinition(
        symbol=definition["symbol"],
        base=definition["baseAsset"],
        quote=definition["quoteAsset"],
        tick_size=prices["tickSize"],
        lot_size=lots["stepSize"],
        price_max=prices["maxPrice"],
        quantity_min=lots["minQty"],
        quantity_max=format_decimal(min(parse_decimal(lots["maxQty"]), quantity_fits)),
        notional_min=notional["minNotional"],
    ).to_market()
