import asyncio
from contextlib import suppress

import pytest

import runtime.tasks
from runtime.tasks import end_tasks, to_the_end


async def test_a_task_that_survives_a_cancellation_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.tasks, "AGAIN_S", 0.01)
    canceled = 0

    async def stubborn() -> None:
        nonlocal canceled
        while True:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                canceled += 1
                if canceled == 3:
                    raise

    async def failing() -> None:
        raise RuntimeError

    tasks = [asyncio.create_task(stubborn()), asyncio.create_task(failing())]
    await asyncio.sleep(0)
    await end_tasks(tasks)
    assert canceled == 3
    assert all(task.done() for task in tasks)


def test_a_process_ends_although_a_task_that_nobody_ends_loses_a_cancellation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime.tasks, "AGAIN_S", 0.01)
    left: list[asyncio.Task[None]] = []

    async def deaf() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(60)

    async def program() -> str:
        left.append(asyncio.create_task(deaf()))
        await asyncio.sleep(0)
        return "done"

    assert asyncio.run(to_the_end(program())) == "done"
    assert left[0].cancelled()
