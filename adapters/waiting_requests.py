"""Requests that wait for replies, and when their time is up. Pure: times are arguments, in seconds.

All requests wait equally long, so the oldest is always the first to time out.
"""

from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

from protocol.commands import Command

T = TypeVar("T")


class Waiting(NamedTuple, Generic[T]):
    """One request that waits."""

    deadline_s: float
    waiter: T
    """Who gets the reply."""
    command: Command | None
    """The command that may be sent again for its reply; None: a query."""


class WaitingRequests(Generic[T]):
    """The requests that wait, oldest first."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._waiting: dict[int, Waiting[T]] = {}

    def __len__(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    def add(self, request_id: int, now_s: float, waiter: T, command: Command | None = None) -> None:
        """Let a request wait from `now_s` on, which is not before that of any other."""
        self._waiting[request_id] = Waiting(now_s + self.timeout_s, waiter, command)

    def take(self, request_id: int) -> Waiting[T] | None:
        """Remove a request that waits no longer, and return it; None: it does not wait."""
        return self._waiting.pop(request_id, None)

    def is_waiting(self, request_id: int, now_s: float) -> bool:
        """Return whether a request still waits; one whose time is up does not, even before `expire`."""
        waiting = self._waiting.get(request_id)
        return waiting is not None and waiting.deadline_s > now_s

    def younger_than(self, age_s: float, now_s: float) -> set[int]:
        """Return the ids of the requests that have waited for less than `age_s`."""
        soonest_s = now_s + self.timeout_s - age_s
        return {request_id for request_id, waiting in self._waiting.items() if waiting.deadline_s > soonest_s}

    def commands(self, age_s: float, now_s: float) -> Iterator[tuple[float, Command]]:
        """Yield (seconds waited, command) of commands that have waited at least `age_s`, oldest first."""
        for deadline_s, _, command in self._waiting.values():
            waited_s = now_s - deadline_s + self.timeout_s
            if waited_s < age_s:
                return
            if command is not None and deadline_s > now_s:
                yield waited_s, command

    def waited_s(self, waiting: Waiting[T], now_s: float) -> float:
        """Return how long a request has waited."""
        return now_s - (waiting.deadline_s - self.timeout_s)

    def expire(self, now_s: float) -> Iterator[T]:
        """Remove the requests whose time is up, and yield who waits for them, oldest first."""
        while self._waiting:
            request_id, waiting = next(iter(self._waiting.items()))
            if waiting.deadline_s > now_s:
                return
            del self._waiting[request_id]
            yield waiting.waiter
