"""A rolling restart of a running exchange, in the place of faults: `exchange restart`, while the load goes on."""

import asyncio
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Final

import msgspec

from chaos.faults import AFTERMATH_SHARE, LOOK_EVERY_S
from chaos.plan import FaultKind
from cli.own_exchange import EXCHANGE, OwnExchange, OwnExchangeError
from cli.restarting import Restarted

BEGIN_SHARE: Final = 0.1
"""Of the orders, so many are placed before the first process is restarted."""


class Rolling:
    """What was restarted; as `Faults`, as far as a run asks."""

    def __init__(self, exchange: OwnExchange, names: Sequence[str]) -> None:
        """Restart the processes of these names, all when there are none."""
        self._exchange = exchange
        self._names = names
        self._command: asyncio.subprocess.Process | None = None
        self.restarted: list[Restarted] = []
        self.done: Counter[FaultKind] = Counter()
        self.by_process: Counter[str] = Counter()
        self.down: dict[str, str] = {}
        self.back: list[float] = []
        self.is_over = False

    async def run(self, progress: Callable[[], float]) -> None:
        """Restart when there is load; `progress` is the share of the orders that have their answer.

        Raises:
            OwnExchangeError: the restart failed.
        """
        await _reach(progress, BEGIN_SHARE)
        self._command = await asyncio.create_subprocess_exec(
            *(*EXCHANGE, "restart", "--json", *self._names),
            env=self._exchange.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        said, complained = await self._command.communicate()
        if self._command.returncode:
            raise OwnExchangeError(f"exchange restart: {complained.decode()}")
        self.restarted = msgspec.json.decode(said, type=list[Restarted])
        for each in self.restarted:
            self.done[FaultKind.RESTART] += 1
            self.by_process[each.process] += 1
        await _reach(progress, progress() + AFTERMATH_SHARE)
        self.is_over = True

    def close(self) -> None:
        """Restart nothing more."""
        if self._command is not None:
            with suppress(ProcessLookupError):
                self._command.kill()


async def _reach(progress: Callable[[], float], share: float) -> None:
    while True:
        if progress() >= share:
            return
        await asyncio.sleep(LOOK_EVERY_S)


def longest_wait_s(accepted: Sequence[float], began: float, ended: float) -> float:
    """Return the longest time without an acceptance, of those that touch the time from `began` to `ended`; `accepted` is in order."""
    first = max(0, bisect_left(accepted, began) - 1)
    last = bisect_right(accepted, ended) + 1
    return max((after - before for before, after in pairwise(accepted[first:last])), default=ended - began)
