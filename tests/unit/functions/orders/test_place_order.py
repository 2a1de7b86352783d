"""MARKET orders through the function and a shard: the book at the shard decides, whatever the gateway's
ticker says."""

import pytest

from functions.api.errors import ApiError
from tests.support.order_ports import Exchange


async def test_what_the_ticker_says_does_not_bound_an_order() -> None:
    """Bids at 30,000, 29,000 and 20,000; the ticker is of another day. 5 % below 30,000 are 28,500."""
    exchange = Exchange()
    for price in ("30000", "29000", "20000"):
        await exchange.order(side="BUY", type="LIMIT", timeInForce="GTC", quantity="0.001", price=price)
    for ticker in (100_000_000, 1, 0):
        exchange.best = ticker
        sold = await exchange.order(2, side="SELL", type="MARKET", quantity="0.004")
        assert (sold.status, sold.executed_qty) == ("EXPIRED", "0.00200000")
        for price in ("30000", "29000"):
            await exchange.order(side="BUY", type="LIMIT", timeInForce="GTC", quantity="0.001", price=price)


async def test_a_ticker_that_is_too_low_ends_a_purchase_and_costs_no_more_than_it_holds() -> None:
    """It holds 0.002 BTC at 20,000 and 5 %, 42 USDT: at 30,000 that buys 0.00140 for the whole 42."""
    exchange = Exchange()
    await exchange.order(2, side="SELL", type="LIMIT", timeInForce="GTC", quantity="1", price="30000")
    exchange.best = 2_000_000
    bought = await exchange.order(side="BUY", type="MARKET", quantity="0.002")
    assert (bought.status, bought.executed_qty) == ("EXPIRED", "0.00140000")
    assert bought.cummulative_quote_qty == "42.00000000"
    exchange.best = 50_000_000
    bought = await exchange.order(side="BUY", type="MARKET", quantity="0.002")
    assert (bought.status, bought.cummulative_quote_qty) == ("FILLED", "60.00000000")


async def test_an_order_needs_no_ticker() -> None:
    """What may be lost is away: a purchase holds what it costs at the market's largest price, or all there
    is, and gets the rest back."""
    exchange = Exchange()
    await exchange.order(2, side="SELL", type="LIMIT", timeInForce="GTC", quantity="1", price="30000")
    exchange.is_cache_away = True
    bought = await exchange.order(side="BUY", type="MARKET", quantity="0.002")
    assert (bought.status, bought.cummulative_quote_qty) == ("FILLED", "60.00000000")
    sold = await exchange.order(side="SELL", type="LIMIT", timeInForce="GTC", quantity="0.001", price="31000")
    assert sold.status == "NEW"


async def test_an_empty_side() -> None:
    exchange = Exchange()
    for side in ("BUY", "SELL"):
        for amount in ({"quantity": "0.0002"}, {"quoteOrderQty": "5"}):
            with pytest.raises(
                ApiError, match="Order book liquidity is less than symbol minimum quantity"
            ) as refused:
                await exchange.order(side=side, type="MARKET", **amount)
            assert refused.value.code == -2010
    # 25,000 is the last price: 0.0002 BTC are 5 USDT, the least that an order may be worth.
    await exchange.order(2, side="SELL", type="LIMIT", timeInForce="GTC", quantity="0.001", price="25000")
    await exchange.order(side="BUY", type="MARKET", quantity="0.001")
    for side in ("BUY", "SELL"):
        with pytest.raises(ApiError, match="Filter failure: NOTIONAL") as refused:
            await exchange.order(side=side, type="MARKET", quantity="0.00019")
        assert refused.value.code == -1013
        assert (await exchange.order(side=side, type="MARKET", quantity="0.0002")).status == "EXPIRED"
        with pytest.raises(ApiError, match="Order book liquidity is less than symbol minimum quantity"):
            await exchange.order(side=side, type="MARKET", quoteOrderQty="5")


async def test_order_test_counts_the_worth_at_the_last_price() -> None:
    exchange = Exchange()
    exchange.last = 2_500_000
    assert await exchange.check(side="SELL", type="MARKET", quantity="0.0002") == {}
    with pytest.raises(ApiError, match="Filter failure: NOTIONAL"):
        await exchange.check(side="SELL", type="MARKET", quantity="0.00019")
    exchange.last = 0
    assert await exchange.check(side="SELL", type="MARKET", quantity="0.00019") == {}


async def test_a_key_gets_the_first_outcome_wherever_the_price_is_by_then() -> None:
    exchange = Exchange()
    await exchange.order(2, side="SELL", type="LIMIT", timeInForce="GTC", quantity="1", price="25000")
    wanted = {"side": "BUY", "type": "MARKET", "quantity": "0.0002"}
    first = await exchange.order(**wanted, idempotencyKey="k")
    assert first.status == "FILLED"
    await exchange.order(2, side="SELL", type="LIMIT", timeInForce="GTC", quantity="0.01", price="10000")
    await exchange.order(side="BUY", type="LIMIT", timeInForce="IOC", quantity="0.001", price="10000")
    exchange.best = 1_000_000
    assert (await exchange.order(**wanted, idempotencyKey="k")).order_id == first.order_id
    for names in ({}, {"idempotencyKey": "new"}, {"idempotencyKey": "new"}):
        with pytest.raises(ApiError, match="Filter failure: NOTIONAL"):
            await exchange.order(**wanted, **names)
