"""A market's book in Redis: a base that is written rarely, and the diffs that follow it. Pure.

The base (`depth:{k}:SYMBOL`) is the book at one sequence. Each later batch of changes is one diff in the list
`depth_diffs:{k}:SYMBOL`. The base with these diffs applied is the book after the last batch.

A side of a base with `LEVELS_MAX` levels or more may be truncated: the book may continue beyond its last
price, the horizon. Levels beyond the horizon are unknown. A diff may name a level there, but not the
unchanged levels in between. So:

- readers omit every level beyond the horizon;
- the writer keeps `LEVELS_MAX` levels within the horizon, or all levels of the book. A base begins with
  `BASE_LEVELS` levels, and a batch that leaves too few of them within the horizon brings a new base with it.

Therefore the best `LEVELS_MAX` levels that a reader has are exactly the book's.
"""

from collections.abc import Iterable, MutableMapping, Sequence
from typing import Final

from protocol import units
from protocol.market_data import DepthDiff, DepthSnapshot
from protocol.units import PriceTicks, QuantityLots

Levels = tuple[tuple[PriceTicks, QuantityLots], ...]
"""(price, quantity) by level."""

LEVELS_MAX: Final = 5_000
"""Levels of each side that readers can have: the best ones, without gaps."""
BASE_LEVELS: Final = 5_500
"""Levels of each side in a new base: 500 may vanish before a new base must be written."""
DIFFS_AFTER_BASE_MAX: Final = 250
"""The maximum of diffs after a base, which a reader has to fetch; then the writer writes a new base."""
CHANGES_AFTER_BASE_MAX: Final = 2_500
"""A new base is written when the diffs since the last one change more levels than this.

Reading the new base then costs less than reading the diffs.
"""


def horizon(levels: Levels) -> PriceTicks | None:
    """Return the price beyond which a side of a base is unknown; None: the side is complete."""
    return levels[-1][0] if len(levels) >= LEVELS_MAX else None


def is_beyond(price: PriceTicks, limit: PriceTicks | None, *, highest_first: bool) -> bool:
    """Return whether a price lies beyond a side's horizon; bids are `highest_first`."""
    return limit is not None and (price < limit if highest_first else price > limit)


def set_levels(levels: MutableMapping[PriceTicks, QuantityLots], changes: Levels) -> None:
    """Set the quantity at each price; 0 removes the level."""
    for price, quantity in changes:
        if quantity:
            levels[price] = quantity
        else:
            levels.pop(price, None)


def diffs_after(sequence: units.Sequence, newest_first: Iterable[DepthDiff]) -> list[DepthDiff] | None:
    """Return the diffs after `sequence`, oldest first; None: some are missing.

    A diff whose commit failed half-way may be in the list twice, the second time with later changes in it.
    `newest_first` is read only as far as needed.
    """
    later: list[DepthDiff] = []
    for diff in newest_first:
        if diff.last_sequence <= sequence:
            break
        later.append(diff)
    later.reverse()
    end: int = sequence
    for diff in later:
        if diff.first_sequence > end + 1:
            return None
        end = diff.last_sequence
    return later


def joined(diffs: Sequence[DepthDiff]) -> DepthDiff:
    """Return one diff equivalent to the given consecutive diffs; there must be at least one."""
    bids: dict[PriceTicks, QuantityLots] = {}
    asks: dict[PriceTicks, QuantityLots] = {}
    for diff in diffs:
        bids.update(diff.bids)
        asks.update(diff.asks)
    first, last = diffs[0], diffs[-1]
    return DepthDiff(
        last.time,
        last.market,
        first.first_sequence,
        last.last_sequence,
        tuple(bids.items()),
        tuple(asks.items()),
    )


def book_after(base: DepthSnapshot, diffs: Sequence[DepthDiff], limit: int | None = None) -> DepthSnapshot:
    """Return the book after `diffs`, which follow `base`: the best `limit` levels of each side.

    Without a limit these are all levels within the horizon. The cost grows with `limit` and the number of
    changes, not with the depth of the book.
    """
    if not diffs:
        return DepthSnapshot(base.time, base.market, base.sequence, base.bids[:limit], base.asks[:limit])
    change = joined(diffs)
    return DepthSnapshot(
        change.time,
        base.market,
        change.last_sequence,
        _side_after(base.bids, change.bids, limit, highest_first=True),
        _side_after(base.asks, change.asks, limit, highest_first=False),
    )


def _side_after(levels: Levels, changes: Levels, limit: int | None, *, highest_first: bool) -> Levels:
    changed = dict(changes)
    # Each change removes at most one level, so no level behind these can become one of the best `limit`.
    candidates = levels if limit is None else levels[: limit + len(changed)]
    end = horizon(levels)
    rows = [level for level in candidates if level[0] not in changed]
    rows += [
        (price, quantity)
        for price, quantity in changed.items()
        if quantity and not is_beyond(price, end, highest_first=highest_first)
    ]
    rows.sort(reverse=highest_first)
    return tuple(rows[:limit])
