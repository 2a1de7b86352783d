"""The average price of a market where nothing happens is known without asking the database."""

import pytest

from functions.market_data.get_average_price import average_of
from functions.market_data.ticker_shapes import empty_ticker
from functions.repositories.trades import Turnover
from protocol.events import TradeExecuted
from protocol.market_data import Ticker
from protocol.units import TimeMs
from runtime.settings import Settings
from tests.support.market_log import MarketLog
from tests.unit.functions.repositories import MemoryTrades, ports_of

MARKET = Settings().market_map().by_symbol["BTCUSDT"]
NOW = TimeMs(1_795_392_000_000)
FIVE_MINUTES = 300_000


class Cache:
    """Redis, which has a trade and a ticker or not."""

    def __init__(self, trade_time: int | None, ticker: Ticker | None = None) -> None:
        self._trade_time, self._ticker = trade_time, ticker

    async def trades(self, _symbol: str, _limit: int) -> list[TradeExecuted]:
        return [] if self._trade_time is None else [MarketLog().trade(self._trade_time, 5_000_000, 1)]

    async def tickers(self, _symbols: list[str]) -> list[Ticker | None]:
        return [self._ticker]


class CountedTrades(MemoryTrades):
    """A database that counts the questions."""

    questions = 0

    async def turnover_since(self, symbol: str, start: int) -> Turnover:
        self.questions += 1
        return await super().turnover_since(symbol, start)

    async def last_time(self, symbol: str) -> TimeMs | None:
        self.questions += 1
        return await super().last_time(symbol)


QUIET = empty_ticker(MARKET, NOW, NOW)
OLD = NOW - FIVE_MINUTES - 1


@pytest.mark.parametrize(
    ("cache", "answer", "questions"),
    [
        (Cache(OLD), ("50000.00000000", OLD), 0),
        (Cache(None, QUIET), ("0.00000000", 0), 0),
        (
            Cache(NOW - FIVE_MINUTES),
            ("0.00000000", OLD),
            2,
        ),  # it is within the five minutes, and not stored yet
        (Cache(None), ("0.00000000", OLD), 2),  # what may be lost is lost
    ],
)
async def test_the_database_is_asked_only_where_something_happens(
    cache: Cache, answer: tuple[str, int], questions: int
) -> None:
    trades = CountedTrades([MarketLog().trade(OLD, 7, 1)])
    assert await average_of(ports_of(read_models=cache, trades=trades), MARKET, NOW) == answer
    assert trades.questions == questions


async def test_trades_of_the_last_five_minutes_are_weighted_by_quantity() -> None:
    log = MarketLog()
    for time, price, quantity in (
        (OLD, 9_000_000, 50),
        (NOW - FIVE_MINUTES, 5_000_000, 1),
        (NOW - 7, 6_000_000, 3),
    ):
        log.trade(time, price, quantity)
    ports = ports_of(read_models=Cache(None), trades=MemoryTrades(log.trades[MARKET.symbol]))
    assert await average_of(ports, MARKET, NOW) == ("57500.00000000", NOW - 7)
