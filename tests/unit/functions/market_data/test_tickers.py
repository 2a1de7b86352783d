"""Statistics of windows: where they begin and end, what they weigh, and what is refused."""

from collections.abc import Sequence
from typing import Any, cast

import msgspec
import pytest

from functions.api.errors import ApiError
from functions.api.function import Function
from functions.api.parameters import Parameters
from functions.api.ports import Call, Ports
from functions.market_data import absent_features, get_ticker_24h, get_window_ticker
from functions.repositories.candles import CandleSums
from protocol.market_data import Ticker
from protocol.units import PriceTicks, QuantityLots, TimeMs
from tests.support.market_log import market_map

NOW = TimeMs(1_641_287_867_099)  # 2022-01-04 09:17:47.099 UTC, the example of rest-api.md
DAY_MS = 86_400_000
SUMS = CandleSums(100, 120, 90, 110, 50, 5_000, 3, 7, 9)


class World:
    """Three markets; BTCUSDT has a ticker of some minutes ago, and the database's sums for every window."""

    def __init__(self) -> None:
        self.markets = market_map()
        self.ingestion = self.candles = self.read_models = self
        self.asked: list[int] = []

    def listing(self) -> Any:
        return self

    @property
    def listed(self) -> Any:
        return self.markets

    @property
    def statuses(self) -> dict[str, object]:
        raise AssertionError("nobody asks for a status")

    async def catch_up(self, _shard: int) -> None:
        return None

    async def sums_since(self, _symbols: Sequence[str], opened: TimeMs) -> dict[str, CandleSums]:
        self.asked.append(opened)
        return {"BTCUSDT": SUMS}

    async def tickers(self, symbols: list[str]) -> list[Ticker | None]:
        minutes_ago = TimeMs(NOW - 240_000)
        ticker = Ticker(
            "BTCUSDT", TimeMs(minutes_ago - DAY_MS), minutes_ago, PriceTicks(1), PriceTicks(2), PriceTicks(1),
            PriceTicks(2),
            QuantityLots(1), PriceTicks(0), QuantityLots(5), 9, 1, 2, 2,
        )  # fmt: skip
        return [ticker if symbol == "BTCUSDT" else None for symbol in symbols]

    async def book_tickers(self, symbols: list[str]) -> list[None]:
        return [None] * len(symbols)

    async def ask(self, function: Function, **sent: str) -> Any:
        answer = await function.handle(cast("Ports", self), Call(Parameters(sent), NOW))
        return msgspec.json.decode(msgspec.json.encode(answer))


