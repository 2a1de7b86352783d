"""Candles: which are asked for, and flat ones where nothing traded."""

import pytest

from functions.api.errors import ApiError
from functions.api.parameters import Parameters
from functions.market_data.get_klines import window_of
from functions.market_data.klines import (
    KlineRow,
    Window,
    bucket_start,
    filled,
    next_bucket,
    previous_bucket,
    shape,
)
from functions.market_data.time_zones import time_zone_ms
from protocol.intervals import INTERVALS
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
    # As Binance: days since 1970-01-01 leave 1 when divided by 3. That Monday leaves 2.
    assert bucket_start("3d", time) == 1_795_305_600_000  # Sunday 2026-11-22
    assert bucket_start("3d", TimeMs(1_795_737_600_000)) == 1_795_564_800_000  # of 2026-11-27: 2026-11-25


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


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        (None, 0), ("0", 0), ("8", 480), ("08", 480), ("+08:00", 480), ("8:00", 480), ("-1:00", -60),
        ("05:45", 345), ("-0:30", -30),
        ("-12:00", -720), ("+14:00", 840), ("14", 840), ("-00:00", 0),
    ],
)  # fmt: skip
def test_time_zones(text: str | None, minutes: int) -> None:
    assert time_zone_ms(Parameters({} if text is None else {"timeZone": text})) == minutes * 60_000


@pytest.mark.parametrize(
    "text",
    ["-12:15", "14:15", "15", "-13", "8:60", "8:5", "8:00:00", "UTC", " 8", "8 ", "1:01", "٨", "99999"],
)
def test_what_is_no_time_zone(text: str) -> None:
    with pytest.raises(ApiError) as refused:
        time_zone_ms(Parameters({"timeZone": text}))
    assert (refused.value.code, refused.value.message) == (
        -1130,
        "Data sent for parameter 'timeZone' is not valid.",
    )


def test_intervals_open_by_other_clocks() -> None:
    """Shanghai is eight hours ahead of UTC: its 2026-11-23, a Monday, began on the 22nd at 16:00 UTC."""
    time, shanghai = TimeMs(1_795_407_707_240), 8 * 3_600_000  # Monday 2026-11-23 12:21:47 there
    assert (
        bucket_start("1d", time, shanghai)
        == bucket_start("1w", time, shanghai)
        == 1_795_392_000_000 - shanghai
    )
    assert bucket_start("1M", time, shanghai) == 1_793_491_200_000 - shanghai
    assert bucket_start("1h", time, shanghai) == bucket_start("1h", time)
    assert bucket_start("4h", time, 3_600_000) == 1_795_402_800_000  # 03:00 UTC, 04:00 there


@pytest.mark.parametrize("interval", INTERVALS)
def test_no_candle_opens_after_the_end_of_the_calendar(interval: str) -> None:
    now = TimeMs(1_767_225_600_000)
    for start in (
        now + 32 * 86_400_000,
        253_402_300_800_000,
        2**63 // 1_000,
    ):  # the second one is the year 10000
        assert window_of(interval, TimeMs(start), None, 500, now, 3_600_000) is None
        assert window_of(interval, TimeMs(start), TimeMs(start), 500, now) is None
