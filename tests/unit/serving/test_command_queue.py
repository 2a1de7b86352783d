"""Commands on their way to Redis, when the connection is lost with them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import hiredis
import pytest

from protocol import streams
from protocol.codec import decode_commands, encode_frame
from protocol.commands import CancelOrder, LoggedCommand
from protocol.orders import RejectReason
from protocol.replies import Refused
from protocol.units import AccountId, OrderId, TimeMs
from runtime.settings import Settings
from serving.backlog import Backlog
from serving.command_queue import CommandQueue
from serving.redis_link import OnReply, RedisLink
from serving.redis_links import RedisLinks
from serving.replies import ReplyWaiter


class Wire:
    """A link whose connection the test holds."""

    ready = True

    def __init__(self) -> None:
        self.sent: list[tuple[list[bytes], OnReply]] = []

    def send(self, command: bytes, on_reply: OnReply) -> None:
        reader = hiredis.Reader()
        reader.feed(command)
        self.sent.append((cast("list[bytes]", reader.gets()), on_reply))

    def of(self, _shard: int) -> "Wire":
        return self

    def commands(self) -> list[list[LoggedCommand]]:
        return [list(decode_commands(parts[-1])) for parts, _ in self.sent if parts[1] == streams.commands(0).encode()]


class NoBacklog:
    age_ms = (0,)
    halted = frozenset[int]()


@pytest.fixture
async def replies() -> AsyncIterator[ReplyWaiter]:
    waiter = ReplyWaiter(5_000)
    yield waiter
    await waiter.close()


async def test_what_has_its_reply_is_not_sent_again(replies: ReplyWaiter) -> None:
    wire, settings = Wire(), Settings()
    queue = CommandQueue(
        cast("RedisLinks", wire), cast("RedisLink", wire), replies, cast("Backlog", NoBacklog()), "test",
        settings.market_map(), settings,
    )  # fmt: skip
    commands = [
        CancelOrder(queue.next_request_id(), "test", AccountId(1), "BTCUSDT", OrderId(number)) for number in (1, 2, 3)
    ]
    futures: list[asyncio.Future[Any]] = [queue.submit(each) for each in commands]
    await asyncio.sleep(0)
    assert wire.commands() == [commands]
    # The shard has read the batch and refused the second of it; the answer to the append is lost.
    replies.resolve(encode_frame([Refused(commands[1].request_id, TimeMs(1), RejectReason.UNKNOWN_ORDER)]))
    wire.sent[0][1](ConnectionError("connection to Redis lost"))
    queue.retry_lost()
    assert wire.commands() == [commands, [commands[0], commands[2]]]
    assert [each.done() for each in futures] == [False, True, False]
    wire.sent[1][1](ConnectionError("connection to Redis lost"))
    queue.retry_lost()
    assert len(wire.sent) == 2, "a second loss leaves it unknown what became of them"
    assert "unknown" in str(futures[0].exception())
    assert futures[2].exception() is not None
