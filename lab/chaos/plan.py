"""Which faults come when: drawn from the seed, before anything runs. Pure."""

import random
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

PAUSE_S = (2.5, 4.0)
"""How long a process is stopped: longer than any lease."""
_WEIGHTS = {"engine": 4, "standby": 3, "gateway": 2, "feeds": 2, "ws-edge": 2, "persist-worker": 2}
"""By how a process's name begins, how often it is chosen; others: 1."""


class FaultKind(StrEnum):
    """The faults of a run."""

    KILL = "kill"
    """kill -9 of a process; the supervisor restarts it."""
    PAUSE = "pause"
    """SIGSTOP, later SIGCONT. Meanwhile somebody else takes over what has a leader."""
    REDIS_KILL = "redis kill"
    DATABASE_STOP = "database stop"
    """kill -9 of PostgreSQL with all its processes; it comes back later."""
    DATABASE_PAUSE = "database pause"
    """SIGSTOP of PostgreSQL with all its processes: connections stand, and nothing answers."""
    RESTART = "restart"
    """A process is asked to stop, and started again: `exchange restart`."""


class Fault(NamedTuple):
    """One fault, due when `share` of the orders have their answer."""

    share: float
    kind: FaultKind
    draw: float
    """Chooses the process, from 0 to 1."""
    seconds: float = 0.0


def draw_faults(
    seed: int, *, kills: int, pauses: int, redis_kills: int, database_outages: int, outage_s: float
) -> list[Fault]:
    """Return the faults in their order.

    Outages do not overlap; every other one finds the database stopped, the others paused.
    """
    dice = random.Random(seed)
    faults = [Fault(dice.uniform(0.02, 0.95), FaultKind.KILL, dice.random()) for _ in range(kills)]
    faults += [
        Fault(dice.uniform(0.02, 0.95), FaultKind.PAUSE, dice.random(), dice.uniform(*PAUSE_S))
        for _ in range(pauses)
    ]
    faults += [
        Fault(dice.uniform(0.02, 0.95), FaultKind.REDIS_KILL, dice.random()) for _ in range(redis_kills)
    ]
    for number in range(database_outages):
        kind = FaultKind.DATABASE_PAUSE if number % 2 else FaultKind.DATABASE_STOP
        share = (number + dice.uniform(0.2, 0.6)) / database_outages * 0.9
        faults.append(Fault(share, kind, 0.0, outage_s))
    return sorted(faults)


def choose(names: Sequence[str], draw: float) -> str:
    """Return one of `names`; those that decide more are chosen more often."""
    ordered = sorted(names)
    weights = [next((weight for prefix, weight in _WEIGHTS.items() if prefix in name), 1) for name in ordered]
    left = draw * sum(weights)
    for name, weight in zip(ordered, weights, strict=True):
        left -= weight
        if left < 0:
            return name
    return ordered[-1]
