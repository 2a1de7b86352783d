"""Reliable cancellation of tasks."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, Final, TypeVar

T = TypeVar("T")

AGAIN_S: Final = 1.0


async def end_tasks(tasks: "Iterable[asyncio.Task[Any]]") -> None:
    """Cancel tasks until they have ended, with any result.

    One cancellation is not enough: a library may treat a cancellation that arrives together with a lost
    connection as the loss, and continue; and before Python 3.12 `asyncio.wait_for` drops one that arrives at
    the moment when the awaited operation completes.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        ended, pending = await asyncio.wait(pending, timeout=AGAIN_S)
        await asyncio.gather(*ended, return_exceptions=True)


async def to_the_end(program: Coroutine[Any, Any, T]) -> T:
    """Return the result of a process's program once all its remaining tasks have ended.

    The event loop's own runner cancels them once and waits; it would wait forever for a task that has lost
    its cancellation.
    """
    try:
        return await program
    finally:
        await end_tasks(asyncio.all_tasks() - {asyncio.current_task()})
