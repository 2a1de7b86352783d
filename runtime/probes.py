"""Liveness and readiness of a process, for `/livez` and `/readyz` (served by runtime/metrics.py).

A process is alive while its main loop turns. The loop itself reports this, so a thread that still answers
does not hide a hung loop. A process is ready when none of its registered checks fails. A check answers at
once from what the process already knows.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from runtime.tasks import end_tasks

TURN_S_MAX: Final = 30.0
"""A loop that has not turned for this time is considered hung.

It is longer than any batch, and than any wait of the loop for Redis or the database.
"""
START_S_MAX: Final = 900.0
"""The time before the first turn may be longer: a shard applies the input since its snapshot."""
_TURN_EVERY_S: Final = 1.0

Check = Callable[[], str | None]
"""Returns why the process is not ready, or None."""


class Probes:
    """The probes of one process. The main loop writes, the server's threads read."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._checks: dict[str, Check] = {}
        self._lives: dict[str, Check] = {}
        self.starting("starting")

    def starting(self, step: str) -> None:
        """Record that the main loop is not running yet, or not any more; the process first does `step`."""
        self._doing: str | None = step
        self._turned_s, self._turn_s_max = self._now_s(), START_S_MAX

    def turned(self) -> None:
        """Record that the main loop has turned.

        Long work that makes progress calls it, too.
        """
        self._turned_s = self._now_s()
        if self._doing is not None:
            self._doing, self._turn_s_max = None, TURN_S_MAX

    def leaving(self) -> None:
        """Record that the process is stopping: it finishes its work and should get no more."""
        self.ready_when("process", lambda: "it is about to end")

    def ready_when(self, name: str, check: Check, *, once: bool = False) -> None:
        """Make readiness depend on `check`, too.

        It replaces an earlier check of the same name.

        `once`: only until it first succeeds. Use this for resources that all processes behind a load balancer
        share: if all of them became unready, clients would reach none, instead of an error message from one.
        """
        self._checks = {**self._checks, name: _Once(check) if once else check}

    def alive_when(self, name: str, check: Check) -> None:
        """Make liveness depend on `check`, too.

        It replaces an earlier check of the same name.
        """
        self._lives = {**self._lives, name: check}

    def why_not_alive(self) -> str | None:
        """Return why the process is considered hung or useless, or None."""
        silent_s = self._now_s() - self._turned_s
        if silent_s <= self._turn_s_max:
            return next((reason for check in self._lives.values() if (reason := check()) is not None), None)
        return f"the main loop has not turned for {silent_s:.0f} s" + (
            f": {self._doing}" if self._doing else ""
        )

    def why_not_ready(self) -> dict[str, str]:
        """Return the reasons against readiness, by the name of their check; empty: the process is ready."""
        if self._doing is not None:
            return {"process": self._doing}
        results = {"process": self.why_not_alive(), **{name: check() for name, check in self._checks.items()}}
        return {name: reason for name, reason in results.items() if reason is not None}

    @asynccontextmanager
    async def turning(self) -> AsyncIterator[None]:
        """Record about once a second that the running event loop turns, as long as the context lasts."""
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
    """A check that succeeds for good once it has succeeded."""

    def __init__(self, check: Check) -> None:
        self._check: Check | None = check

    def __call__(self) -> str | None:
        reason = self._check() if self._check is not None else None
        if reason is None:
            self._check = None
        return reason


class Reach:
    """Whether a dependency of a process answered the last request."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._away: str | None = "not asked yet"

    def answered(self) -> None:
        """Record that it answered."""
        self._away = None

    def failed(self, error: BaseException) -> None:
        """Record that it did not answer."""
        self._away = str(error) or type(error).__name__

    def why_not(self) -> str | None:
        """Return why it cannot be used, or None; for `Probes.ready_when`."""
        return None if self._away is None else f"{self._name} does not answer: {self._away}"
