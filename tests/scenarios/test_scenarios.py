"""Every scenario of this folder comes out as written: on the oracle, and on the engine with 1 and with 3
shards."""

from pathlib import Path

import pytest

from protocol.commands import Command
from protocol.replies import Reply
from tests.oracle.driver import Engine
from tests.oracle.exchange import Exchange
from tests.scenarios.market import Scenario

SCENARIOS = sorted(Path(__file__).parent.glob("*.scenario"))


class PlayedOracle(Exchange):
    def reply_to(self, command: Command, time: int) -> Reply:
        return self.apply(command, time).reply


class PlayedEngine(Engine):
    def reply_to(self, command: Command, time: int) -> Reply:
        ((_, reply),) = self.apply(command, time).replies
        self.check_invariants()
        return reply


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario_on_the_oracle(path: Path) -> None:
    scenario = Scenario.read(path)
    scenario.play(PlayedOracle(scenario.market_map(1), open_orders_max=scenario.open_orders_max))


@pytest.mark.parametrize("shard_count", [1, 3])
@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario_on_the_engine(path: Path, shard_count: int) -> None:
    scenario = Scenario.read(path)
    scenario.play(PlayedEngine(scenario.market_map(shard_count), open_orders_max=scenario.open_orders_max))


@pytest.mark.parametrize(
    ("right", "wrong"), [("NEW", "FILLED"), ("bob has 1", "bob has 2"), ("3 | 100 |", "4 | 100 |")]
)
def test_scenario_that_says_something_wrong_fails(right: str, wrong: str, tmp_path: Path) -> None:
    text = (
        "# T\nbob deposits 400 CASH\nbob buys 3 @ 100 => NEW\nbook\n  3 | 100 |\nbob has 100 CASH + 300 "
        "held\n"
    )
    path = tmp_path / "wrong.scenario"
    path.write_text(text.replace(right, wrong), encoding="utf-8")
    scenario = Scenario.read(path)
    with pytest.raises(AssertionError, match="line"):
        scenario.play(PlayedOracle(scenario.market_map(1)))
