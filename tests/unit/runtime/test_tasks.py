import asyncio

import pytest

import runtime.tasks
from runtime.tasks import end_tasks


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
