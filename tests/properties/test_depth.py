"""Base and diffs, put together, are the book after every batch: as deep as readers may ask, and never a level
too many."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds.depth import BaseRecord, HalfBook
from feeds.state import BASE_PERIOD_MS, ShardFeeds
from protocol import depth
from protocol.depth import book_after, diffs_after, horizon, joined
from protocol.market_data import DepthDiff, DepthSnapshot
from protocol.orders import Side
from protocol.stream_id import StreamId
from protocol.units import PriceTicks, QuantityLots, Sequence, TimeMs
from tests.support.kept_depth import KeptDepth
from tests.support.market_log import BTC, START_MS, MarketLog, frame, market_map
from ws_edge.book import EdgeBook

LEVELS, BASE = 5, 8
PARTIAL = 3


@contextmanager
def small_books() -> Iterator[pytest.MonkeyPatch]:
    """Bounds that a few levels reach."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(depth, "LEVELS_MAX", LEVELS)
        patch.setattr(depth, "BASE_LEVELS", BASE)
        patch.setattr(depth, "DIFFS_AFTER_BASE_MAX", 6)
        patch.setattr(depth, "CHANGES_AFTER_BASE_MAX", 20)
        yield patch


changes = st.lists(
    st.tuples(st.sampled_from(Side), st.integers(1, 24), st.sampled_from([0, 0, 1, 2])), max_size=9
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("batch"), changes),
        st.tuples(st.just("pause"), st.sampled_from([1, BASE_PERIOD_MS])),
        st.tuples(st.just("restart"), st.booleans()),
    ),
    max_size=30,
)


def check_feeds(plan: list[tuple[str, Any]]) -> None:
    feeds, log, kept = ShardFeeds(0, market_map().markets), MarketLog(), KeptDepth()
    number, now = 0, 0
    for step, content in plan:
        match step:
            case "batch":
                number += 1
                feeds.apply(StreamId(START_MS, number), frame(log.depth(START_MS, *content)))
            case "pause":
                now += content
            case "restart":
                saved = feeds.save()
                feeds = ShardFeeds.decode(0, market_map().markets, saved.state, saved.chunks)
                feeds.skip_outputs()
                if content:  # what was written is lost
                    kept = KeptDepth()
                    feeds.repeat_all()
        kept.take(feeds.take_outputs(now))
        bids, asks = log.book(Side.BUY), log.book(Side.SELL)
        for limit in (1, 2, LEVELS):
            book = kept.book(limit)
            if not log.sequences:
                assert book is None
                continue
            assert book is not None
            assert (book.sequence, book.bids, book.asks) == (log.sequences[BTC], bids[:limit], asks[:limit])
        whole = kept.book()
        assert whole is None or (whole.bids, whole.asks) == (bids[: len(whole.bids)], asks[: len(whole.asks)])


@pytest.mark.usefixtures("feed_reader")
@settings(max_examples=400, deadline=None)
@given(steps)
def test_base_and_diffs_are_the_book(plan: list[tuple[str, Any]]) -> None:
    with small_books():
        check_feeds(plan)


DEEP = ("batch", [(Side.SELL, price, 1) for price in range(1, 21)])
EATEN = ("batch", [(Side.SELL, price, 0) for price in range(1, 5)])
BEYOND = ("batch", [(Side.SELL, 15, 2)])


@pytest.mark.parametrize(
    ("broken", "plan"),
    [
        ((HalfBook, "is_covered_to", lambda *_: True), [DEEP, EATEN]),
        ((depth, "is_beyond", lambda *_, **__: False), [DEEP, BEYOND]),
        ((BaseRecord, "forget", lambda _: None), [DEEP, ("restart", True)]),
        ((depth, "horizon", lambda _: None), [DEEP, BEYOND]),
    ],
    ids=[
        "no new base when levels are eaten",
        "levels beyond the horizon",
        "no base after a start",
        "no horizon",
    ],
)
def test_control_without_a_rule_the_book_is_wrong(
    broken: tuple[Any, str, Any], plan: list[tuple[str, Any]]
) -> None:
    with small_books() as patch:
        check_feeds(plan)
        patch.setattr(*broken)
        if broken[1] == "forget":
            patch.setattr(BaseRecord, "is_used_up", lambda *_: False)
            patch.setattr("feeds.state.BASES_PER_BATCH", 0)
        with pytest.raises(AssertionError):
            check_feeds(plan)


