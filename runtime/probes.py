"""Whether a process lives and is ready, as `/livez` and `/readyz` say it (runtime/metrics.py serves them).

It lives while its main loop turns: the loop says so itself, so a thread that answers for a loop which hangs
does not hide that. It is ready when nothing that it has registered speaks against it. A check answers at once
from what the process knows anyway.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from runtime.tasks import end_tasks

TURN_S_MAX: Final = 30.0
"""A loop that has not turned for so long hangs: longer than every wait for Redis or the database in it, and
than any batch."""
START_S_MAX: Final = 900.0
"""What comes before the first turn may take longer: a shard applies what came since its snapshot."""
_TURN_EVERY_S: Final = 1.0

Check = Callable[[], str | None]
"""Returns why the process is not ready; None: nothing speaks against it."""


class Probes:
    """What one process says of itself. The loop writes, the server's threads read."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._checks: dict[str, Check] = {}
        self._lives: dict[str, Check] = {}
        self.starting("starting")

    def starting(self, what: str) -> None:
        """Note that the loop is not there yet, or once more: the process does `what` first."""
        self._doing: str | None = what
        self._turned_s, self._turn_s_max = self._now_s(), START_S_MAX

    def turned(self) -> None:
        """Note that the main loop has come round.

        Also to be said in between by what takes long and gets further.
        """
        self._turned_s = self._now_s()
        if self._doing is not None:
            self._doing, self._turn_s_max = None, TURN_S_MAX

    def leaving(self) -> None:
        """Note that the process is about to end: it finishes what it has, and should get no more."""
        self.ready_when("process", lambda: "it is about to end")

    def ready_when(self, name: str, check: Check, *, once: bool = False) -> None:
        """Have `check` decide whether the process is ready, too.

        It takes the place of an earlier one called `name`.

        `once`: only until nothing speaks against it for the first time. That is for what processes behind a
        balancer share: were all of them taken out for it, clients would reach nobody, instead of hearing from
        one what is the matter.
        """
        self._checks = {**self._checks, name: _Once(check) if once else check}

    def alive_when(self, name: str, check: Check) -> None:
        """Have `check` decide whether the process lives, too.

        It takes the place of an earlier one called `name`.
        """
        self._lives = {**self._lives, name: check}

    def why_not_alive(self) -> str | None:
        """Return what says that the main loop hangs, or that the process does nothing for anybody."""
        silent_s = self._now_s() - self._turned_s
        if silent_s <= self._turn_s_max:
            return next((reason for check in self._lives.values() if (reason := check()) is not None), None)
        return f"the main loop has not turned for {silent_s:.0f} s" + (
            f": {self._doing}" if self._doing else ""
        )

    def why_not_ready(self) -> dict[str, str]:
        """Return everything that speaks against it, by the name of its check; nothing: the process is
        ready.
        """
        if self._doing is not None:
            return {"process": self._doing}
        found = {"process": self.why_not_alive(), **{name: check() for name, check in self._checks.items()}}
        return {name: reason for name, reason in found.items() if reason is not None}

    @asynccontextmanager
    async def turning(self) -> AsyncIterator[None]:
        """Say that the running event loop turns, about once a second, as long as the context lasts."""
        task = asyncio.create_task(self._turn())
        try:
            yield
        finally:
            await end_tasks([task])

    async def _turn(self) -> None:
        while True:
            self.turned()
            await asyncio.sleep(_TURN_EVERY_S)


class _Once:
    """A check that has nothing more to say once it had nothing to say."""

    def __init__(self, check: Check) -> None:
        self._check: Check | None = check

    def __call__(self) -> str | None:
        reason = self._check() if self._check is not None else None
        if reason is None:
            self._check = None
        return reason


class Reach:
    """Whether something that a process needs answered when it was asked last."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._away: str | None = "not asked yet"

    def answered(self) -> None:
        """Note that it did."""
        self._away = None

    def failed(self, error: BaseException) -> None:
        """Note that it did not."""
        self._away = str(error) or type(error).__name__

    def why_not(self) -> str | None:
        """Return why it cannot be used; for `Probes.ready_when`."""
        return None if self._away is None else f"{self._name} does not answer: {self._away}"
