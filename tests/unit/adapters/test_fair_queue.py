"""Whose turn it is, and how much a shard may have."""

import random
from collections import Counter

from adapters.fair_queue import AGE_MS_MAX, SIZE_FIRST, SIZE_MAX, SIZE_MIN, FairQueue, Window
from protocol.units import AccountId


def test_accounts_take_turns_and_what_is_urgent_goes_first() -> None:
    queue = FairQueue[str]()
    for item in ("a1", "a2", "a3", "b1", "c1", "c2"):
        assert queue.put(AccountId(ord(item[0])), item, is_urgent=False)
    assert queue.put(AccountId(ord("c")), "c!", is_urgent=True)
    assert queue.take(2) == ["c!", "a1"]
    assert queue.take(3) == ["b1", "c1", "a2"]
    assert queue.take(9) == ["c2", "a3"]
    assert (len(queue), queue.take(1)) == (0, [])


def test_an_account_that_has_too_much_waiting_is_refused_alone() -> None:
    queue = FairQueue[int](per_account_max=2)
    assert [queue.put(AccountId(1), number, is_urgent=False) for number in range(3)] == [True, True, False]
    assert queue.put(AccountId(2), 9, is_urgent=False)
    assert queue.put(AccountId(1), 7, is_urgent=True)
    assert sorted(queue) == [0, 1, 7, 9]


def test_what_is_dropped_waits_no_more() -> None:
    queue = FairQueue[int]()
    for number in range(10):
        queue.put(AccountId(number % 3), number, is_urgent=number == 4)
    assert sorted(queue.drop(lambda number: number % 2 == 0)) == [0, 2, 4, 6, 8]
    assert (len(queue), sorted(queue.take(10))) == (5, [1, 3, 5, 7, 9])


def test_nobody_gets_less_than_a_share_whoever_sends_most() -> None:
    """One account sends ten times as much as each of nine others, and so much fits that each could have its
    share."""
    dice, queue, given, wanted = random.Random(1), FairQueue[int](), Counter[int](), Counter[int]()
    for _ in range(2_000):
        for account in [1] * 10 + list(range(2, 11)):
            if dice.random() < 0.5:
                wanted[account] += queue.put(AccountId(account), account, is_urgent=False)
        given.update(queue.take(6))
    assert all(wanted[account] - given[account] < 10 for account in range(2, 11)), "what they sent went"
    assert sum(given.values()) == 6 * 2_000


def test_a_window_shrinks_while_the_shard_is_behind_and_grows_while_more_would_be_sent() -> None:
    window = Window()
    window.adapt(0, is_full=False)
    assert window.size == SIZE_FIRST
    for _ in range(100):
        window.adapt(AGE_MS_MAX + 1, is_full=True)
    assert window.size == SIZE_MIN
    for _ in range(100):
        window.adapt(AGE_MS_MAX, is_full=True)
    assert window.size == SIZE_MAX
