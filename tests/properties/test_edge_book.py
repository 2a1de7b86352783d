"""A client's local book equals the truth, whatever the edge misses, and however slow the client is."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from protocol.market_data import DepthDiff, DepthSnapshot
from protocol.units import PriceTicks, QuantityLots, Sequence, TimeMs
from tests.support.market_log import BTC, market_map
from ws_edge.book import EdgeBook
from ws_edge.conflation import Pending, Update
from ws_edge.payloads import levels

MARKET = market_map().by_symbol[BTC]
RAW = (False, 1)

changes = st.dictionaries(st.integers(1, 12).map(PriceTicks), st.integers(0, 3).map(QuantityLots), max_size=4)
steps = st.lists(
    st.tuples(
        changes, changes, st.integers(1, 3), st.sampled_from(["heard", "missed", "snapshot", "client reads"])
    ),
    max_size=40,
)


class Truth:
    """The market's book, which nobody sees directly."""

    def __init__(self) -> None:
        self.sequence = 0
        self.bids: dict[PriceTicks, QuantityLots] = {}
        self.asks: dict[PriceTicks, QuantityLots] = {}

    def change(
        self, bids: dict[PriceTicks, QuantityLots], asks: dict[PriceTicks, QuantityLots], count: int
    ) -> DepthDiff:
        first, self.sequence = self.sequence + 1, self.sequence + count
        for side, changed in ((self.bids, bids), (self.asks, asks)):
            side.update(changed)
            for price in [price for price, quantity in side.items() if not quantity]:
                del side[price]
        return DepthDiff(
            TimeMs(0), BTC, Sequence(first), Sequence(self.sequence), tuple(bids.items()), tuple(asks.items())
        )

    def snapshot(self) -> DepthSnapshot:
        bids = tuple(sorted(self.bids.items(), reverse=True))
        return DepthSnapshot(TimeMs(0), BTC, Sequence(self.sequence), bids, tuple(sorted(self.asks.items())))


class Client:
    """Begins with a snapshot and believes every update, but stops at a gap. It reads what is on the wire."""

    def __init__(self, snapshot: DepthSnapshot) -> None:
        self.sequence: int = snapshot.sequence
        self.bids, self.asks = dict(levels(MARKET, snapshot.bids)), dict(levels(MARKET, snapshot.asks))

    def take(self, frame: bytes) -> None:
        update = msgspec.json.decode(frame[frame.index(b"{") :])
        if update["u"] <= self.sequence:
            return
        assert update["U"] <= self.sequence + 1
        for side, changes in ((self.bids, update["b"]), (self.asks, update["a"])):
            for price, quantity in changes:
                side[price] = quantity
                if quantity == "0.00000000":
                    del side[price]
        self.sequence = update["u"]

    def same_as(self, snapshot: DepthSnapshot) -> bool:
        other = Client(snapshot)
        return (self.sequence, self.bids, self.asks) == (other.sequence, other.bids, other.asks)


@given(steps)
def test_snapshot_and_conflated_diffs_are_the_truth(script: list[tuple[Any, Any, int, str]]) -> None:
    truth, edge, pending = Truth(), EdgeBook(BTC), Pending()
    edge.fill(None)
    client = Client(truth.snapshot())
    last_u = 0

    def say(diffs: list[DepthDiff]) -> None:
        nonlocal last_u
        for diff in diffs:
            assert diff.first_sequence == last_u + 1
            last_u = diff.last_sequence
            pending.add(Update.of_depth("btcusdt@depth", MARKET, diff), RAW)

    def read() -> None:
        for frame in pending.take(RAW):
            client.take(frame)

    for bids, asks, count, fate in script:
        diff = truth.change(bids, asks, count)
        if fate == "missed":
            continue
        heard = edge.apply(diff)
        say([heard] if heard else [])
        if fate == "snapshot":
            say(edge.fill(truth.snapshot()))
        elif fate == "client reads":
            read()
    say(edge.fill(truth.snapshot()))
    read()
    assert not edge.needs_snapshot
    assert client.same_as(truth.snapshot())
    assert edge.top(20) == (truth.snapshot().bids, truth.snapshot().asks)


@given(st.lists(st.tuples(changes, changes, st.integers(1, 3)), min_size=1, max_size=12), st.data())
def test_a_snapshot_from_any_moment_joins(script: list[tuple[Any, Any, int]], data: st.DataObject) -> None:
    truth, edge = Truth(), EdgeBook(BTC)
    snapshots, diffs = [truth.snapshot()], []
    for bids, asks, count in script:
        diffs.append(truth.change(bids, asks, count))
        snapshots.append(truth.snapshot())
    first_heard = data.draw(st.integers(0, len(diffs) - 1))
    for diff in diffs[first_heard:]:
        assert edge.apply(diff) is None
    taken = data.draw(st.integers(0, len(snapshots) - 1))
    edge.fill(snapshots[taken])
    assert edge.needs_snapshot == (taken < first_heard)
    edge.fill(snapshots[-1])
    assert edge.top(20) == (truth.snapshot().bids, truth.snapshot().asks)


@given(steps, st.data())
def test_who_begins_within_a_gap_has_the_truth_too(
    script: list[tuple[Any, Any, int, str]], data: st.DataObject
) -> None:
    truth, edge, pending = Truth(), EdgeBook(BTC), Pending()
    edge.fill(None)
    snapshots, kept = [truth.snapshot()], list[DepthDiff]()
    for bids, asks, count, fate in script:
        kept.append(truth.change(bids, asks, count))
        snapshots.append(truth.snapshot())
        heard = [edge.apply(kept[-1])] if fate != "missed" else []
        if fate == "snapshot":
            heard += edge.follow(kept) or ()
        for diff in filter(None, heard):
            pending.add(Update.of_depth("btcusdt@depth", MARKET, diff), RAW)
    for diff in edge.follow(kept) or ():
        pending.add(Update.of_depth("btcusdt@depth", MARKET, diff), RAW)
    assert not edge.needs_snapshot
    client = Client(data.draw(st.sampled_from(snapshots)))
    for frame in pending.take(RAW):
        client.take(frame)
    assert client.same_as(truth.snapshot())


def test_a_difference_of_snapshots_misleads_who_begins_between_them() -> None:
    """So it is only for those who have followed so far; the others are sent away."""
    truth, edge = Truth(), EdgeBook(BTC)
    edge.fill(None)
    first = truth.change({PriceTicks(5): QuantityLots(1)}, {}, 1)
    assert edge.apply(first)
    truth.change({PriceTicks(5): QuantityLots(2)}, {}, 1)
    follower, late = (
        Client(DepthSnapshot(TimeMs(0), BTC, Sequence(1), first.bids, ())),
        Client(truth.snapshot()),
    )
    newest = truth.change({PriceTicks(5): QuantityLots(1)}, {}, 1)
    assert edge.follow([newest]) is None
    (spanning,) = edge.fill(truth.snapshot())
    for client in (follower, late):
        client.take(Update.of_depth("btcusdt@depth", MARKET, spanning).frame(RAW))
    assert follower.same_as(truth.snapshot())
    assert not late.same_as(truth.snapshot())
