"""A limit that several processes work under, whatever the order in which they ask, hear and die."""

from collections.abc import Iterable
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.shares import EMPTY, Bucket, Draw, Share, Word, drawn, reserve_of

BUCKET: Final = Bucket("weight", "192.0.2.1", 7)


class World:
    """One pot and the processes at it. What is sent arrives at once, or is lost on the way there or back."""

    def __init__(self, limit: int, processes: int) -> None:
        self.limit = limit
        self.pot = EMPTY
        self.shares = [Share(BUCKET, limit) for _ in range(processes)]
        self.admitted = 0
        self.admitted_by = [0] * processes
        """And not taken back by the process, since it started."""
        self.lost = 0
        """Units that nobody can use any more."""

    def request(self, process: int, needed: int) -> bool:
        """Serve a request as a process does: of the share, else by asking."""
        share = self.shares[process]
        is_met = share.take(needed) or (not share.is_out(needed) and self.exchange(process, needed))
        self.admitted += needed * is_met
        self.admitted_by[process] += needed * is_met
        return is_met

    def exchange(self, process: int, needed: int = 0, *, tops_up: bool = False, leaves: bool = False) -> bool:
        share = self.shares[process]
        draw = share.draw(needed, tops_up=tops_up, leaves=leaves)
        given, self.pot = drawn(self.pot, draw)
        return share.answered(draw, given, self.pot)

    def lose_answer(self, process: int, needed: int) -> None:
        """Ask, and never hear of it."""
        share = self.shares[process]
        draw = share.draw(needed)
        given, self.pot = drawn(self.pot, draw)
        share.not_answered(draw)
        self.lost += given

    def fail_to_send(self, process: int, needed: int) -> None:
        share = self.shares[process]
        before = share.left - share.borrowed, share.unsaid
        share.not_sent(share.draw(needed))
        assert (share.left - share.borrowed, share.unsaid) == before

    def die(self, process: int) -> None:
        """End a process, and start another in its place."""
        self.lost += self.shares[process].left
        self.shares[process] = Share(BUCKET, self.limit)
        self.admitted_by[process] = 0

    def take_back(self, process: int, units: int) -> None:
        """Take back something that this process has admitted: an order that was refused after all."""
        share = self.shares[process]
        before = share.left
        share.take_back(min(units, self.admitted_by[process]))
        self.admitted -= share.left - before
        self.admitted_by[process] -= share.left - before

    def hand_back(self) -> None:
        """Have everybody hand back, as all do when somebody has asked in vain, and hear what came of it."""
        for process in range(len(self.shares)):
            self.exchange(process, leaves=True)
        for share in self.shares:
            share.hear(self.pot)

    def held(self) -> int:
        return sum(share.left for share in self.shares)


def steps(processes: int) -> st.SearchStrategy[list[tuple[str, int, int]]]:
    names = st.sampled_from(("request",) * 8 + ("tell", "top up", "lose", "fail", "die", "back", "hand back"))
    return st.lists(st.tuples(names, st.integers(0, processes - 1), st.integers(1, 30)), max_size=200)


def play(world: World, todo: Iterable[tuple[str, int, int]]) -> None:
    for name, process, units in todo:
        match name:
            case "request":
                if not world.request(process, units):
                    world.hand_back()
                    left = world.limit - world.pot.taken
                    assert world.request(process, units) == (left >= units), (
                        "refused although there is enough, or the other way round"
                    )
            case "tell":
                world.exchange(process)
            case "top up":
                world.exchange(process, tops_up=True)
            case "lose":
                world.lose_answer(process, units)
            case "fail":
                world.fail_to_send(process, units)
            case "die":
                world.die(process)
            case "back":
                world.take_back(process, units)
            case "hand back":
                world.hand_back()
        assert world.admitted + world.held() <= world.pot.taken <= world.limit


@given(st.integers(1, 500), steps(4))
def test_never_more_than_the_limit_and_nobody_is_refused_what_is_left(
    limit: int, todo: list[tuple[str, int, int]]
) -> None:
    world = World(limit, 4)
    play(world, todo)
    # Without anybody who dies or is not heard, nothing is lost: whoever is refused in the end, less than that
    # is left.
    if not {"lose", "die"} & {name for name, _, _ in todo}:
        world.hand_back()
        assert world.pot.taken == world.pot.used == world.admitted


