"""A market's book as the edge hears it: diffs follow each other without a gap, or a snapshot fills it. Pure.

The edge keeps the levels for two reasons: @depth5, @depth10 and @depth20 are cut from them, and when diffs were missed that Redis keeps
no more, what changed meanwhile is the difference between them and a newer snapshot. That difference is right for who has followed so
far, but not for who began with a snapshot from within the gap: a level that changed and changed back is not in it.
"""

from collections.abc import Collection, Mapping
from heapq import nlargest, nsmallest
from typing import Final

from protocol.market_data import DepthDiff, DepthSnapshot
from protocol.units import PriceTicks, QuantityLots, Sequence, TimeMs

Rows = tuple[tuple[PriceTicks, QuantityLots], ...]

_SNAPSHOT_LEVELS_MAX: Final = 5_000
"""A side of a snapshot with fewer levels is whole."""
_BUFFERED_MAX: Final = 10_000


class EdgeBook:
    """One market's levels, and the diffs that wait for a snapshot to follow on."""

    def __init__(self, market: str) -> None:
        self.market = market
        self.sequence: Sequence | None = None
        """The last change in the levels; None before the first snapshot."""
        self.time = TimeMs(0)
        self._bids: dict[PriceTicks, QuantityLots] = {}
        self._asks: dict[PriceTicks, QuantityLots] = {}
        self._waiting: list[DepthDiff] = []

    @property
    def needs_snapshot(self) -> bool:
        """Whether nothing can go on without one."""
        return self.sequence is None or bool(self._waiting)

    def apply(self, diff: DepthDiff) -> DepthDiff | None:
        """Return what subscribers may hear of `diff` now; None: it is old, or it waits for a snapshot."""
        if self.sequence is None or self._waiting or diff.first_sequence > self.sequence + 1:
            if len(self._waiting) < _BUFFERED_MAX:
                self._waiting.append(diff)
            return None
        if diff.last_sequence <= self.sequence:
            return None
        return self._move(diff.time, diff.last_sequence, diff.bids, diff.asks)

    def follow(self, kept: Collection[DepthDiff]) -> list[DepthDiff] | None:
        """Take the diffs that Redis keeps, oldest first, before those that wait, and return what subscribers hear then.

        None: they do not reach back to what is known; only a snapshot helps.
        """
        known = self.sequence
        if known is None or not kept:
            return None
        later = [diff for diff in (*kept, *self._waiting) if diff.last_sequence > known]
        if later and later[0].first_sequence > known + 1:
            return None
        self._waiting = []
        return [each for each in map(self.apply, later) if each is not None]

    def fill(self, snapshot: DepthSnapshot | None) -> list[DepthDiff]:
        """Take a snapshot (None: the market has none, so nothing ever happened) and return what subscribers hear then.

        A snapshot that is too old to be followed by the diffs that wait changes nothing; ask for another.
        """
        if snapshot is None:
            snapshot = DepthSnapshot(TimeMs(0), self.market, Sequence(0), (), ())
        if self._waiting and snapshot.sequence < self._waiting[0].first_sequence - 1:
            return []
        heard: list[DepthDiff] = []
        if self.sequence is None:
            self._bids, self._asks = dict(snapshot.bids), dict(snapshot.asks)
            self.sequence, self.time = snapshot.sequence, snapshot.time
        elif snapshot.sequence > self.sequence:
            bids = _difference(self._bids, snapshot.bids, highest_first=True)
            asks = _difference(self._asks, snapshot.asks, highest_first=False)
            heard.append(self._move(snapshot.time, snapshot.sequence, bids, asks))
        waiting, self._waiting = self._waiting, []
        heard += [each for each in map(self.apply, waiting) if each is not None]
        return heard

    def top(self, count: int) -> tuple[Rows, Rows]:
        """Return the best `count` bids and asks, best first."""
        bids, asks = nlargest(count, self._bids.items()), nsmallest(count, self._asks.items())
        return tuple(bids), tuple(asks)

    def _move(self, time: TimeMs, sequence: Sequence, bids: Rows, asks: Rows) -> DepthDiff:
        assert self.sequence is not None
        for levels, changes in ((self._bids, bids), (self._asks, asks)):
            for price, quantity in changes:
                if quantity:
                    levels[price] = quantity
                else:
                    levels.pop(price, None)
        heard = DepthDiff(time, self.market, Sequence(self.sequence + 1), sequence, bids, asks)
        self.sequence, self.time = sequence, time
        return heard


def _difference(known: Mapping[PriceTicks, QuantityLots], rows: Rows, *, highest_first: bool) -> Rows:
    """Return what makes `known` into `rows`; what lies deeper than a cut snapshot reaches stays as it was."""
    wanted = dict(rows)
    changes = [(price, quantity) for price, quantity in rows if known.get(price) != quantity]
    worst = rows[-1][0] if len(rows) >= _SNAPSHOT_LEVELS_MAX else None
    changes += [
        (price, QuantityLots(0))
        for price in known
        if price not in wanted and (worst is None or (price > worst if highest_first else price < worst))
    ]
    return tuple(changes)


def merged(earlier: DepthDiff, later: DepthDiff) -> DepthDiff:
    """Return one diff that says what two, which follow each other, say."""
    return DepthDiff(
        later.time,
        later.market,
        earlier.first_sequence,
        later.last_sequence,
        tuple({**dict(earlier.bids), **dict(later.bids)}.items()),
        tuple({**dict(earlier.asks), **dict(later.asks)}.items()),
    )
