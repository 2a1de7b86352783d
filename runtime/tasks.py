"""Ending tasks for sure."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, Final, TypeVar

T = TypeVar("T")

AGAIN_S: Final = 1.0


async def end_tasks(tasks: "Iterable[asyncio.Task[Any]]") -> None:
    """Cancel tasks until they have ended, whatever they end with.

    Once is not enough: a library may take a cancellation that comes together with a lost connection for that,
    and go on; and before Python 3.12 `asyncio.wait_for` drops one that comes in the moment in which what it
    waits for is done.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        ended, pending = await asyncio.wait(pending, timeout=AGAIN_S)
        await asyncio.gather(*ended, return_exceptions=True)


async def to_the_end(program: Coroutine[Any, Any, T]) -> T:
    """Return what the program of a process returns, once every task that it leaves behind has ended.

    The event loop's own runner cancels them once and waits; it would wait for good for one that has lost its
    cancellation.
    """
    try:
        return await program
    finally:
        await end_tasks(asyncio.all_tasks() - {asyncio.current_task()})
