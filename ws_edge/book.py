"""A market's book in the edge: consecutive diffs, or the base and the diffs in Redis. Pure.

The edge keeps the levels for two reasons: @depth5, @depth10 and @depth20 are taken from them; and when missed
diffs are no longer in Redis, the changes are the difference between the levels and a newer base. That
difference is correct for subscribers that have followed so far, but not for one that began with a book from
within the gap: it lacks levels that changed and changed back.

The base may be truncated (protocol/depth.py). Levels beyond its horizon are kept for that difference, and
never shown. When too few levels within the horizon remain for a partial depth stream, the book is shallow,
and is filled again.
"""

from collections.abc import Collection, Mapping
from heapq import nlargest, nsmallest
from typing import Final

from protocol.depth import Levels, book_after, diffs_after, horizon, is_beyond, set_levels
from protocol.market_data import DepthDiff, DepthSnapshot
from protocol.units import PriceTicks, QuantityLots, Sequence, TimeMs

_BUFFERED_MAX: Final = 10_000


class EdgeBook:
    """One market's levels, and the diffs that wait for a snapshot."""

    def __init__(self, market: str) -> None:
        self.market = market
        self.sequence: Sequence | None = None
        """The sequence of the last change in the levels; None before the first snapshot."""
        self.time = TimeMs(0)
        self._bids: dict[PriceTicks, QuantityLots] = {}
        self._asks: dict[PriceTicks, QuantityLots] = {}
        self._bid_horizon: PriceTicks | None = None
        self._ask_horizon: PriceTicks | None = None
        self._is_shallow = False
        self._waiting: list[DepthDiff] = []

    @property
    def needs_snapshot(self) -> bool:
        """Whether it needs a snapshot: diffs do not follow, or too few levels are known."""
        return self.sequence is None or bool(self._waiting) or self._is_shallow

    def apply(self, diff: DepthDiff) -> DepthDiff | None:
        """Return the diff for subscribers now; None: `diff` is old, or waits for a snapshot."""
        if self.sequence is None or self._waiting or diff.first_sequence > self.sequence + 1:
            if len(self._waiting) < _BUFFERED_MAX:
                self._waiting.append(diff)
            return None
        if diff.last_sequence <= self.sequence:
            return None
        return self._move(diff.time, diff.last_sequence, diff.bids, diff.asks)

    def follow(self, redis_diffs: Collection[DepthDiff]) -> list[DepthDiff] | None:
        """Apply the diffs in Redis, oldest first, before the waiting ones; return the diffs for subscribers.

        None: they do not reach back to the known sequence; only a snapshot helps.
        """
        own_sequence = self.sequence
        if own_sequence is None or not redis_diffs:
            return None
        later = [diff for diff in (*redis_diffs, *self._waiting) if diff.last_sequence > own_sequence]
        if later and later[0].first_sequence > own_sequence + 1:
            return None
        self._waiting = []
        return [change for change in map(self.apply, later) if change is not None]

    def fill(self, base: DepthSnapshot | None, redis_diffs: Collection[DepthDiff] = ()) -> list[DepthDiff]:
        """Apply a base (None: there is none) and the diffs read with it; return the diffs for subscribers.

        The diffs are oldest first. A base that is too old to be followed by these diffs, or by the waiting
        ones, changes nothing; read another.
        """
        if base is None:
            base = DepthSnapshot(TimeMs(0), self.market, Sequence(0), (), ())
        later = [diff for diff in (*redis_diffs, *self._waiting) if diff.last_sequence > base.sequence]
        if later and later[0].first_sequence > base.sequence + 1:
            return []
        changes: list[DepthDiff] = []
        if self.sequence is None:
            self._bids, self._asks = dict(base.bids), dict(base.asks)
            self.sequence, self.time = base.sequence, base.time
            self._note_horizons(base)
        elif base.sequence > self.sequence:
            changes.append(self._move(base.time, base.sequence, *self._difference(base)))
            self._note_horizons(base)
        elif self._is_shallow:
            self._deepen(base, [diff for diff in later if diff.last_sequence <= self.sequence])
        self._waiting = []
        return changes + [change for change in map(self.apply, later) if change is not None]

    def _deepen(self, base: DepthSnapshot, diffs: list[DepthDiff]) -> None:
        """Add the deeper levels of a base. Subscribers receive nothing: these levels did not change."""
        book = book_after(base, diffs)
        if diffs_after(base.sequence, reversed(diffs)) is None or book.sequence != self.sequence:
            return
        bids, asks = self._difference(book, base)
        set_levels(self._bids, bids)
        set_levels(self._asks, asks)
        self._note_horizons(base)

    def _note_horizons(self, base: DepthSnapshot) -> None:
        self._bid_horizon, self._ask_horizon = horizon(base.bids), horizon(base.asks)
        self._is_shallow = False

    def _difference(self, book: DepthSnapshot, base: DepthSnapshot | None = None) -> tuple[Levels, Levels]:
        """Return the changes from the levels to those of `book`, which reaches as far as `base`."""
        base = base or book
        return (
            _difference(self._bids, book.bids, horizon(base.bids), highest_first=True),
            _difference(self._asks, book.asks, horizon(base.asks), highest_first=False),
        )

    def top(self, count: int) -> tuple[Levels, Levels]:
        """Return the best `count` certain bids and asks, best first.

        If there are fewer than exist, the book is shallow.
        """
        bids = _within(nlargest(count, self._bids.items()), self._bid_horizon, highest_first=True)
        asks = _within(nsmallest(count, self._asks.items()), self._ask_horizon, highest_first=False)
        self._is_shallow = (self._bid_horizon is not None and len(bids) < count) or (
            self._ask_horizon is not None and len(asks) < count
        )
        return bids, asks

    def _move(self, time: TimeMs, sequence: Sequence, bids: Levels, asks: Levels) -> DepthDiff:
        assert self.sequence is not None
        set_levels(self._bids, bids)
        set_levels(self._asks, asks)
        change = DepthDiff(time, self.market, Sequence(self.sequence + 1), sequence, bids, asks)
        self.sequence, self.time = sequence, time
        return change


def _within(
    rows: list[tuple[PriceTicks, QuantityLots]], end: PriceTicks | None, *, highest_first: bool
) -> Levels:
    return tuple(row for row in rows if not is_beyond(row[0], end, highest_first=highest_first))


def _difference(
    levels: Mapping[PriceTicks, QuantityLots], rows: Levels, end: PriceTicks | None, *, highest_first: bool
) -> Levels:
    """Return the changes from `levels` to `rows`; levels beyond the horizon `end` are unchanged."""
    wanted = dict(rows)
    changes = [(price, quantity) for price, quantity in rows if levels.get(price) != quantity]
    changes += [
        (price, QuantityLots(0))
        for price in levels
        if price not in wanted and not is_beyond(price, end, highest_first=highest_first)
    ]
    return tuple(changes)
