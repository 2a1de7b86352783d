"""What a failure looks like: the seed, a command that shows it again, and a small schedule that still
has it.
"""

import json
import signal
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from cli.main import main
from lab.simulation.campaign import Tally, explain, simulate
from lab.simulation.run import run
from lab.simulation.schedule import Act, Action, plan_of
from lab.simulation.shrink import shrink
from stream_log.memory_log import MemoryStreamLog
from tests.support.planting import Plant, grow

NO_FENCE = Plant(
    "takeover without a new epoch",
    MemoryStreamLog,
    "take_over",
    "ShardPosition(epoch + 1, stream_id)",
    "ShardPosition(max(epoch, 1), stream_id)",
)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Plant:
    monkeypatch.setattr(MemoryStreamLog, NO_FENCE.method, grow(NO_FENCE))
    return NO_FENCE


def test_a_failing_schedule_is_shrunk_to_what_the_failure_needs(planted: Plant) -> None:
    failure = explain(0)
    assert failure is not None
    assert failure.actions >= 100
    assert len(failure.schedule) <= 15
    assert any("takeover (engine)" in line for line in failure.trace)
    assert failure.command == "exchange simulate --seed 0 --trace"


def test_a_failure_after_many_commands_is_shrunk_from_the_actions_that_happened(planted: Plant) -> None:
    failure = explain(3, commands_min=300)
    assert failure is not None
    assert len(failure.schedule) <= 15
    assert failure.command == "exchange simulate --seed 3 --commands-min 300 --trace"


def test_shrinking_keeps_only_what_is_needed() -> None:
    plan = plan_of(1)
    needed = {plan.actions[20], plan.actions[300]}
    small = shrink(plan, lambda tried: needed <= set(tried.actions))
    assert set(small.actions) == needed


def test_any_part_of_a_schedule_is_a_schedule() -> None:
    plan = plan_of(3, loses_tail=False)
    for start in range(5):
        assert run(plan._replace(actions=plan.actions[start::5])).failure == ""
    assert run(plan._replace(actions=())).failure == ""


def test_actions_say_what_they_do() -> None:
    actions = [str(action) for seed in range(20) for action in plan_of(seed).actions if action.fault]
    assert any("crash before call 1" in action for action in actions)
    assert any("pause after call 2 for 16 actions" in action for action in actions)
    assert str(Action(Act.CLOCK, 0, 0, 900)) == "clock 0 after 900 ms"


def test_the_command_reports_and_fails(planted: Plant) -> None:
    result = CliRunner().invoke(main, ["simulate", "--seed", "0"])
    assert result.exit_code == 1
    assert "again: exchange simulate --seed 0 --trace" in result.output
    assert "The smallest of its schedules" in result.output


def test_the_command_says_what_was_injected() -> None:
    result = CliRunner().invoke(
        main, ["simulate", "--seeds", "3", "--first-seed", "7", "--processes", "1", "--json"]
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.output)
    assert (report["seeds"], report["failed"]) == (3, [])
    assert report["counts"]["commands"] > 100
    assert report["injected"]["takeover (engine)"] > 0
    assert report["commands"]["min"] <= report["commands"]["median"] < 500
    assert report["seeds_with"]["takeovers"] == 3


def test_the_command_lets_seeds_go_on_and_counts_what_they_had() -> None:
    result = CliRunner().invoke(
        main, ["simulate", "--seeds", "2", "--processes", "1", "--commands-min", "200"]
    )
    assert result.exit_code == 0, result.output
    assert "commands per seed: 2" in result.output
    assert "signed operator commands" in result.output


def test_the_command_traces_one_seed() -> None:
    result = CliRunner().invoke(main, ["simulate", "--seed", "5", "--trace"])
    assert result.exit_code == 0, result.output
    assert "ms client" in result.output
    assert "takeover (engine)" in result.output


def test_a_campaign_that_is_interrupted_says_what_it_came_to_and_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(seeds: range, _processes: int, commands_min: int, _core: str) -> Iterator[Tally]:
        yield simulate(seeds[:2], commands_min)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("lab.commands.simulate.simulate_on_all_processors", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    result = CliRunner().invoke(main, ["simulate", "--first-seed", "100", "--seeds", "9", "--json"])
    assert result.exit_code == 130
    said = json.loads(result.stdout)
    assert (said["first_seed"], said["seeds"], said["failed"]) == (100, 2, [])
    assert result.stderr == "Stopped before seed 102. Go on with: --first-seed 102 --seeds 7\n"
    assert signal.getsignal(signal.SIGTERM) == before
