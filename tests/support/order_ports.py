"""An exchange in memory for the functions that place orders."""

from typing import Any, cast

from engine_worker.core.shard import Shard
from functions.api.errors import unavailable
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