def test_many_diffs_and_many_changes_bring_a_new_base() -> None:
    def bases(batches: int, levels: int) -> int:
        feeds, log, kept = ShardFeeds(0, market_map().markets), MarketLog(), KeptDepth()
        for number in range(batches):
            rows = [(Side.BUY, price, 1 + number % 2) for price in range(1, levels + 1)]
            feeds.apply(StreamId(START_MS, number + 1), frame(log.depth(START_MS, *rows)))
            kept.take(feeds.take_outputs(0))
            found = kept.book(1)
            assert found is not None
            assert found.sequence == number + 1
        return kept.bases_written

    assert bases(depth.DIFFS_AFTER_BASE_MAX + 1, 1) == 1
    assert bases(depth.DIFFS_AFTER_BASE_MAX + 2, 1) == 2
    assert bases(depth.CHANGES_AFTER_BASE_MAX // 100 + 1, 100) == 1
    assert bases(depth.CHANGES_AFTER_BASE_MAX // 100 + 2, 100) == 2


def diff(first: int, last: int, *bids: tuple[int, int]) -> DepthDiff:
    rows = tuple((PriceTicks(price), QuantityLots(quantity)) for price, quantity in bids)
    return DepthDiff(TimeMs(last), BTC, Sequence(first), Sequence(last), rows, ())


def test_diffs_are_followed_or_their_gap_is_noticed() -> None:
    first, second, third = diff(1, 4, (5, 1)), diff(5, 5, (6, 1)), diff(6, 9, (5, 0))
    newest = [third, second, first]
    assert diffs_after(Sequence(4), newest) == [second, third]
    assert diffs_after(Sequence(9), newest) == []
    assert diffs_after(Sequence(0), newest) == [first, second, third]
    assert diffs_after(Sequence(4), [third, first]) is None
    assert diffs_after(Sequence(3), [third, second]) is None
    assert diffs_after(Sequence(3), []) == []
    # The commit of `second` failed half-way; it came again, with more in it.
    repeated = diff(5, 7, (6, 2))
    assert diffs_after(Sequence(4), [repeated, second, first]) == [second, repeated]
    assert joined([second, repeated]) == diff(5, 7, (6, 2))
    # Not read further than to the base.
    newest_first = iter([third, second, first])
    assert diffs_after(Sequence(5), newest_first) == [third]
    assert next(newest_first) == first


def test_a_base_that_an_earlier_release_wrote_shows_less_and_nothing_wrong() -> None:
    with small_books():
        bids = tuple((PriceTicks(price), QuantityLots(1)) for price in range(20, 15, -1))
        base = DepthSnapshot(TimeMs(0), BTC, Sequence(1), bids, ())
        assert horizon(bids) == 16
        book = book_after(base, [diff(2, 2, (18, 0), (3, 7))], LEVELS)
        assert [price for price, _ in book.bids] == [20, 19, 17, 16]


moves = st.one_of(
    changes,
    # The market moves: the best so many levels of a side go.
    st.builds(
        lambda side, first, count: [
            (side, price if side is Side.SELL else 31 - price, 0) for price in range(first, first + count)
        ],
        st.sampled_from(Side), st.integers(1, 14), st.integers(1, 9),
    ),
)  # fmt: skip
FULL = [(Side.SELL, price, 1) for price in range(1, 31)] + [(Side.BUY, price, 1) for price in range(1, 31)]
EdgePlan = list[tuple[list[tuple[Side, int, int]], str]]


def check_edge(plan: EdgePlan) -> None:
    with small_books():
        feeds, log, kept = ShardFeeds(0, market_map().markets), MarketLog(), KeptDepth()
        edge = EdgeBook(BTC)
        for number, (content, fate) in enumerate([(FULL, "base"), *plan], start=1):
            feeds.apply(StreamId(START_MS, number), frame(log.depth(START_MS, *content)))
            kept.take(feeds.take_outputs(number))
            (newest, *_) = diffs = [msgspec.msgpack.decode(each, type=DepthDiff) for each in kept.newest]
            assert kept.base is not None
            base = msgspec.msgpack.decode(kept.base, type=DepthSnapshot)
            if fate != "missed":
                edge.apply(newest)
            if fate == "base":
                edge.fill(base, diffs[::-1])
                assert edge.sequence == number
            if fate == "shown" and edge.sequence == number:
                for side, book in zip(
                    edge.top(PARTIAL), (log.book(Side.BUY), log.book(Side.SELL)), strict=True
                ):
                    assert side == book[: len(side)]
                    assert len(side) == min(PARTIAL, len(book)) or edge.needs_snapshot
        for _ in range(2):  # the first look may find that the book is shallow
            edge.fill(base, diffs[::-1])
            bids, asks = edge.top(PARTIAL)
        assert bids == log.book(Side.BUY)[:PARTIAL]
        assert asks == log.book(Side.SELL)[:PARTIAL]
        assert not edge.needs_snapshot


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(moves, st.sampled_from(["heard", "heard", "missed", "base", "shown"])), max_size=25)
)
def test_an_edge_shows_the_best_levels_however_far_its_market_has_moved(plan: EdgePlan) -> None:
    check_edge(plan)


MOVED: EdgePlan = [
    ([(Side.SELL, price, 0) for price in range(1, 8)], "heard"),
    ([(Side.SELL, 20, 2)], "shown"),
]


@pytest.mark.parametrize(
    "broken",
    [(EdgeBook, "_deepen", lambda *_: None), ("ws_edge.book.is_beyond", lambda *_, **__: False)],
    ids=["never deepened", "no horizon"],
)
def test_control_an_edge_that_does_not_know_how_deep_its_book_is(broken: tuple[Any, ...]) -> None:
    check_edge(MOVED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*broken)
        with pytest.raises(AssertionError):
            check_edge(MOVED)