@given(steps(3))
def test_a_process_that_dies_takes_along_at_most_its_share(todo: list[tuple[str, int, int]]) -> None:
    world = World(300, 3)
    play(world, [step for step in todo if step[0] not in ("lose", "back")])
    world.hand_back()
    assert world.pot.taken <= world.admitted + world.lost


def test_the_control_a_pot_that_forgets_what_it_gave_admits_too_much() -> None:
    world = World(100, 3)
    with pytest.raises(AssertionError):  # noqa: PT012  # one of them fails
        for round_ in range(100):
            world.pot = world.pot._replace(taken=world.pot.used)
            play(world, [("request", round_ % 3, 1)])


def test_the_control_shares_that_are_not_handed_back_refuse_what_is_left() -> None:
    world = World(100, 2)
    assert world.request(0, 40)
    while world.request(1, 5):
        pass
    assert world.limit - world.admitted >= 5
    world.hand_back()
    assert world.request(1, 5)


def test_far_from_the_limit_few_requests_ask() -> None:
    """An address at half its limit, evenly over 300 turns: but for the first request nobody waits for
    Redis.
    """
    share, pot, asked = Share(BUCKET, 6_000), EMPTY, 0
    for _ in range(300):
        for _ in range(10):
            if not share.take(1):
                draw = share.draw(1)
                given, pot = drawn(pot, draw)
                assert share.answered(draw, given, pot)
                asked += 1
        draw = share.draw(tops_up=True)
        given, pot = drawn(pot, draw)
        share.answered(draw, given, pot)
    assert asked == 1
    assert share.count == 3_000


def test_in_the_reserve_nobody_is_given_more_than_needed() -> None:
    near = Word(used=0, taken=6_000 - reserve_of(6_000), version=1)
    assert drawn(near, Draw(6_000, 0, 0, 7, 500)) == (7, Word(7, 5_707, 2))
    assert drawn(near, Draw(6_000, 0, 0, 301, 0)) == (0, Word(0, 5_700, 2))
    share = Share(BUCKET, 6_000)
    share.answered(Draw(6_000, 0, 0, 1, 99), 100, Word(1, 100, 1))
    assert share.draw(tops_up=True).returned == 0
    share.hear(near._replace(version=2))
    draw = share.draw()
    assert (draw.returned, share.left) == (99, 0)


def test_what_is_refused_counts_too() -> None:
    share = Share(BUCKET, 10)
    draw = share.draw(10)
    share.answered(draw, *drawn(EMPTY, draw))
    share.overrun(5)
    assert share.count == 15
    draw = share.draw()
    assert drawn(Word(10, 10, 1), draw) == (0, Word(15, 15, 2))


def test_an_old_word_changes_nothing() -> None:
    share = Share(BUCKET, 10)
    assert share.hear(Word(5, 5, 3))
    assert not share.hear(Word(4, 4, 2))
    assert share.count == 5


@pytest.mark.parametrize(("processes", "borrowed"), [(1, 60), (3, 20), (100, 1)])
def test_while_nobody_can_be_asked_a_part_of_what_is_left_is_borrowed(processes: int, borrowed: int) -> None:
    share = Share(BUCKET, 100)
    share.hear(Word(40, 40, 1))
    for _ in range(2):
        share.borrow(1, processes)
    assert share.left == borrowed
    share.take(1)
    share.borrow(2, processes)  # another outage
    assert share.left >= borrowed
    # What was used of it is in the pot afterwards, and the rest is not.
    draw = share.draw()
    assert drawn(Word(40, 40, 1), draw)[1] == Word(41, 41, 2)
    assert share.left == 0


def test_what_is_on_its_way_is_counted() -> None:
    share = Share(BUCKET, 100)
    first = share.draw(1, tops_up=True)
    share.answered(first, *drawn(EMPTY, first))
    share.take_back(1)
    share.take(1)
    for end in (share.not_sent, share.not_answered):
        draw = share.draw()
        assert share.count == 1
        end(draw)
        assert share.count == 1
