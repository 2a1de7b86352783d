"""Candles by clocks eight hours ahead of UTC, worked out by hand: days open at 16:00 UTC."""

from typing import Any

import msgspec
import pytest

from protocol.intervals import INTERVALS, INTERVALS_MS, interval_bounds
from protocol.market_data import Candle
from protocol.units import PriceTicks, QuantityLots, TimeMs
from tests.support.market_log import market_map
from ws_edge.conflation import Update
from ws_edge.market import MarketStreams
from ws_edge.shifted_candles import OFFSET_MS, PARTS, ShiftedCandles

MARKET = market_map().markets[0]
NAME = MARKET.symbol.lower()
HOUR = 3_600_000
DAY = 1_791_763_200_000
"""Midnight, UTC."""
NOW = TimeMs(7)


def part(
    opened: int, *ids: int, low: int = 90, high: int = 120, closed: bool = True, interval: str = "8h"
) -> Candle:
    """Return a candle that opens at `opened` hours, with the trades from the first id to the last, of one lot
    each."""
    first, last = ids
    count = last - first + 1
    begins = DAY + opened * HOUR
    prices = (PriceTicks(100 + first), PriceTicks(high), PriceTicks(low), PriceTicks(100 + last))
    lots = QuantityLots(count)
    ends = TimeMs(begins + INTERVALS_MS[interval] - 1)
    rest = (*prices, lots, count * 100, count, QuantityLots(1), 50, first, last, closed)
    return Candle(MARKET.symbol, interval, TimeMs(begins), ends, *rest)


def shifted(*parts: Candle) -> ShiftedCandles:
    candles = ShiftedCandles(MARKET.symbol)
    candles.begin()
    candles.complete(parts)
    return candles


def brief(candle: Candle | None) -> Any:
    """Return when it opens and ends (hours), the prices, lots, quote, trades, what takers bought, ids, and
    whether it is final."""
    if candle is None:
        return None
    opened, ends = (candle.open_time - DAY) // HOUR, (candle.close_time + 1 - DAY) // HOUR
    prices = (candle.open, candle.high, candle.low, candle.close)
    sums = (
        candle.volume,
        candle.quote_volume,
        candle.trade_count,
        candle.taker_buy_volume,
        candle.taker_buy_quote,
    )
    return opened, ends, prices, sums, (candle.first_trade_id, candle.last_trade_id), candle.closed


def test_all_other_intervals_open_at_the_same_moments() -> None:
    for interval in INTERVALS:
        times = range(DAY, DAY + 40 * 24 * HOUR, HOUR)
        same = all(
            interval_bounds(interval, time) == interval_bounds(interval, time, OFFSET_MS) for time in times
        )
        assert same == (interval not in PARTS)


def test_parts_open_and_end_with_what_they_are_parts_of() -> None:
    for interval, its_part in PARTS.items():
        for time in range(DAY, DAY + 40 * 24 * HOUR, HOUR):
            for bound in interval_bounds(interval, time, OFFSET_MS):
                assert interval_bounds(its_part, bound)[0] == bound


def test_a_day_is_the_sum_of_its_parts() -> None:
    parts = (part(8, 1, 2), part(16, 3, 5, low=70), part(24, 6, 6, high=150), part(32, 7, 9, closed=False))
    day = shifted(*parts).candle("1d", DAY + 33 * HOUR)
    assert brief(day) == (16, 40, (103, 150, 70, 109), (7, 700, 7, 3, 150), (3, 9), False)


def test_a_day_without_a_trade_is_flat() -> None:
    day = shifted(part(8, 1, 2)).candle("1d", DAY + 17 * HOUR)
    assert brief(day) == (16, 40, (102, 102, 102, 102), (0, 0, 0, 0, 0), (-1, -1), False)


@pytest.mark.parametrize(
    "parts",
    [
        [part(16, 3, 5)],  # what came before is not known
        [part(8, 1, 2), part(16, 4, 5)],  # trade 3 is missing
        [part(8, 1, 2), part(16, 3, 5), part(32, 7, 9)],  # trade 6 is missing
        [],
    ],
)
def test_nothing_is_said_of_what_is_not_known_whole(parts: list[Candle]) -> None:
    assert shifted(*parts).candle("1d", DAY + 33 * HOUR) is None


def test_the_first_trade_there_ever_was_follows_on_nothing() -> None:
    assert brief(shifted(part(16, 1, 2)).candle("1d", DAY + 17 * HOUR))[4] == (1, 2)


def at(market: MarketStreams, hours: float, *streams: str) -> list[Any]:
    return told(list(market.second(int(DAY + hours * HOUR), {f"{NAME}@{each}" for each in streams}, NOW)))


def told(updates: list[Update]) -> list[Any]:
    candles = [msgspec.json.decode(update.payload(1))["k"] for update in updates]
    return [((each["t"] - DAY) // HOUR, each["n"], each["x"]) for each in candles]


def test_a_stream_says_each_day_s_last_word_once() -> None:
    market, name = MarketStreams(MARKET), "kline_1d@+08:00"
    wanted = {f"{NAME}@{name}"}
    assert market.needs_history(wanted)
    assert at(market, 17, name) == []
    market.shifted.begin()
    assert not list(market.candle(part(16, 3, 3, closed=False), wanted, NOW))
    assert told(market.fill_history([part(8, 1, 2)], wanted, NOW)) == [(16, 1, False)]
    assert not market.needs_history(wanted)
    assert told(list(market.candle(part(16, 3, 4, closed=False), wanted, NOW))) == [(16, 2, False)]
    assert at(market, 18, name) == [(16, 2, False)]
    assert told(list(market.candle(part(16, 3, 5), wanted, NOW))) == [(16, 3, False)]
    assert at(market, 40, name) == [(16, 3, True), (40, 0, False)]
    assert at(market, 41, name) == [(40, 0, False)]
    update = market.current(f"{NAME}@{name}", NOW)
    assert update is not None
    assert told([update]) == [(40, 0, False)]


def test_what_opens_at_the_same_moment_is_the_same_candle() -> None:
    market, names = MarketStreams(MARKET), {f"{NAME}@kline_8h", f"{NAME}@kline_8h@+08:00"}
    updates = list(market.candle(part(8, 1, 2), names, NOW))
    assert {update.stream for update in updates} == names
    assert len({update.payload(1) for update in updates}) == 1
    assert at(market, 17, "kline_8h@+08:00") == [(16, 0, False)]
