"""A clock for the archive's retention, and a retention that keeps everything."""

from persist.archive import Retention
from tests.support.market_log import START_MS

ALWAYS = Retention(snapshot_interval_s=0, snapshots_max=1_000, days=36_500)


class Clock:
    def __init__(self) -> None:
        self.now_ms = START_MS

    def __call__(self) -> int:
        self.now_ms += 1
        return self.now_ms
