"""Kline streams go on where nothing trades: what Binance pushes, worked out by hand.

Times are the shard's.
"""

from typing import Any

import msgspec
import pytest

from protocol.market_data import Candle
from protocol.units import PriceTicks, QuantityLots, TimeMs
from tests.support.market_log import market_map
from ws_edge.conflation import Conflation, Update
from ws_edge.market import FLAT_MAX, MarketStreams

MARKET = market_map().markets[0]
NAME = MARKET.symbol.lower()
MINUTE = 1_791_763_200_000
"""A full day, UTC."""
NOW = TimeMs(7)


def traded(interval: str, opened: int, ends: int, *, closed: bool, count: int = 3) -> Candle:
    """Return a candle that opened at 100, went to 120 and 90, and stands at 110."""
    prices = (PriceTicks(100), PriceTicks(120), PriceTicks(90), PriceTicks(110))
    lots, half = QuantityLots(30), QuantityLots(10)
    return Candle(
        MARKET.symbol,
        interval,
        TimeMs(opened),
        TimeMs(ends - 1),
        *prices,
        lots,
        3_000,
        count,
        half,
        1_000,
        5,
        7,
        closed,
    )


def streams(*candles: Candle) -> MarketStreams:
    market = MarketStreams(MARKET)
    for candle in candles:
        assert not list(market.candle(candle, (), NOW))
    return market


def at(s: int) -> int:
    return MINUTE + s * 1000


def told(updates: list[Update]) -> list[dict[str, Any]]:
    return [msgspec.json.decode(update.payload(1))["k"] for update in updates]


def brief(updates: list[Update]) -> list[tuple[str, int, int, bool]]:
    """Return interval, seconds since the minute, trades, and whether it is final, of each."""
    return [(each["i"], (each["t"] - MINUTE) // 1000, each["n"], each["x"]) for each in told(updates)]


def second(market: MarketStreams, s: int, *intervals: str) -> list[Update]:
    return list(market.second(MINUTE + s * 1000, {f"{NAME}@kline_{each}" for each in intervals}, NOW))


def test_a_second_without_a_trade_has_a_flat_candle() -> None:
    market = streams(traded("1s", MINUTE, MINUTE + 1000, closed=True))
    first, current = second(market, 2, "1s")
    assert brief([first, current]) == [("1s", 1, 0, True), ("1s", 2, 0, False)]
    assert (first.conflation, current.conflation) == (Conflation.NONE, Conflation.NEWEST)
    price = MARKET.format_price(PriceTicks(110))
    nothing, none = MARKET.format_quantity(QuantityLots(0)), MARKET.format_quote(0)
    assert told([first])[0] == {
        "t": MINUTE + 1000,
        "T": MINUTE + 1999,
        "s": MARKET.symbol,
        "i": "1s",
        "f": -1,
        "L": -1,
        "o": price,
        "c": price,
        "h": price,
        "l": price,
        "v": nothing,
        "n": 0,
        "x": True,
        "q": none,
        "V": nothing,
        "Q": none,
        "B": "0",
    }


def test_every_interval_gets_one_final_candle() -> None:
    """Trades at seconds 0, 5 and 8: nine final candles in all, of which the shard's feeds tell three."""
    market, wanted = streams(), {f"{NAME}@kline_1s"}
    finals = []
    for s in range(10):
        # Feeds say what has closed, what is open, and then the time.
        if s - 1 in (0, 5, 8):
            finals += brief(
                list(market.candle(traded("1s", at(s - 1), at(s), closed=True), wanted, NOW)),
            )
        if s in (0, 5, 8):
            finals += brief(list(market.candle(traded("1s", at(s), at(s + 1), closed=False), wanted, NOW)))
        finals += brief(second(market, s, "1s"))
    assert [(s, count) for _, s, count, is_final in finals if is_final] == [
        (s, 3 if s in (0, 5, 8) else 0) for s in range(9)
    ]


def test_the_current_candle_is_said_every_second_or_two() -> None:
    market = streams(
        traded("1m", MINUTE, MINUTE + 60_000, closed=False), traded("1s", MINUTE, MINUTE + 1000, closed=True)
    )
    assert [len(second(market, s, "1m")) for s in range(1, 7)] == [0, 1, 0, 1, 0, 1]
    assert brief(second(market, 8, "1m", "1s"))[-1] == ("1m", 0, 3, False)
    assert [len(second(market, s, "1s")) for s in range(9, 12)] == [2, 2, 2]


def test_a_candle_that_is_not_final_waits_for_its_last_word() -> None:
    market = streams(traded("1m", MINUTE, MINUTE + 60_000, closed=False))
    assert brief(second(market, 60, "1m")) == [("1m", 0, 3, False)]
    list(market.candle(traded("1m", MINUTE, MINUTE + 60_000, closed=True, count=4), (), NOW))
    assert brief(second(market, 61, "1m")) == [("1m", 60, 0, False)]


def test_a_trade_replaces_the_flat_candle() -> None:
    market = streams(traded("1m", MINUTE, MINUTE + 60_000, closed=True))
    assert brief(second(market, 60, "1m")) == [("1m", 60, 0, False)]
    candle = traded("1m", MINUTE + 60_000, MINUTE + 120_000, closed=False, count=1)
    assert brief(list(market.candle(candle, {f"{NAME}@kline_1m"}, NOW))) == [("1m", 60, 1, False)]


def test_who_comes_later_gets_the_present_candle_and_none_that_ended_before() -> None:
    market = streams(traded("1s", MINUTE, MINUTE + 1000, closed=True))
    assert second(market, 50) == []
    shown = market.current(f"{NAME}@kline_1s", NOW)
    assert shown is not None
    assert brief([shown]) == [("1s", 50, 0, False)]
    assert brief(second(market, 51, "1s")) == [("1s", 50, 0, True), ("1s", 51, 0, False)]


@pytest.mark.parametrize(("seconds", "finals"), [(FLAT_MAX, FLAT_MAX - 1), (FLAT_MAX + 10, 0)])
def test_after_a_long_silence_only_the_present_candle_is_said(seconds: int, finals: int) -> None:
    market = streams(traded("1s", MINUTE, MINUTE + 1000, closed=True))
    *ended, current = brief(second(market, seconds, "1s"))
    assert (len(ended), current) == (finals, ("1s", seconds, 0, False))


def test_a_market_that_never_traded_has_no_candle() -> None:
    assert second(streams(), 5, "1s", "1m") == []


def test_nothing_is_said_while_candles_are_missing() -> None:
    market = streams(traded("1s", MINUTE, MINUTE + 1000, closed=True))
    market.candles_are_behind = True
    assert second(market, 5, "1s") == []
    market.fill_candles([traded("1s", MINUTE + 3000, MINUTE + 4000, closed=True)], (), NOW)
    assert brief(second(market, 5, "1s")) == [("1s", 4, 0, True), ("1s", 5, 0, False)]
