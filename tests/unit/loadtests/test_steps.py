"""How traders come: in equal steps, all of them on the last."""

import pytest

from loadtests.steps import Plan


def test_steps_have_equal_lengths_and_then_it_is_over() -> None:
    plan = Plan(traders=20, seconds=60, steps=4)
    assert [plan.step_at(elapsed) for elapsed in (0, 14.9, 15, 30, 45, 59.9, 60, 100)] == [
        0,
        0,
        1,
        2,
        3,
        3,
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("traders", "steps", "expected"),
    [(20, 4, [5, 10, 15, 20]), (10, 4, [3, 5, 8, 10]), (1, 1, [1]), (3, 4, [1, 2, 3, 3])],
)
def test_every_step_has_more_traders_and_the_last_has_all(
    traders: int, steps: int, expected: list[int]
) -> None:
    plan = Plan(traders=traders, steps=steps)
    assert [plan.traders_in(step) for step in range(steps)] == expected


@pytest.mark.parametrize("watchers", range(6))
def test_half_of_the_watchers_watch_markets(watchers: int) -> None:
    plan = Plan(watchers=watchers)
    assert plan.market_watchers() + plan.account_watchers() == watchers
    assert plan.market_watchers() - plan.account_watchers() in (0, 1)
