"""Many seeds on all cores: run, count what was injected, shrink what fails."""

import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from simulation.run import Outcome, run
from simulation.schedule import Plan, plan_of
from simulation.shrink import shrink

SEEDS_PER_TASK = 20


class Failure(NamedTuple):
    """A seed whose run broke a rule."""

    seed: int
    what: str
    actions: int
    schedule: Sequence[str]
    """The smallest schedule that breaks it, an action a line."""
    trace: Sequence[str]
    """That schedule as it ran."""

    @property
    def command(self) -> str:
        """The command that shows it again."""
        return f"exchange simulate --seed {self.seed} --trace"


class Tally(NamedTuple):
    """What some runs came to."""

    seeds: int
    injected: Counter[str]
    seeds_with: Counter[str]
    """What was injected -> in how many seeds."""
    counts: Counter[str]
    failures: list[tuple[int, str]]
    """(seed, what was broken)."""

    def add(self, other: "Tally") -> "Tally":
        """Return both together."""
        return Tally(
            self.seeds + other.seeds,
            self.injected + other.injected,
            self.seeds_with + other.seeds_with,
            self.counts + other.counts,
            self.failures + other.failures,
        )


EMPTY = Tally(0, Counter(), Counter(), Counter(), [])


def simulate(seeds: Iterable[int]) -> Tally:
    """Run some seeds in this process."""
    injected, seeds_with, counts = Counter[str](), Counter[str](), Counter[str]()
    failures, number = list[tuple[int, str]](), 0
    for seed in seeds:
        outcome = run(plan_of(seed))
        number += 1
        injected += outcome.injected
        seeds_with.update(outcome.injected.keys())
        counts += outcome.counts
        if outcome.detected:
            counts["lost ends of the log noticed"] += 1
        if outcome.failure:
            failures.append((seed, outcome.failure))
    return Tally(number, injected, seeds_with, counts, failures)


def simulate_on_all_cores(seeds: range, processes: int) -> Iterator[Tally]:
    """Run the seeds on so many processes (0: one per core); yield what every few of them came to."""
    tasks = [seeds[start : start + SEEDS_PER_TASK] for start in range(0, len(seeds), SEEDS_PER_TASK)]
    processes = min(processes or os.cpu_count() or 1, len(tasks))
    if processes == 1:
        yield from map(simulate, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(simulate, tasks)


def explain(seed: int, progress: Callable[[int], None] = lambda _actions: None) -> Failure | None:
    """Run a seed again and shrink its schedule; None when nothing is broken. `progress` is told how many actions are left."""
    plan = plan_of(seed)
    outcome = run(plan)
    if not outcome.failure:
        return None
    kind = _kind(outcome)

    def fails(smaller: Plan) -> bool:
        if _kind(run(smaller)) != kind:
            return False
        progress(len(smaller.actions))
        return True

    small = shrink(plan, fails)
    trace: list[str] = []
    failure = run(small, trace.append).failure
    return Failure(seed, failure, len(plan.actions), [str(action) for action in small.actions], trace)


def _kind(outcome: Outcome) -> str:
    """Return the failure without its numbers, so that a smaller schedule counts when it breaks the same rule."""
    return "".join("#" if character.isdigit() else character for character in outcome.failure)[:40]
