"""What feeds repeat of the log: each account's own events behind what it has heard."""

import itertools
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from feeds.missed_events import Entry, events_of
from protocol.codec import decode_readable_events, encode_frame
from protocol.events import Event
from protocol.stream_id import StreamId
from protocol.units import AccountId
from tests.support.market_log import MarketLog, accepted, deposit, frame

ACCOUNTS = (1, 2, 3)


def entry(number: int, *events: Event) -> Entry:
    return StreamId(number, 0), frame(*events)


def told(entries: list[Entry], heard: dict[int, int]) -> dict[int, list[Event]]:
    """Return account -> the events that are repeated to it."""
    positions = {AccountId(account): StreamId(number, 0) for account, number in heard.items()}
    return {
        account: decode_readable_events(bytes(events)) for account, events in events_of(entries, positions)
    }


def test_only_what_was_asked_for_and_not_heard_is_repeated() -> None:
    first, second, third = deposit(1, 1), accepted(2, 1), deposit(3, 1)
    strangers, trade = deposit(2, 2), MarketLog().trade(2, 100, 1)
    entries = [entry(1, first), entry(2, second, strangers, trade), entry(3, third)]
    assert told(entries, {1: 1, 3: 0}) == {1: [second, third]}
    assert told(entries, {1: 0, 2: 2}) == {1: [first, second, third]}
    assert told(entries, {1: 3}) == {}
    assert told([], {1: 0}) == {}


def test_what_cannot_be_read_hides_nothing_else() -> None:
    first, second = deposit(1, 1), deposit(2, 1)
    half_read = (StreamId(2, 0), encode_frame([None, second]))
    garbage = [(StreamId(3, 0), b"\xc1"), (StreamId(4, 0), b"")]
    assert told([entry(1, first), half_read, *garbage], {1: 0}) == {1: [first, second]}


@given(
    st.lists(st.lists(st.sampled_from(ACCOUNTS), max_size=3), max_size=8),
    st.dictionaries(st.sampled_from(ACCOUNTS), st.integers(0, 8)),
    st.sets(st.integers(1, 8)),
)
def test_it_is_the_same_however_the_log_is_divided(
    owners: list[list[int]], heard: dict[int, int], cuts: set[int]
) -> None:
    written: list[list[Event]] = [
        [deposit(number, account) for account in group] for number, group in enumerate(owners, 1)
    ]
    entries = [entry(number, *events) for number, events in enumerate(written, 1)]
    expected = defaultdict[int, list[Event]](list)
    for number, (group, events) in enumerate(zip(owners, written, strict=True), 1):
        for account, event in zip(group, events, strict=True):
            if account in heard and number > heard[account]:
                expected[account].append(event)
    found = defaultdict[int, list[Event]](list)
    bounds = sorted({0, len(entries)} | {cut for cut in cuts if cut < len(entries)})
    for start, end in itertools.pairwise(bounds):
        for account, events in told(entries[start:end], heard).items():
            found[account] += events
    assert found == expected
