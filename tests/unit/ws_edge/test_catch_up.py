"""Every event of an account is heard once and in order, however feeds cut, repeat and lose their portions."""

from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from protocol.events import Event, FundsDeposited
from protocol.stream_id import STREAM_START, StreamId
from protocol.units import AccountId, AssetUnits, TimeMs
from ws_edge.catch_up import CatchUp, Portion

LENGTH: Final = 12


def at(number: int) -> StreamId:
    return StreamId(number, 0) if number else STREAM_START


def event(number: int) -> Event:
    return FundsDeposited(TimeMs(number), AccountId(1), "BTC", AssetUnits(number), f"deposit {number}", ())


def portion(after: int, position: int) -> Portion:
    """All events from behind one position up to another; each position of the log has one."""
    return Portion(at(after), at(position), [event(number) for number in range(after + 1, position + 1)])


def numbers(events: "list[Event] | None") -> list[int] | None:
    return None if events is None else [each.time for each in events]


def test_the_first_portion_after_a_subscription_is_taken_as_it_is() -> None:
    assert numbers(CatchUp().take(portion(3, 5))) == [4, 5]


def test_a_portion_that_was_heard_is_taken_and_says_nothing_new() -> None:
    account = CatchUp()
    account.move_to(at(5))
    assert account.take(portion(3, 5)) == []
    assert account.heard == at(5)


def test_of_a_portion_that_was_heard_in_part_nothing_is_taken() -> None:
    account = CatchUp()
    account.move_to(at(4))
    assert account.take(portion(3, 5)) is None
    assert account.heard == at(4)


def test_what_waits_follows_on_what_was_read_from_the_log() -> None:
    account = CatchUp()
    account.move_to(at(2))
    account.interrupted()
    account.put_aside(portion(4, 6))
    account.put_aside(portion(6, 7))
    assert numbers(account.caught_up([event(3), event(4)], at(4))) == [3, 4, 5, 6, 7]
    assert not account.is_behind


def test_what_was_heard_only_in_part_keeps_the_account_behind() -> None:
    account = CatchUp()
    account.move_to(at(1))
    account.fall_behind(portion(0, 3))
    account.put_aside(portion(3, 4))
    assert account.is_behind
    assert account.caught_up([event(2)], at(2)) == [event(2)]
    assert account.is_behind
    assert numbers(account.caught_up([event(3)], at(3))) == [3, 4]


def test_one_that_nobody_has_heard_of_yet_misses_nothing() -> None:
    account = CatchUp()
    account.interrupted()
    assert not account.is_behind


def test_what_cannot_be_read_any_more_is_left_behind() -> None:
    account = CatchUp()
    account.move_to(at(1))
    account.fall_behind(portion(0, 3))
    account.give_up(at(8))
    assert (account.heard, account.is_behind, account.waiting) == (at(8), False, [])


deliveries = st.lists(
    st.tuples(
        st.sampled_from(("publish", "publish", "repeat", "lose", "catch up")),
        st.integers(1, 3),
    ),
    max_size=40,
)


@given(deliveries)
def test_everything_is_heard_once_and_in_order(steps: list[tuple[str, int]]) -> None:
    account, heard, published = CatchUp(), list[int](), 0
    account.move_to(at(0))

    def hear(new: Portion) -> None:
        if account.is_behind:
            account.put_aside(new)
        elif (taken := account.take(new)) is None:
            account.fall_behind(new)
        else:
            heard.extend(each.time for each in taken)

    def read_log() -> None:
        start = account.heard.ms if account.heard else 0
        events = [event(number) for number in range(start + 1, published + 1)]
        heard.extend(each.time for each in account.caught_up(events, at(published)))

    for step, size in steps:
        match step:
            case "publish":
                hear(portion(published, published + size))
                published += size
            case "repeat":  # after a crash: what was published, from an earlier position on, in one portion
                hear(portion(max(0, published - size), published))
            case "lose":  # the connection was lost while something was published
                published += size
                account.interrupted()
            case "catch up" if account.is_behind:
                read_log()
    if account.is_behind:
        read_log()
    assert heard == list(range(1, published + 1))
    assert not account.is_behind
