"""A run is over when a while has passed in which only time did, and everybody is as far as things were when it began."""

import msgspec
import pytest

from chaos.quiet import Progress, Quiet
from protocol.streams import stream_id_of


def at(second: int) -> Progress:
    """An exchange whose shard has told every second up to this one, and nobody is behind."""
    ids = [stream_id_of(second * 1_000)]
    return Progress(ids, ids, ids, ids, ids, ids)


def test_it_is_over_while_the_time_of_an_idle_shard_goes_on() -> None:
    quiet = Quiet(1.5)
    looks = [quiet.look(0.3 * number, "nothing", at(number)) for number in range(8)]
    assert looks == [False] * 5 + [True] * 3


def test_whatever_happens_begins_the_while_anew() -> None:
    quiet = Quiet(1.5)
    assert not quiet.look(0, 1, at(0))
    assert not quiet.look(2, 2, at(2))
    assert not quiet.look(3, 2, at(3))
    assert quiet.look(3.5, 2, at(3))


@pytest.mark.parametrize("reader", ["positions", "published", "stored", "heard"])
def test_whoever_is_behind_what_was_there_at_the_begin_is_waited_for(reader: str) -> None:
    quiet = Quiet(1.5)
    assert not quiet.look(0, 1, at(10))
    behind = msgspec.structs.replace(at(12), **{reader: [stream_id_of(9_999)]})
    assert not quiet.look(5, 1, behind)
    in_step = msgspec.structs.replace(at(12), **{reader: [stream_id_of(10_000)]})
    assert quiet.look(6, 1, in_step)


def test_nothing_is_over_with_mail_on_its_way_or_without_an_answer() -> None:
    quiet = Quiet(1.5)
    assert not quiet.look(0, 1, at(0))
    assert not quiet.look(5, 1, msgspec.structs.replace(at(5), undelivered=1))
    assert quiet.look(6, 1, at(6))
    assert not quiet.look(7, 1, None)
    assert not quiet.look(8, 1, at(8))
    assert quiet.look(10, 1, at(9))
