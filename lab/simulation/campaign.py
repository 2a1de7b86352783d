"""Many seeds on all cores: run, count what was injected, shrink what fails."""

import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Final, NamedTuple

from engine_worker.cores import OBJECTS
from lab.simulation.run import Outcome, run
from lab.simulation.schedule import Plan, plan_of
from lab.simulation.shortage import Refusal
from lab.simulation.shrink import shrink

SEEDS_PER_TASK = 20
FEATURES: Final[dict[str, tuple[str, ...]]] = {
    "markets configured (fees, halts, delistings)": tuple(
        f"operator: {change}" for change in ("fees", "halted", "cancel_only", "delisting", "trading")
    ),
    "shards configured (maintenance, keys, a switch)": (
        "operator: maintenance",
        "operator: key rotation",
        "operator: switch",
    ),
    "accounts limited or closed": ("operator: limits", "operator: closing"),
    "signed operator commands": ("operator: ",),
    "forged operator commands": ("forged: ",),
    "jumps of Redis's clock": ("clock wrong",),
    "two versions side by side": ("two versions side by side",),
    "a release taken back before the switch": ("taken back before",),
    "a switch to what the next release brings": ("switched",),
    "a switch refused: not every process reads it": ("switch refused",),
    "a switch by an operator who does not ask": ("operator: switch without asking",),
    "a release taken back after the switch": ("taken back after",),
    "processes that hold, or do not start, at a later release": ("held (", "too old for the log"),
    "crashes": ("crash ", "kill "),
    "lost connections": ("disconnect ",),
    "pauses": ("pause ",),
    "takeovers": ("takeover", "usurpation", "hand-over"),
    "stale leaders fenced": ("fenced",),
    "work that takes longer than a lease": ("work that takes longer",),
    "takeovers in the middle of a step": ("taken over in the middle",),
    "leases made longer, as takeovers led to nothing": ("a lease made longer",),
    "leaders that stand still": ("a leader hangs",),
    "floods of commands": ("flood",),
    "a Redis whose memory is full: new work refused": (f"refused by Redis: {Refusal.OUT_OF_MEMORY.value},",),
    "a Redis that refuses all writes": tuple(
        f"refused by Redis: {refusal.value}," for refusal in Refusal if refusal is not Refusal.OUT_OF_MEMORY
    ),
    "readers that do nothing": ("readers are held",),
    "orders refused, as a log is full": ("an order refused",),
    "cancels refused, too": ("a cancel refused",),
    "replies lost": ("replies lost",),
    "torn snapshots": ("torn snapshot",),
    "followers that diverge": ("a follower diverges",),
    "garbage": ("garbage",),
    "a lost end of the log": ("tail lost",),
}
"""What a seed may have -> how what was injected begins."""
TRANSFERS: Final = "transfers of clients"
"""What it may have, too."""


class Failure(NamedTuple):
    """A seed that breaks a rule, with the smallest schedule that does."""

    seed: int
    what: str
    actions: int
    schedule: Sequence[str]
    """The smallest schedule that breaks it, an action a line."""
    trace: Sequence[str]
    """That schedule as it ran."""
    commands_min: int = 0
    core: str = OBJECTS

    @property
    def command(self) -> str:
        """The command that runs the seed again, with its trace."""
        length = f" --commands-min {self.commands_min}" if self.commands_min else ""
        core = f" --core {self.core}" if self.core != OBJECTS else ""
        return f"exchange simulate --seed {self.seed}{length}{core} --trace"


class Tally(NamedTuple):
    """The sums over some seeds."""

    seeds: int
    injected: Counter[str]
    seeds_with: Counter[str]
    """What was injected -> in how many seeds."""
    commands: list[int]
    """How many different commands each seed had."""
    seeds_of: Counter[str]
    """What a seed may have (`features`) -> how many had it."""
    counts: Counter[str]
    failures: list[tuple[int, str]]
    """(seed, what was broken)."""

    def add(self, tally: "Tally") -> "Tally":
        """Return the sums over both."""
        return Tally(
            self.seeds + tally.seeds,
            self.injected + tally.injected,
            self.seeds_with + tally.seeds_with,
            self.commands + tally.commands,
            self.seeds_of + tally.seeds_of,
            self.counts + tally.counts,
            self.failures + tally.failures,
        )


EMPTY = Tally(0, Counter(), Counter(), [], Counter(), Counter(), [])


def features(outcome: Outcome) -> set[str]:
    """Return which of the `FEATURES`, and whether `TRANSFERS`, a run had."""
    names = {
        name
        for name, prefixes in FEATURES.items()
        if any(injection.startswith(prefixes) for injection in outcome.injected)
    }
    return names | ({TRANSFERS} if outcome.counts["clients: transferred"] else set())


def simulate(seeds: Iterable[int], commands_min: int = 0, core: str = OBJECTS) -> Tally:
    """Run some seeds in this process, each until it has `commands_min` commands, on a core or MIXED."""
    commands, seeds_of = list[int](), Counter[str]()
    injected, seeds_with, counts = Counter[str](), Counter[str](), Counter[str]()
    failures, number = list[tuple[int, str]](), 0
    for seed in seeds:
        outcome = run(plan_of(seed, commands_min=commands_min, core=core))
        commands.append(outcome.counts["commands"])
        seeds_of.update(features(outcome))
        number += 1
        injected += outcome.injected
        seeds_with.update(outcome.injected.keys())
        counts += outcome.counts
        if outcome.detected:
            counts["lost ends of the log noticed"] += 1
        if outcome.failure:
            failures.append((seed, outcome.failure))
    return Tally(number, injected, seeds_with, commands, seeds_of, counts, failures)


def simulate_on_all_processors(
    seeds: range, processes: int, commands_min: int = 0, core: str = OBJECTS
) -> Iterator[Tally]:
    """Run the seeds on `processes` processes (0: one per processor).

    Yield the results of every few seeds, in their order.

    An interrupt ends this process alone, which then ends the others.
    """
    tasks = [seeds[start : start + SEEDS_PER_TASK] for start in range(0, len(seeds), SEEDS_PER_TASK)]
    processes = min(processes or os.cpu_count() or 1, len(tasks))
    simulate_task = partial(simulate, commands_min=commands_min, core=core)
    if processes == 1:
        yield from map(simulate_task, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(
        processes, signal.signal, (signal.SIGINT, signal.SIG_IGN)
    ) as pool:
        yield from pool.imap(simulate_task, tasks)


def explain(
    seed: int,
    progress: Callable[[int], None] = lambda _actions: None,
    commands_min: int = 0,
    core: str = OBJECTS,
) -> Failure | None:
    """Run a seed again and shrink its schedule; None when nothing is broken.

    `progress` is told how many actions are left.
    """
    outcome = run(plan_of(seed, commands_min=commands_min, core=core))
    if not outcome.failure:
        return None
    plan = outcome.plan
    kind = _kind(outcome)

    def fails(smaller: Plan) -> bool:
        if _kind(run(smaller)) != kind:
            return False
        progress(len(smaller.actions))
        return True

    small = shrink(plan, fails)
    trace: list[str] = []
    failure = run(small, trace.append).failure
    schedule = [str(action) for action in small.actions]
    return Failure(seed, failure, len(plan.actions), schedule, trace, commands_min, core)


def _kind(outcome: Outcome) -> str:
    """Return the failure without its numbers, so that a smaller schedule that breaks the same rule counts."""
    return "".join("#" if character.isdigit() else character for character in outcome.failure)[:40]
