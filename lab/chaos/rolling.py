"""A rolling restart of a running exchange, or other steps of an upgrade, instead of faults, under load."""

import asyncio
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from itertools import pairwise
from typing import Final

import msgspec

from cli.local.own_exchange import EXCHANGE, OwnExchange, OwnExchangeError
from cli.restarting import Restarted
from lab.chaos.faults import AFTERMATH_SHARE, LOOK_EVERY_S
from lab.chaos.plan import FaultKind

BEGIN_SHARE: Final = 0.1
"""The share of the orders that are placed before the first restart."""


class Rolling:
    """The steps and what they restarted; as `Faults`, as far as a run asks."""

    def __init__(self, exchange: OwnExchange, steps: "Sequence[Step]") -> None:
        """Carry out `steps`, one after the other; orders are placed before, between and after them."""
        self.exchange = exchange
        self._steps = steps
        self._command: asyncio.subprocess.Process | None = None
        self.opened = ExitStack()
        """What a step has started; it is closed when the run has seen everything."""
        self.restarted: list[Restarted] = []
        self.done: Counter[FaultKind] = Counter()
        self.by_process: Counter[str] = Counter()
        self.down: dict[str, str] = {}
        self.back: list[float] = []
        self.is_over = False

    async def run(self, progress: Callable[[], float]) -> None:
        """Begin when there is load; `progress` is the share of the orders that have their answer.

        Raises:
            OwnExchangeError: a step failed.
        """
        await _reach(progress, BEGIN_SHARE)
        for step in self._steps:
            await step(self)
            await _reach(progress, progress() + AFTERMATH_SHARE)
        self.is_over = True

    async def command(self, *arguments: str) -> str:
        """Return what an `exchange` command prints.

        Raises:
            OwnExchangeError: the command failed.
        """
        self._command = await asyncio.create_subprocess_exec(
            *(*EXCHANGE, *arguments),
            env=self.exchange.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await self._command.communicate()
        if self._command.returncode:
            raise OwnExchangeError(f"exchange {' '.join(arguments)}: {(errors or output).decode()}")
        return output.decode()

    async def restart(self, names: Sequence[str] = ()) -> None:
        """Restart the processes of these names, all when there are none.

        Raises:
            OwnExchangeError: the restart failed.
        """
        restarted = msgspec.json.decode(await self.command("restart", "--json", *names), type=list[Restarted])
        self.restarted += restarted
        for restart in restarted:
            self.done[FaultKind.RESTART] += 1
            self.by_process[restart.process] += 1

    def close(self) -> None:
        """Stop restarting, and end the processes that the steps have started."""
        if self._command is not None:
            with suppress(ProcessLookupError):
                self._command.kill()
        self.opened.close()


Step = Callable[[Rolling], Awaitable[None]]


def restart_of(names: Sequence[str]) -> Step:
    """Return the step that restarts the processes of these names, all when there are none."""

    async def step(rolling: Rolling) -> None:
        await rolling.restart(names)

    return step


async def _reach(progress: Callable[[], float], share: float) -> None:
    while True:
        if progress() >= share:
            return
        await asyncio.sleep(LOOK_EVERY_S)


def longest_wait_s(accepted: Sequence[float], began: float, ended: float) -> float:
    """Return the longest time without an acceptance, of those that touch the time from `began` to `ended`.

    `accepted` is in order.
    """
    first = max(0, bisect_left(accepted, began) - 1)
    last = bisect_right(accepted, ended) + 1
    return max((after - before for before, after in pairwise(accepted[first:last])), default=ended - began)