@pytest.mark.parametrize(
    ("size", "opens"),
    [
        ({}, 1_641_201_420_000),  # 2022-01-03 09:17:00, as rest-api.md says
        ({"windowSize": "1d"}, 1_641_201_420_000),
        ({"windowSize": "1m"}, NOW // 60_000 * 60_000 - 60_000),
        ({"windowSize": "59m"}, NOW // 60_000 * 60_000 - 59 * 60_000),
        ({"windowSize": "23h"}, NOW // 60_000 * 60_000 - 23 * 3_600_000),
        ({"windowSize": "7d"}, NOW // 60_000 * 60_000 - 7 * DAY_MS),
    ],
)
async def test_a_window_begins_on_a_minute_and_ends_now(size: dict[str, str], opens: int) -> None:
    world = World()
    answer = await world.ask(get_window_ticker.FUNCTION, symbol="BTCUSDT", **size)
    assert (answer["openTime"], answer["closeTime"], world.asked) == (opens, NOW, [opens])


async def test_the_fields_of_a_window() -> None:
    answer = await World().ask(get_window_ticker.FUNCTION, symbols='["BTCUSDT","ETHUSDT"]')
    names = (
        "symbol priceChange priceChangePercent weightedAvgPrice openPrice highPrice lowPrice lastPrice "
        "volume quoteVolume"
    )
    assert " ".join(answer[0]) == f"{names} openTime closeTime firstId lastId count"
    assert (answer[0]["openPrice"], answer[0]["lastPrice"], answer[0]["priceChange"]) == (
        "1.00000000", "1.10000000", "0.10000000",
    )  # fmt: skip
    assert (
        answer[0]["priceChangePercent"],
        answer[0]["firstId"],
        answer[0]["lastId"],
        answer[0]["count"],
    ) == (
        "10.000",
        7,
        9,
        3,
    )
    assert (answer[1]["symbol"], answer[1]["lastPrice"], answer[1]["firstId"], answer[1]["count"]) == (
        "ETHUSDT",
        "0.00000000",
        -1,
        0,
    )
    mini = await World().ask(get_window_ticker.FUNCTION, symbol="BTCUSDT", type="MINI")
    assert "priceChange" not in mini


@pytest.mark.parametrize(
    ("zone", "opens"),
    [
        ({}, 1_641_254_400_000),  # 2022-01-04
        ({"timeZone": "8"}, 1_641_254_400_000 - 8 * 3_600_000),
        ({"timeZone": "-10:00"}, 1_641_254_400_000 - 14 * 3_600_000),  # it is still the third there
    ],
)
async def test_a_trading_day(zone: dict[str, str], opens: int) -> None:
    answer = await World().ask(get_window_ticker.TRADING_DAY_FUNCTION, symbol="BTCUSDT", **zone)
    assert (answer["openTime"], answer["closeTime"]) == (opens, opens + DAY_MS - 1)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ({}, -1102),
        ({"symbol": "BTCUSDT", "symbols": '["BTCUSDT"]'}, -1128),
        ({"symbol": "NOPE"}, -1121),
        ({"symbols": str([f"M{number}" for number in range(101)]).replace("'", '"')}, -1101),
        ({"symbol": "BTCUSDT", "type": "SHORT"}, -1139),
        *(
            ({"symbol": "BTCUSDT", "windowSize": size}, -1130)
            for size in ("0m", "60m", "24h", "8d", "1d2h", "1s", "-1m", "1M", "01m")
        ),
        ({"symbol": "BTCUSDT", "windowSize": ""}, -1105),
    ],
)
async def test_windows_that_are_refused(sent: dict[str, str], code: int) -> None:
    with pytest.raises(ApiError) as refused:
        await World().ask(get_window_ticker.FUNCTION, **sent)
    assert refused.value.code == code


def named(count: int) -> Parameters:
    return Parameters({"symbols": str([f"M{number}" for number in range(count)]).replace("'", '"')})


@pytest.mark.parametrize(
    ("function", "weights"),
    [
        (get_window_ticker.FUNCTION, {1: 4, 2: 8, 50: 200, 51: 200}),
        (get_window_ticker.TRADING_DAY_FUNCTION, {1: 4, 50: 200, 100: 200}),
        (get_ticker_24h.FUNCTION, {1: 2, 20: 2, 21: 40, 100: 40, 101: 80}),
        (absent_features.EXECUTION_RULES, {1: 2, 20: 40, 21: 40}),
    ],
)
def test_weights_by_the_number_of_markets(function: Function, weights: dict[int, int]) -> None:
    assert {count: function.weight_of(named(count)) for count in weights} == weights
    assert function.weight_of(Parameters({"symbol": "BTCUSDT"})) == weights[1]


async def test_the_24_h_window_of_a_market_where_nothing_happens_moves() -> None:
    """It was written four minutes ago, since when nothing has come into it or left it."""
    for symbol in ("BTCUSDT", "ETHUSDT"):
        answer = await World().ask(get_ticker_24h.FUNCTION, symbol=symbol)
        assert (answer["closeTime"], answer["openTime"]) == (NOW, NOW // 1000 * 1000 - DAY_MS + 1000)
        mini = await World().ask(get_ticker_24h.FUNCTION, symbol=symbol, type="MINI")
        assert (mini["closeTime"], mini["openTime"]) == (answer["closeTime"], answer["openTime"])


async def test_what_no_market_has() -> None:
    world = World()
    for sent in ({}, {"symbol": "BTCUSDT"}, {"symbols": '["BTCUSDT","ETHUSDT"]'}):
        assert await world.ask(absent_features.EXECUTION_RULES, **sent) == {"symbolRules": []}
    with pytest.raises(ApiError) as refused:
        await world.ask(absent_features.EXECUTION_RULES, symbol="BTCUSDT", symbols='["BTCUSDT"]')
    assert refused.value.code == -1128
    for function in (absent_features.REFERENCE_PRICE, absent_features.REFERENCE_PRICE_CALCULATION):
        with pytest.raises(ApiError) as refused:
            await world.ask(function, symbol="BTCUSDT")
        assert (refused.value.code, refused.value.message) == (
            -2043,
            "This symbol doesn't have a reference price.",
        )
        with pytest.raises(ApiError) as refused:
            await world.ask(function, symbol="NOPE")
        assert refused.value.code == -1121
    assert await world.ask(absent_features.BLOCK_TRADES, symbol="BTCUSDT", fromId="1") == []
    with pytest.raises(ApiError) as refused:
        await world.ask(absent_features.BLOCK_TRADES, symbol="BTCUSDT")
    assert refused.value.code == -1102
