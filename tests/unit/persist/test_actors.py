"""How often a worker that has nothing to do looks at its queues."""

import pytest
from dramatiq.common import dq_name

from persist.actors import ARCHIVE_QUEUE, POLL_MS, QUEUE, SLOW_POLL_MS, make_broker


@pytest.mark.parametrize(
    ("queue", "waits_ms"), [(QUEUE, POLL_MS), (ARCHIVE_QUEUE, SLOW_POLL_MS), (dq_name(QUEUE), SLOW_POLL_MS)]
)
def test_only_what_orders_wait_for_is_looked_for_all_the_time(queue: str, waits_ms: int) -> None:
    with_nobody_there = "redis://127.0.0.1:1"
    consumer = make_broker(with_nobody_there).consume(queue, timeout=SLOW_POLL_MS)
    assert vars(consumer)["timeout"] == waits_ms
