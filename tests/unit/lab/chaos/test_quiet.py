"""A run is over when a while has passed in which only time did, and everybody is as far as things were when
it began."""

import msgspec
import pytest

from lab.chaos.quiet import Progress, Quiet
from protocol.stream_id import StreamId


def at(second: int) -> Progress:
    """An exchange whose shard has told every second up to this one, and nobody is behind."""
    ids = [StreamId(second * 1_000)]
    return Progress(ids, ids, ids, ids, ids, ids)


def test_it_is_over_while_the_time_of_an_idle_shard_goes_on() -> None:
    quiet = Quiet(1.5)
    looks = [quiet.look(0.3 * number, "nothing", at(number)) for number in range(8)]
    assert looks == [False] * 6 + [True] * 2


def test_whatever_happens_begins_anew() -> None:
    quiet = Quiet(1.5)
    assert [quiet.look(now, 1, at(0)) for now in (0, 1, 2)] == [False] * 3
    assert [quiet.look(now, 2, at(2)) for now in (3, 4, 5, 6)] == [False, False, False, True]


@pytest.mark.parametrize("reader", ["positions", "published", "stored", "heard"])
def test_whoever_is_behind_what_was_there_at_the_begin_is_waited_for(reader: str) -> None:
    quiet = Quiet(1.5)
    assert not quiet.look(0, 1, at(10))
    behind = msgspec.structs.replace(at(12), **{reader: [StreamId(9_999)]})
    assert [quiet.look(now, 1, behind) for now in (5, 10, 15, 20)] == [False] * 4
    assert [quiet.look(now, 1, at(12)) for now in (21, 22, 23)] == [False, False, True]


def test_what_another_shard_sends_meanwhile_is_waited_for() -> None:
    """An order of another shard's account makes no event before the market's shard has answered."""
    quiet = Quiet(1.5)
    assert not quiet.look(0, 1, at(10))
    sent = msgspec.structs.replace(at(11), inputs=[StreamId(11_001)])
    assert [quiet.look(now, 1, sent) for now in (1, 2, 3, 4)] == [False] * 4
    assert not quiet.look(5, 2, at(12)), "the answer is an event"


def test_nothing_is_over_with_mail_on_its_way_or_without_an_answer() -> None:
    quiet = Quiet(1.5)
    assert not quiet.look(0, 1, at(0))
    assert [quiet.look(now, 1, msgspec.structs.replace(at(5), undelivered=1)) for now in (1, 2, 3, 4)] == [
        False
    ] * 4
    assert [quiet.look(now, 1, at(6)) for now in (5, 6, 7)] == [False, False, True]
    assert not quiet.look(8, 1, None)
    assert [quiet.look(now, 1, at(9)) for now in (9, 10, 11, 12)] == [False, False, False, True]
