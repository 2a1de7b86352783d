"""The intervals of candles: how long each is, and when it opens. Pure."""

from datetime import UTC, datetime
from typing import Final

INTERVALS_MS: dict[str, int] = {
    "1s": 1_000,
    "1m": 60_000,
    "3m": 180_000,
    "5m": 300_000,
    "15m": 900_000,
    "30m": 1_800_000,
    "1h": 3_600_000,
    "2h": 7_200_000,
    "4h": 14_400_000,
    "6h": 21_600_000,
    "8h": 28_800_000,
    "12h": 43_200_000,
    "1d": 86_400_000,
    "3d": 259_200_000,
    "1w": 604_800_000,
}
"""Lengths of the intervals, aligned to the epoch except for those of `_FIRST_MS`.

`1M` is a calendar month (UTC).
"""
INTERVALS: tuple[str, ...] = (*INTERVALS_MS, "1M")
_FIRST_MS: Final = {"3d": 86_400_000, "1w": 4 * 86_400_000}
"""The opening time of the first interval after the epoch, which was a Thursday.

Weeks open on Mondays, and three-day intervals on the same days as Binance's, beginning with 1970-01-02.
"""


def interval_bounds(interval: str, time: int, offset_ms: int = 0) -> tuple[int, int]:
    """Return the first ms of the interval that contains `time`, and the first ms after it.

    `offset_ms` is the offset from UTC of the time zone in which intervals open; `time` and the returned times
    are UTC.
    """
    local = time + offset_ms
    length = INTERVALS_MS.get(interval)
    if length is not None:
        first = _FIRST_MS.get(interval, 0) - offset_ms
        opened = (time - first) // length * length + first
        return opened, opened + length
    month = datetime.fromtimestamp(local // 1000, UTC).replace(day=1, hour=0, minute=0, second=0)
    following = month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)
    return int(month.timestamp()) * 1000 - offset_ms, int(following.timestamp()) * 1000 - offset_ms
