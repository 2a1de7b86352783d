"""Late trades and TimescaleDB's candles: what to refresh after trades were stored late.

A continuous aggregate answers from its materialized buckets, and only for later ones from the trades
themselves. Its policy materializes buckets some time after they are over; trades that are stored after that
(for example after an outage of the database) would be missing until the policy runs again. Therefore, after
storing late trades, their buckets are refreshed.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from persist.candles import STORED_INTERVALS
from protocol.intervals import interval_bounds

LATE_MS: Final = 60_000
"""The youngest age at which a policy materializes a bucket (see schema/timescaledb)."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Refresh(NamedTuple):
    """A continuous aggregate, and the window to refresh."""

    name: str
    start: datetime
    end: datetime


def refreshes(first_ms: int, last_ms: int, now_ms: int) -> Iterator[Refresh]:
    """Return what to refresh for trades between two times: all their buckets but the open ones.

    Smaller intervals come first. An open bucket must not be refreshed: once materialized, it would miss the
    later trades.
    """
    for interval in STORED_INTERVALS:
        start, _ = interval_bounds(interval, first_ms)
        _, end = interval_bounds(interval, last_ms)
        end = min(end, interval_bounds(interval, now_ms - LATE_MS)[0])
        if start < end:
            yield Refresh(f"candles_{interval}", _datetime(start), _datetime(end))


def _datetime(time_ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=time_ms)
