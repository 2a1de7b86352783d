"""Waiting in a loop of asyncio until something holds."""

import asyncio
from collections.abc import Callable


async def until(is_so: Callable[[], bool]) -> None:
    """Look at every turn of the event loop."""
    while True:
        if is_so():
            return
        await asyncio.sleep(0)
