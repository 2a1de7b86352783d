"""An engine worker that is killed at a delivery: `python -m tests.support.dying_engine`, which and how the
environment says.

DEATH counts the deaths so far, and decides between which two steps this one happens; empty: never.
BROKEN_DEDUP takes messages as often as they come, for the control.
"""

import os
import signal
from collections.abc import Iterator
from typing import NoReturn

from engine_worker.core.messages import Messages
from engine_worker.main import main
from protocol.commands import MessageFrame, ShardMessage
from stream_log.interface import Outgoing
from stream_log.redis_log import RedisStreamLog


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still here")


def die_at_a_delivery(death: int) -> None:
    """Die at the 3rd to 5th delivery: two times of three when the messages are out but still in the outbox,
    else before they are."""
    count = 0
    deliver, drop = RedisStreamLog.deliver, RedisStreamLog._drop_delivered

    def counted_deliver(log: RedisStreamLog, shard: int, outgoing: Outgoing) -> None:
        nonlocal count
        count += 1
        if count == 3 + death % 3 and death % 3 == 0:
            die()
        deliver(log, shard, outgoing)

    def counted_drop(log: RedisStreamLog, shard: int, outgoing: Outgoing) -> None:
        if count == 3 + death % 3:
            die()
        drop(log, shard, outgoing)

    RedisStreamLog.deliver = counted_deliver  # type: ignore[assignment, method-assign]
    RedisStreamLog._drop_delivered = counted_drop  # type: ignore[assignment, method-assign]


def all_messages(messages: Messages, frame: MessageFrame) -> Iterator[ShardMessage]:
    yield from frame.messages
    messages._state.received[frame.source] = frame.first_sequence + len(frame.messages) - 1


if __name__ == "__main__":
    if os.environ["DEATH"]:
        die_at_a_delivery(int(os.environ["DEATH"]))
    if os.environ.get("BROKEN_DEDUP"):
        Messages.new_messages = all_messages  # type: ignore[assignment, method-assign]
    main()
