import pytest

from lab.chaos.rolling import longest_wait_s
from lab.chaos.scenarios import rolling, rolling_without_drain


@pytest.mark.parametrize(
    ("began", "ended", "longest"),
    [
        (1.0, 3.0, 2.0),  # the wait from 2 to 4 begins within and ends after it
        (2.5, 3.5, 2.0),  # around it
        (0.0, 1.0, 1.0),
        (4.2, 4.3, 1.0),
        (5.5, 6.5, 1.0),  # nothing after its end is known
    ],
)
def test_the_longest_wait_is_that_of_the_time_asked_about(began: float, ended: float, longest: float) -> None:
    assert longest_wait_s([0.0, 1.0, 2.0, 4.0, 5.0], began, ended) == longest


def test_without_any_acceptance_all_of_it_was_a_wait() -> None:
    assert longest_wait_s([], 1.0, 4.0) == 3.0


def test_the_control_restarts_only_who_answers_clients() -> None:
    scenario = rolling_without_drain(1)
    assert scenario.rolling
    assert scenario.broken
    assert set(scenario.restart) == {"gateway", "gateway-2", "ws-edge", "ws-edge-2"}
    assert rolling(1).restart == ()
