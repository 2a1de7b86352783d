"""Candles: which are asked for, and flat ones where nothing traded."""

from functions.get_klines import window_of
from functions.klines import KlineRow, Window, bucket_start, filled, next_bucket, previous_bucket, shape
from protocol.units import TimeMs
from runtime.settings import Settings

MINUTE = 60_000
MARKET = Settings().market_map().by_symbol["BTCUSDT"]


def at(minute: int, close: int) -> KlineRow:
    return KlineRow(minute * MINUTE, close, close + 1, close - 1, close, 5, 50, 2, 3, 30)


def minutes(first: int, last: int, limit: int = 1000) -> Window:
    return Window(TimeMs(first * MINUTE), TimeMs(last * MINUTE), limit)


def closes(rows: list[KlineRow], window: Window) -> list[tuple[int, int, int]]:
    return [(row.open_time // MINUTE, row.close, row.trade_count) for row in filled(rows, "1m", window)]


def test_nothing_ever_traded() -> None:
    assert closes([], minutes(0, 10)) == []


def test_gaps_are_filled_with_the_previous_close() -> None:
    assert closes([at(2, 100), at(5, 110)], minutes(2, 6)) == [
        (2, 100, 2), (3, 100, 0), (4, 100, 0), (5, 110, 2), (6, 110, 0),
    ]  # fmt: skip


def test_nothing_before_the_first_trade() -> None:
    assert closes([at(5, 110)], minutes(2, 6)) == [(5, 110, 2), (6, 110, 0)]


def test_the_close_from_before_the_window_goes_on() -> None:
    assert closes([at(1, 90), at(4, 95)], minutes(3, 4)) == [(3, 90, 0), (4, 95, 2)]


def test_the_limit_counts_from_the_start() -> None:
    assert closes([at(1, 90), at(4, 95)], minutes(2, 9, limit=3)) == [(2, 90, 0), (3, 90, 0), (4, 95, 2)]


def test_a_start_inside_an_interval_means_the_next_one() -> None:
    window = Window(TimeMs(2 * MINUTE + 1), TimeMs(4 * MINUTE), 10)
    assert closes([at(2, 90), at(4, 95)], window) == [(3, 90, 0), (4, 95, 2)]


def test_a_flat_candle() -> None:
    (flat,) = filled([at(1, 90)], "1m", minutes(2, 2))
    assert flat == KlineRow(2 * MINUTE, 90, 90, 90, 90)


def test_intervals_open_where_they_should() -> None:
    time = TimeMs(1_795_407_707_240)  # Monday 2026-11-23 04:21:47 UTC
    assert bucket_start("1w", time) == 1_795_392_000_000
    assert bucket_start("1M", time) == 1_793_491_200_000
    assert next_bucket("1M", bucket_start("1M", time)) == 1_796_083_200_000
    assert previous_bucket("1M", bucket_start("1M", time)) == 1_790_812_800_000
    assert bucket_start("3d", time) % (3 * 86_400_000) == 0


def test_the_newest_by_default() -> None:
    now = TimeMs(100 * MINUTE + 5)
    assert window_of("1m", None, None, 3, now) == (98 * MINUTE, 100 * MINUTE, 3)
    assert window_of("1m", None, TimeMs(50 * MINUTE), 2, now) == (49 * MINUTE, 50 * MINUTE, 2)
    assert window_of("1m", TimeMs(200 * MINUTE), None, 2, now) is None


def test_the_array_of_twelve() -> None:
    assert shape(at(1, 5_000_000), MARKET, "1m", 1) == (
        60_000, "50000.00000000", "50000.01000000", "49999.99000000", "50000.00000000", "0.00005000", 119_999,
        "0.00000050", 2, "0.00003000", "0.00000030", "0",
    )  # fmt: skip
    assert shape(at(1, 5_000_000), MARKET, "1m", 1000)[6] == 119_999_999
