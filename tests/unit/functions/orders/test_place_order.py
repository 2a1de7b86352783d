"""MARKET orders through the function and a shard: the book at the shard decides, whatever the gateway's
ticker says."""

from typing import Any, cast

import pytest

from engine_worker.core.shard import Shard
from functions.api.errors import ApiError, unavailable
from functions.api.parameters import Parameters
from functions.api.ports import Call, Ports
from functions.orders.check_order import check_order
from functions.orders.place_order import place_order
from protocol.commands import Command, Deposit
from protocol.market_data import BookTicker
from protocol.replies import Reply
from protocol.units import AccountId, AssetUnits, TimeMs
from runtime.settings import Settings


class Exchange:
    """One shard, and what feeds say of the book and the last price, which the test sets."""

    reply_to = "test"

    def __init__(self) -> None:
        self.settings = Settings()
        self.markets = self.settings.market_map()
        self.shards = self.read_models = self.order_counts = self
        self.best = 3_000_000
        self.last = self.previous_close = 0
        self.is_cache_away = False
        self._shard = Shard(0, self.markets)
        self._last_id = 0
        for account_id in (1, 2):
            for asset in ("USDT", "BTC"):
                self._shard.apply(
                    Deposit(0, "", AccountId(account_id), asset, AssetUnits(10**12), asset), TimeMs(1)
                )
        self._shard.take()

    def next_request_id(self) -> int:
        self._last_id += 1
        return self._last_id

    async def submit(self, command: Command, _deadline_us: int = 0) -> Reply:
        self._shard.apply(command, TimeMs(2))
        [(_, reply)] = self._shard.take().replies
        return reply

    async def book_tickers(self, _symbols: list[str]) -> list[BookTicker]:
        if self.is_cache_away:
            raise unavailable()
        return [cast("BookTicker", self)]

    tickers = book_tickers

    @property
    def ask_price(self) -> int:
        return self.best

    def count_order(self, _account_id: AccountId, _now: TimeMs) -> None:
        return None

    forgive_order = count_order

    async def order(self, account_id: int = 1, /, **parameters: str) -> Any:
        call = Call(Parameters({"symbol": "BTCUSDT", **parameters}), TimeMs(2), AccountId(account_id))
        return await place_order(cast("Ports", self), call)

    async def check(self, **parameters: str) -> object:
        call = Call(Parameters({"symbol": "BTCUSDT", **parameters}), TimeMs(2), AccountId(1))
        return await check_order(cast("Ports", self), call)


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
