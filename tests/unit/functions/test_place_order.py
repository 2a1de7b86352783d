"""A MARKET order with an idempotency key gets the first outcome, wherever the price is when it is sent again."""

from typing import Any, cast

import pytest

from engine_worker.core.shard import Shard
from functions.errors import ApiError
from functions.parameters import Parameters
from functions.place_order import place_order
from functions.ports import Call, Ports
from protocol.commands import Command, Deposit
from protocol.market_data import BookTicker
from protocol.replies import Reply
from protocol.units import AccountId, AssetUnits, TimeMs
from runtime.settings import Settings

SMALL = {"quantity": "0.0002"}
"""5 USDT, the least that an order may be worth, at a price of 25,000."""


class Exchange:
    """One shard, and a best price that the test sets."""

    reply_to = "test"

    def __init__(self) -> None:
        self.settings = Settings()
        self.markets = self.settings.market_map()
        self.shards = self.read_models = self.order_counts = self
        self.best = 3_000_000
        self._shard = Shard(0, self.markets)
        self._last_id = 0
        for asset in ("USDT", "BTC"):
            self._shard.apply(Deposit(0, "", AccountId(1), asset, AssetUnits(10**12), asset), TimeMs(1))
        self._shard.take()

    def next_request_id(self) -> int:
        self._last_id += 1
        return self._last_id

    async def submit(self, command: Command, _deadline_us: int = 0) -> Reply:
        self._shard.apply(command, TimeMs(2))
        [(_, reply)] = self._shard.take().replies
        return reply

    async def book_tickers(self, _symbols: list[str]) -> list[BookTicker]:
        return [cast("BookTicker", self)]

    @property
    def ask_price(self) -> int:
        return self.best

    def count_order(self, _account_id: AccountId, _now: TimeMs) -> None:
        return None

    forgive_order = count_order

    async def buy(self, **parameters: str) -> int:
        order = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", **parameters}
        answer = await place_order(cast("Ports", self), Call(Parameters(order), TimeMs(2), AccountId(1)))
        return int(cast("Any", answer).order_id)


async def test_the_price_has_moved_since() -> None:
    exchange = Exchange()
    first = await exchange.buy(**SMALL, idempotencyKey="k")
    exchange.best = 1_000_000
    assert await exchange.buy(**SMALL, idempotencyKey="k") == first
    for names in ({}, {"idempotencyKey": "new"}, {"idempotencyKey": "new"}):
        with pytest.raises(ApiError, match="Filter failure: NOTIONAL"):
            await exchange.buy(**SMALL, **names)
    exchange.best = 3_000_000
    with pytest.raises(ApiError, match="Filter failure: NOTIONAL"):
        await exchange.buy(**SMALL, idempotencyKey="new")
    assert await exchange.buy(**SMALL) > first
