"""Pages of public trades: from a number on, within a time, the newest.

And what the read model is short of.
"""

from typing import Any

import msgspec
import pytest

from functions.api.errors import ApiError
from functions.api.function import Function
from functions.api.parameters import Parameters
from functions.api.ports import MICROSECONDS, Call
from functions.market_data import get_aggregate_trades, get_historical_trades, get_trades
from protocol.events import TradeExecuted
from protocol.orders import Side
from protocol.units import TimeMs
from tests.support.market_log import BTC, START_MS, MarketLog
from tests.unit.functions.repositories import MemoryIngestion, MemoryTrades, ports_of


def tape() -> list[TradeExecuted]:
    """Six trades, a second apart; 2 and 3 are of one taker at one price.

    The others are aggregates of their own.
    """
    log = MarketLog()
    for number in range(6):
        log.trade(
            START_MS + number * 1_000, 5_000_000 + number, 10 + number, Side.SELL if number == 4 else Side.BUY
        )
    aggregates = (1, 2, 2, 3, 4, 5)
    trades = [
        msgspec.structs.replace(each, aggregate_id=number)
        for each, number in zip(log.trades[BTC], aggregates, strict=True)
    ]
    trades[2] = msgspec.structs.replace(trades[2], price=trades[1].price)
    return trades


class Exchange:
    """The tape in the database, and its last trades in the read model."""

    def __init__(self, recent: int = 0) -> None:
        self.ingestion, self._recent = MemoryIngestion(), tape()[6 - recent :]

    async def trades(self, symbol: str, limit: int) -> list[TradeExecuted]:
        assert symbol == BTC
        return self._recent[-limit:]

    async def ask(self, function: Function, time_scale: int = 1, /, **sent: str) -> list[dict[str, Any]]:
        ports = ports_of(read_models=self, trades=MemoryTrades(tape()), ingestion=self.ingestion)
        answer = await function.handle(
            ports, Call(Parameters({"symbol": BTC, **sent}), TimeMs(0), time_scale=time_scale)
        )
        shapes: list[dict[str, Any]] = msgspec.json.decode(msgspec.json.encode(answer))
        return shapes


@pytest.mark.parametrize(
    ("sent", "numbers"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"limit": "2"}, [5, 6]),
        ({"fromId": "0", "limit": "2"}, [1, 2]),
        ({"fromId": "3", "limit": "2"}, [3, 4]),
        ({"fromId": "7"}, []),
    ],
)
async def test_old_trades(sent: dict[str, str], numbers: list[int]) -> None:
    exchange = Exchange()
    assert [each["id"] for each in await exchange.ask(get_historical_trades.FUNCTION, **sent)] == numbers
    assert exchange.ingestion.questions == [0], (
        "the database has all that was acknowledged before it is asked"
    )


async def test_a_trade_whole() -> None:
    sold = (await Exchange().ask(get_historical_trades.FUNCTION, MICROSECONDS, fromId="5", limit="1"))[0]
    assert sold == {
        "id": 5,
        "price": "50000.04000000",
        "qty": "0.00014000",
        "quoteQty": "7.00000560",
        "time": (START_MS + 4_000) * 1_000,
        "isBuyerMaker": True,
        "isBestMatch": True,
    }


@pytest.mark.parametrize(
    ("recent", "limit", "numbers", "is_database_asked"),
    [
        (3, 3, [4, 5, 6], False),
        (3, 2, [5, 6], False),
        (3, 5, [2, 3, 4, 5, 6], True),
        (0, 2, [5, 6], True),
        (6, 500, [1, 2, 3, 4, 5, 6], False),  # the first trade ever is there: nothing was before
    ],
)
async def test_recent_trades_that_the_read_model_is_short_of(
    recent: int, limit: int, numbers: list[int], is_database_asked: bool
) -> None:
    exchange = Exchange(recent)
    assert [each["id"] for each in await exchange.ask(get_trades.FUNCTION, limit=str(limit))] == numbers
    assert exchange.ingestion.questions == [0] * is_database_asked


@pytest.mark.parametrize(
    ("sent", "numbers"),
    [
        ({}, [1, 2, 3, 4, 5]),
        ({"limit": "2"}, [4, 5]),
        ({"fromId": "2", "limit": "2"}, [2, 3]),
        ({"startTime": str(START_MS + 3_000)}, [3, 4, 5]),
        ({"startTime": str(START_MS), "endTime": str(START_MS), "limit": "5"}, [1]),
        ({"endTime": str(START_MS + 3_000), "limit": "2"}, [2, 3]),
        ({"startTime": str(START_MS + 99_000)}, []),
    ],
)
async def test_aggregate_trades(sent: dict[str, str], numbers: list[int]) -> None:
    assert [each["a"] for each in await Exchange().ask(get_aggregate_trades.FUNCTION, **sent)] == numbers


async def test_an_aggregate_whole() -> None:
    aggregate = (await Exchange().ask(get_aggregate_trades.FUNCTION, fromId="2", limit="1"))[0]
    assert aggregate == {
        "a": 2, "p": "50000.01000000", "q": "0.00023000", "f": 2, "l": 3, "T": START_MS + 1_000, "m": False,
        "M": True,
    }  # fmt: skip


@pytest.mark.parametrize("bound", ["startTime", "endTime"])
async def test_a_number_and_a_time_exclude_each_other(bound: str) -> None:
    exchange = Exchange()
    with pytest.raises(ApiError) as refused:
        await exchange.ask(get_aggregate_trades.FUNCTION, fromId="1", **{bound: "5"})
    assert (refused.value.code, exchange.ingestion.questions) == (-1128, [])


@pytest.mark.parametrize(
    "function", [get_historical_trades.FUNCTION, get_aggregate_trades.FUNCTION, get_trades.FUNCTION]
)
async def test_without_the_database_nothing_is_made_up(function: Function) -> None:
    exchange = Exchange(recent=2)
    exchange.ingestion.is_away = True
    with pytest.raises(ApiError) as refused:
        await exchange.ask(function)
    assert (refused.value.code, refused.value.status) == (-1001, 503)
