"""Late trades and TimescaleDB's candles: what is to be refreshed when trades come after their time.

A continuous aggregate answers from what it has materialized, and only for later buckets from the trades
themselves. Its policy materializes buckets that are over for a while; trades that are stored after that (the
database was away, say) would be missing in the answer until the policy has come round again. So whoever
stores late trades refreshes the buckets that they fell into.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from persist.candles import STORED_INTERVALS
from protocol.market_data import interval_bounds

LATE_MS: Final = 60_000
"""The youngest age at which a policy materializes a bucket (see schema/timescaledb)."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Refresh(NamedTuple):
    """A continuous aggregate, and the window to refresh."""

    name: str
    start: datetime
    end: datetime


def refreshes(first_ms: int, last_ms: int, now_ms: int) -> Iterator[Refresh]:
    """Return what to refresh, smaller intervals first, for trades between two times: all their buckets but
    those still open.

    An open bucket must stay as it is: once materialized, it would miss the trades to come.
    """
    for interval in STORED_INTERVALS:
        start, _ = interval_bounds(interval, first_ms)
        _, end = interval_bounds(interval, last_ms)
        end = min(end, interval_bounds(interval, now_ms - LATE_MS)[0])
        if start < end:
            yield Refresh(f"candles_{interval}", _datetime(start), _datetime(end))


def _datetime(time_ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=time_ms)
