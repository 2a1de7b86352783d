"""Shrinks a failing schedule: removes what the failure does not need, then calms the rest."""

from collections.abc import Callable, Sequence

from lab.simulation.schedule import Action, Plan

Fails = Callable[[Plan], bool]


def shrink(plan: Plan, fails: Fails, tries_max: int = 2_000) -> Plan:
    """Return a minimal plan that still fails, or the smallest one found after `tries_max` runs."""
    tries = _Tries(plan, fails, tries_max)
    actions = list(plan.actions)
    while True:
        before = actions
        actions = _simplified(_without_parts(actions, tries), tries)
        if actions == before or tries.left <= 0:
            return plan._replace(actions=tuple(actions))


class _Tries:
    """Asks whether some actions still fail, a bounded number of times."""

    def __init__(self, plan: Plan, fails: Fails, left: int) -> None:
        self._plan = plan
        self._fails = fails
        self.left = left

    def fail(self, actions: Sequence[Action]) -> bool:
        """Return whether these actions fail; False when there were too many tries."""
        self.left -= 1
        return self.left >= 0 and self._fails(self._plan._replace(actions=tuple(actions)))


def _without_parts(actions: list[Action], tries: _Tries) -> list[Action]:
    """Leave out ever smaller pieces, down to single actions."""
    size = max(1, len(actions) // 2)
    while True:
        start = 0
        while start < len(actions):
            fewer = actions[:start] + actions[start + size :]
            if len(fewer) < len(actions) and tries.fail(fewer):
                actions = fewer
            else:
                start += size
        if size == 1:
            return actions
        size //= 2


def _simplified(actions: list[Action], tries: _Tries) -> list[Action]:
    """Leave out faults and waits, and make pauses short."""
    for number, action in enumerate(actions):
        for calmer in _calmer(action):
            tried = [*actions[:number], calmer, *actions[number + 1 :]]
            if tries.fail(tried):
                actions = tried
                break
    return actions


def _calmer(action: Action) -> list[Action]:
    calmer = []
    if action.fault is not None:
        calmer.append(action._replace(fault=None))
        if action.fault.length > 1:
            calmer.append(action._replace(fault=action.fault._replace(length=action.fault.length // 2)))
    if action.wait_ms:
        calmer.append(action._replace(wait_ms=0))
    return calmer
