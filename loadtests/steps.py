"""How the number of traders grows: in equal steps of equal length. Pure."""

from typing import NamedTuple


class Plan(NamedTuple):
    """A load test as it is meant to go."""

    traders: int = 20
    watchers: int = 4
    seconds: float = 60
    steps: int = 4

    def step_at(self, elapsed: float) -> int | None:
        """Return the number of the step, from 0, that runs after `elapsed` seconds.

        None when all are over.
        """
        step = int(elapsed * self.steps / self.seconds)
        return step if step < self.steps else None

    def traders_in(self, step: int) -> int:
        """Return how many traders a step has; the last has all of them, each at least one."""
        return -(-self.traders * (step + 1) // self.steps)

    def market_watchers(self) -> int:
        """Return how many of the watchers listen to markets."""
        return -(-self.watchers // 2)

    def account_watchers(self) -> int:
        """Return how many of the watchers listen to a trader's account."""
        return self.watchers - self.market_watchers()
