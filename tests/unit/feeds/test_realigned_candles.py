"""Open candles of three days that an earlier release began a day or two before Binance's do."""

from feeds.candles import Candles, OpenCandle
from protocol.intervals import INTERVALS
from protocol.trade_sums import TradeSum

DAY_MS = 86_400_000
FIRST = 1_795_392_000_000  # Monday 2026-11-23, a multiple of three days after the epoch


def one_trade(trade_id: int) -> TradeSum:
    return TradeSum(5, 5, 5, 5, 1, 1, 5, 1, 1, 5, trade_id, trade_id)


def saved(open_time: int) -> dict[str, OpenCandle]:
    return {
        "3d": OpenCandle(open_time, open_time + 3 * DAY_MS, one_trade(1)),
        "1d": OpenCandle(FIRST, FIRST + DAY_MS, one_trade(1)),
    }


def said(candles: Candles) -> list[tuple[int, int, bool]]:
    """Return opening, first trade, and whether it is the last word, of what is told of three days."""
    return [
        (candle.open_time, candle.first_trade_id, candle.closed)
        for candle in [*candles.take_closed(), *candles.current()]
        if candle.interval == "3d"
    ]


def test_nobody_hears_of_a_candle_that_lacks_trades() -> None:
    candles = Candles("BTCUSDT", saved(FIRST))
    assert said(candles) == []
    # Restarted once more, while it waits.
    candles = Candles("BTCUSDT", candles.open)
    for day, trade_id in ((1, 2), (3, 3), (4, 4)):
        candles.add((FIRST + day * DAY_MS) // 1000, one_trade(trade_id))
        assert said(candles) == []
        assert (
            {candle.interval for candle in candles.current()} == set(INTERVALS) - {"3d"} if day == 3 else True
        )
    whole = FIRST + 5 * DAY_MS  # 2026-11-28, days since the epoch leave 1
    candles.add(whole // 1000, one_trade(5))
    assert said(candles) == [(whole, 5, False)]
    candles.advance(whole + 3 * DAY_MS)
    assert said(candles) == [(whole, 5, True)]


def test_a_candle_that_opened_right_goes_on() -> None:
    """The control."""
    candles = Candles("BTCUSDT", saved(FIRST - DAY_MS))
    assert said(candles) == [(FIRST - DAY_MS, 1, False)]
