"""Depth as readers of Redis have it: the base and the diffs that follow on it."""

from typing import Any

import msgspec
import redis

from feeds.state import DIFFS_MAX, Outputs
from protocol import streams
from protocol.depth import book_after, diffs_after
from protocol.market_data import DepthDiff, DepthSnapshot
from tests.support.market_log import BTC


class KeptDepth:
    """What the feeds of shard 0 have written of a market's depth."""

    def __init__(self, market: str = BTC) -> None:
        self._base_key, self._diffs_key = streams.depth(0, market), streams.depth_diffs(0, market)
        self.base: bytes | None = None
        self.newest: list[bytes] = []
        self.bases_written = 0

    def take(self, outputs: Outputs) -> None:
        """Do what the store's script does."""
        if self._diffs_key in outputs.removed:
            self.newest = []
        if self._base_key in outputs.removed:
            self.base = None
        if self._base_key in outputs.values:
            self.base = outputs.values[self._base_key]
            self.bases_written += 1
        if self._diffs_key in outputs.diffs:
            self.newest = [outputs.diffs[self._diffs_key], *self.newest][:DIFFS_MAX]

    def book(self, limit: int | None = None) -> DepthSnapshot | None:
        """The book; None: there is none."""
        return put_together(self.base, self.newest, limit)


def put_together(base: bytes | None, newest: list[bytes], limit: int | None = None) -> DepthSnapshot | None:
    """The book after the newest diff; it is an error when diffs are missing."""
    if base is None:
        return None
    found = msgspec.msgpack.decode(base, type=DepthSnapshot)
    diffs = diffs_after(found.sequence, [msgspec.msgpack.decode(each, type=DepthDiff) for each in newest])
    assert diffs is not None, f"the diffs do not follow on {found.sequence}"
    return book_after(found, diffs, limit)


def depth_in(client: redis.Redis, shard: int, market: str = BTC) -> DepthSnapshot | None:
    """The book in Redis."""
    with client.pipeline() as pipeline:
        pipeline.get(streams.depth(shard, market))
        pipeline.lrange(streams.depth_diffs(shard, market), 0, -1)
        base, newest = pipeline.execute()
    value: Any = base
    return put_together(value, newest)
