"""The average price of a market where nothing happens is known without asking the database."""

from typing import Any, cast

import pytest

from functions.api.ports import Ports
from functions.market_data.get_average_price import average_of
from functions.market_data.ticker_shapes import empty_ticker
from protocol.events import TradeExecuted
from protocol.market_data import Ticker
from protocol.units import TimeMs
from runtime.settings import Settings
from tests.market_log import MarketLog

MARKET = Settings().market_map().by_symbol["BTCUSDT"]
NOW = TimeMs(1_795_392_000_000)
FIVE_MINUTES = 300_000


class Exchange:
    """Redis, which has a trade and a ticker or not, and a database, which counts who asks."""

    def __init__(self, trade_time: int | None, ticker: Ticker | None = None) -> None:
        self.read_models = self.database = self
        self._trade_time, self._ticker = trade_time, ticker
        self.questions = 0

    async def trades(self, _symbol: str, _limit: int) -> list[TradeExecuted]:
        return [] if self._trade_time is None else [MarketLog().trade(self._trade_time, 5_000_000, 1)]

    async def tickers(self, _symbols: list[str]) -> list[Ticker | None]:
        return [self._ticker]

    async def fetch(self, _statement: str, _parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        self.questions += 1
        return [(0, 0, None)] if self.questions == 1 else [(NOW - 1,)]


QUIET = empty_ticker(MARKET, NOW, NOW)


@pytest.mark.parametrize(
    ("exchange", "answer", "questions"),
    [
        (Exchange(NOW - FIVE_MINUTES - 1), ("50000.00000000", NOW - FIVE_MINUTES - 1), 0),
        (Exchange(None, QUIET), ("0.00000000", 0), 0),
        (Exchange(NOW - FIVE_MINUTES), ("0.00000000", NOW - 1), 2),  # the trade is within the five minutes
        (Exchange(None), ("0.00000000", NOW - 1), 2),  # what may be lost is lost
    ],
)
async def test_the_database_is_asked_only_where_something_happens(
    exchange: Exchange, answer: tuple[str, int], questions: int
) -> None:
    assert await average_of(cast("Ports", exchange), MARKET, NOW) == answer
    assert exchange.questions == questions
