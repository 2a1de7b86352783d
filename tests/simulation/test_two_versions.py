"""Seeds in which a new release is deployed beside this one, taken back, and switched on."""

from collections import Counter

from lab.simulation.next_release import NEXT, Program, Running, become
from lab.simulation.run import Simulation, no_waiting, run, silent_logs
from lab.simulation.schedule import plan_of, slot_count
from protocol import codec
from protocol.codec import FORMAT


# Takes long: each of sixty seeds runs processes of two releases.
def test_every_way_that_an_upgrade_goes_happens() -> None:
    seen = Counter[str]()
    for seed in range(60):
        outcome = run(plan_of(seed, has_two_versions=True))
        assert outcome.failure == "", seed
        seen.update(outcome.injected.keys())
    expected = {
        "two versions side by side", "taken back before the switch", "taken back after the switch",
        "switched", "operator: switch",
        "operator: switch without asking", "switch refused: not every process reads it", "held (engine)",
        "held (feeds)", "held (ingest)",
        "too old for the log (engine)", "too old for the log (feeds)",
    }  # fmt: skip
    assert expected - seen.keys() == set()
    assert seen["two versions side by side"] == 60


def test_what_is_new_is_told_after_the_switch_alone_and_stored_by_who_reads_it() -> None:
    stored = 0
    for seed in range(25):
        plan = plan_of(seed, has_two_versions=True, loses_tail=False)
        simulation = Simulation(plan)
        with silent_logs(), no_waiting():
            simulation.run()
        formats = {simulation.witness.twin(shard).state.format for shard in range(plan.shard_count)}
        assert formats in ({FORMAT}, {NEXT.format})
        if formats == {FORMAT}:
            assert simulation.tables.news == []
        stored += len(simulation.tables.news)
    assert stored > 25


def test_each_program_has_its_numbers_only_for_as_long_as_it_runs() -> None:
    with Running(Program.NEXT):
        assert NEXT.format == codec.FORMAT
        with Running(Program.THIS):
            assert codec.FORMAT == FORMAT
        assert NEXT.format == codec.FORMAT
    assert codec.FORMAT == FORMAT
    assert become(Program.THIS) is Program.THIS


def test_every_process_can_be_upgraded() -> None:
    simulation = Simulation(plan_of(0, has_two_versions=True))
    assert len(simulation._slots()) == slot_count(simulation.plan.shard_count)


def test_a_run_goes_on_until_it_had_enough_commands_and_its_actions_are_a_schedule_of_that_run() -> None:
    for seed in range(4):
        outcome = run(plan_of(seed, commands_min=300, has_two_versions=seed % 2 == 0))
        assert outcome.failure == ""
        assert outcome.counts["commands"] >= 300
        again = run(outcome.plan)
        assert (again.counts, again.injected) == (outcome.counts, outcome.injected)
