"""The wall clock, read in one place."""

import time

from protocol.units import TimeMs


def now_us() -> int:
    """Return microseconds since the Unix epoch."""
    return time.time_ns() // 1000


def now_ms() -> TimeMs:
    """Return milliseconds since the Unix epoch."""
    return TimeMs(time.time_ns() // 1_000_000)
