"""The replies of shards, handed to the requests that wait for them.

Replies arrive in frames on this process's own channel, and are matched by request id.
"""

import asyncio
from collections.abc import Iterator
from typing import Final

import msgspec
import structlog

from adapters.metrics import REPLY
from adapters.waiting_requests import Waiting, WaitingRequests
from functions.api.errors import ApiError, status_unknown
from protocol.codec import decode_replies
from protocol.commands import Command
from protocol.replies import Reply
from runtime.tasks import end_tasks

_SWEEP_S: Final = 0.05

_log = structlog.get_logger()


class ReplyWaiter:
    """The requests of this process that wait, each with a future."""

    def __init__(self, timeout_ms: int) -> None:
        self._waiting = WaitingRequests[asyncio.Future[Reply]](timeout_ms / 1000)
        self._last_id = 0
        self._loop = asyncio.get_running_loop()
        self._sweeper = self._loop.create_task(self._sweep())

    def __len__(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    def next_request_id(self) -> int:
        """Return a new request id."""
        self._last_id += 1
        return self._last_id

    def wait_for(self, request_id: int, command: Command | None = None) -> asyncio.Future[Reply]:
        """Return a future of the reply; it raises `ApiError` (status unknown) when no reply comes in time.

        `command` may be sent again while it waits (`commands`).
        """
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._waiting.add(request_id, self._loop.time(), future, command)
        return future

    def is_waiting(self, request_id: int) -> bool:
        """Return whether a request still waits; one whose time is up does not, even before it is told."""
        return self._waiting.is_waiting(request_id, self._loop.time())

    def waiting_for(self, age_s: float) -> set[int]:
        """Return the ids of the requests that have waited for less than `age_s`."""
        return self._waiting.younger_than(age_s, self._loop.time())

    def commands(self, age_s: float = 0) -> Iterator[tuple[float, Command]]:
        """Yield (seconds waited, command) of commands that have waited at least `age_s`, oldest first."""
        return self._waiting.commands(age_s, self._loop.time())

    def resolve(self, payload: bytes) -> None:
        """Distribute one frame of replies."""
        try:
            replies = decode_replies(payload)
        except msgspec.MsgspecError as error:
            _log.warning("reply frame not understood", error=str(error))
            return
        first: Waiting[asyncio.Future[Reply]] | None = None
        for reply in replies:
            waiting = self._waiting.take(reply.request_id)
            if waiting is not None and not waiting.waiter.done():
                waiting.waiter.set_result(reply)
                first = first or waiting
        if first is not None:
            REPLY.observe(self._waiting.waited_s(first, self._loop.time()))

    def fail(self, request_id: int, error: ApiError) -> None:
        """Answer one request with an error."""
        waiting = self._waiting.take(request_id)
        if waiting is not None and not waiting.waiter.done():
            waiting.waiter.set_exception(error)

    async def close(self) -> None:
        """Stop timing out."""
        await end_tasks([self._sweeper])

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            for waiter in self._waiting.expire(self._loop.time()):
                if not waiter.done():
                    waiter.set_exception(status_unknown())
