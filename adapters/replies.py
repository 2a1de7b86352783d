"""The requests that wait for replies.

Replies arrive in frames on this process's own channel, and are matched by request id.
"""

import asyncio
from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec
import structlog

from adapters.metrics import REPLY
from functions.api.errors import ApiError, status_unknown
from protocol.codec import decode_replies
from protocol.commands import Command
from protocol.replies import Reply
from runtime.tasks import end_tasks

_SWEEP_S: Final = 0.05

_log = structlog.get_logger()


class _Waiting(NamedTuple):
    deadline_s: float
    reply: asyncio.Future[Reply]
    command: Command | None
    """The command to repeat if its answer is missing; None: a query."""


class ReplyWaiter:
    """The waiting requests. All have the same timeout, so the oldest is always the first to time out."""

    def __init__(self, timeout_ms: int) -> None:
        self._timeout_s = timeout_ms / 1000
        self._waiting: dict[int, _Waiting] = {}
        self._last_id = 0
        self._loop = asyncio.get_running_loop()
        self._sweeper = self._loop.create_task(self._sweep())

    def __len__(self) -> int:
        """The number of waiting requests."""
        return len(self._waiting)

    def next_request_id(self) -> int:
        """Return a new request id."""
        self._last_id += 1
        return self._last_id

    def wait_for(self, request_id: int, command: Command | None = None) -> asyncio.Future[Reply]:
        """Return a future of the reply, or of `ApiError` (status unknown) if none comes in time."""
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._waiting[request_id] = _Waiting(self._loop.time() + self._timeout_s, future, command)
        return future

    def is_waiting(self, request_id: int) -> bool:
        """Return whether a request still waits; one whose time is up no longer does."""
        waiting = self._waiting.get(request_id)
        return waiting is not None and waiting.deadline_s > self._loop.time()

    def waiting_for(self, age_s: float) -> set[int]:
        """Return the ids of the requests that have waited for less than `age_s`."""
        soonest_s = self._loop.time() + self._timeout_s - age_s
        return {request_id for request_id, each in self._waiting.items() if each.deadline_s > soonest_s}

    def commands(self, age_s: float = 0) -> Iterator[tuple[float, Command]]:
        """Yield (seconds waited, command) of commands that have waited at least `age_s`, oldest first."""
        now_s = self._loop.time()
        for deadline_s, _, command in self._waiting.values():
            waited_s = now_s - deadline_s + self._timeout_s
            if waited_s < age_s:
                return
            if command is not None and deadline_s > now_s:
                yield waited_s, command

    def resolve(self, payload: bytes) -> None:
        """Distribute one frame of replies."""
        try:
            replies = decode_replies(payload)
        except msgspec.MsgspecError as error:
            _log.warning("reply frame not understood", error=str(error))
            return
        first_deadline: float | None = None
        for reply in replies:
            waiting = self._waiting.pop(reply.request_id, None)
            if waiting is not None and not waiting.reply.done():
                waiting.reply.set_result(reply)
                first_deadline = first_deadline or waiting.deadline_s
        if first_deadline is not None:
            REPLY.observe(self._loop.time() - (first_deadline - self._timeout_s))

    def fail(self, request_id: int, error: ApiError) -> None:
        """Answer one request with an error."""
        waiting = self._waiting.pop(request_id, None)
        if waiting is not None and not waiting.reply.done():
            waiting.reply.set_exception(error)

    async def close(self) -> None:
        """Stop timing out."""
        await end_tasks([self._sweeper])

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = self._loop.time()
            while self._waiting:
                request_id, waiting = next(iter(self._waiting.items()))
                if waiting.deadline_s > now:
                    break
                self.fail(request_id, status_unknown())
