import asyncio
from typing import Any, cast

import msgspec

from client.rest import Client, UnavailableError
from functions.market_data.get_exchange_info import symbol_shape
from mm.main import changed
from mm.markets import orders_per_10s, plans_of, trading_markets
from protocol.units import format_decimal, parse_decimal
from tests.support.currencies import currencies


def symbol(name: str = "BTCUSDT", status: str = "TRADING", tick_size: str = "0.01000000") -> dict[str, Any]:
    return {
        "symbol": name,
        "status": status,
        "baseAsset": name.removesuffix("USDT"),
        "quoteAsset": "USDT",
        "filters": [
            {
                "filterType": "PRICE_FILTER",
                "minPrice": "0.01000000",
                "maxPrice": "1000000.00000000",
                "tickSize": tick_size,
            },
            {
                "filterType": "LOT_SIZE",
                "minQty": "0.00001000",
                "maxQty": "9000.00000000",
                "stepSize": "0.00001000",
            },
            {"filterType": "NOTIONAL", "minNotional": "5.00000000"},
        ],
    }


def test_a_market_without_trades_starts_at_its_base_price() -> None:
    (plan,) = plans_of({"symbols": [symbol()]}, [], levels=15)
    assert plan.market.format_price(plan.anchor) == "100000.00000000"
    assert plan.market.format_quantity(plan.market.quantity_min) == "0.00001000"
    assert plan.levels == 15


def test_a_market_that_has_traded_goes_on_from_its_last_price() -> None:
    (plan,) = plans_of({"symbols": [symbol()]}, [{"symbol": "BTCUSDT", "price": "98765.43000000"}], levels=15)
    assert plan.market.format_price(plan.anchor) == "98765.43000000"


def test_a_price_of_zero_is_no_price() -> None:
    (plan,) = plans_of(
        {"symbols": [symbol("SOLUSDT")]}, [{"symbol": "SOLUSDT", "price": "0.00000000"}], levels=15
    )
    assert plan.market.format_price(plan.anchor) == "180.00000000"


def test_markets_that_do_not_trade_or_cannot_be_whole_are_left_out() -> None:
    symbols = [symbol(status="HALT"), symbol("ETHUSDT", tick_size="0.00000001"), symbol("SOLUSDT")]
    assert [plan.market.symbol for plan in plans_of({"symbols": symbols}, [], levels=15)] == ["SOLUSDT"]


def test_a_market_that_has_never_traded_is_quoted_only_where_a_price_is_known() -> None:
    assert plans_of({"symbols": [symbol("XYZUSDT")]}, [], levels=15) == []
    (plan,) = plans_of(
        {"symbols": [symbol("XYZUSDT")]}, [{"symbol": "XYZUSDT", "price": "7.25000000"}], levels=15
    )
    assert plan.market.format_price(plan.anchor) == "7.25000000"


class Exchange:
    """Answers with one list of markets after the other."""

    def __init__(self, *answers: list[dict[str, Any]] | Exception) -> None:
        self.answers = list(answers)

    async def get(self, _path: str) -> dict[str, Any]:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {"symbols": answer}


async def test_the_maker_hears_when_other_markets_trade() -> None:
    btc, eth, halted = symbol(), symbol("ETHUSDT"), symbol("ETHUSDT", status="HALT")
    trading = trading_markets({"symbols": [btc, halted]})
    assert trading == {"BTCUSDT"}
    exchange = Exchange([btc, halted], UnavailableError("away"), [btc], [btc, eth], [])
    async with asyncio.timeout(10):
        await changed(cast("Client", exchange), trading, period_s=0)
    assert exchange.answers == [[]], "it returned when ETHUSDT traded"


def test_the_order_limit_is_what_the_exchange_says() -> None:
    limits = [
        {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6000},
        {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": 50},
    ]
    assert orders_per_10s({"rateLimits": limits}) == 50
    assert orders_per_10s({}) == 100


def test_a_market_whose_quote_asset_has_few_decimals_is_quoted_in_whole_ones_of_it() -> None:
    """What the exchange says has eight decimals always.

    A billion rupiah times 9,000 BTC does not fit 63 bits then, an order does.
    """
    market = currencies().by_symbol["BTCIDR"]
    said = msgspec.to_builtins(symbol_shape(market, "TRADING", show_permission_sets=True))
    (plan,) = plans_of({"symbols": [said]}, [{"symbol": "BTCIDR", "price": "1600000000.00000000"}], levels=2)
    assert plan.market.format_price(plan.anchor) == "1600000000.00000000"
    assert plan.market.notional(plan.anchor, plan.quantity) >= plan.market.notional_min == 15_000_50000000
    # What it asks the faucet for has no more decimals than the assets.
    for units, decimals in ((plan.quote_target, 2), (plan.market.base_units(plan.base_target), 8)):
        parse_decimal(format_decimal(units), decimals)
