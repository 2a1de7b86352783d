"""Commands on their way to Redis, when the connection is lost with them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, cast

import hiredis
import pytest

from adapters.backlog import Backlog
from adapters.command_queue import CommandQueue
from adapters.fair_queue import PER_ACCOUNT_MAX, SIZE_FIRST
from adapters.redis_link import OnReply, RedisLink
from adapters.redis_links import RedisLinks
from adapters.replies import ReplyWaiter
from functions.api.errors import ApiError
from protocol import streams
from protocol.codec import decode_commands, encode_frame
from protocol.commands import CancelAllOrders, CancelOrder, Command, LoggedCommand, PlaceOrder
from protocol.orders import OrderType, RejectReason, Side, TimeInForce
from protocol.replies import Refused
from protocol.units import AccountId, OrderId, PriceTicks, QuantityLots, TimeMs
from runtime.settings import Settings
from tests.support.market_log import listing_of


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
        return [
            list(decode_commands(parts[-1]))
            for parts, _ in self.sent
            if parts[1] == streams.commands(0).encode()
        ]


class NoBacklog:
    age_ms: tuple[int, ...] = (0, 0)
    filled: tuple[float, ...] = (0.0, 0.0)
    clock_offset_ms: tuple[int, ...] = (0, 0)
    halted = frozenset[int]()

    def note_use(self) -> None:
        pass


class Queue(NamedTuple):
    queue: CommandQueue
    wire: Wire
    backlog: NoBacklog
    replies: ReplyWaiter

    def cancels(self, count: int) -> tuple[list[Command], list[asyncio.Future[Any]]]:
        commands: list[Command] = [
            CancelOrder(self.queue.next_request_id(), "test", AccountId(1), "BTCUSDT", OrderId(1 + number))
            for number in range(count)
        ]
        return commands, [self.queue.submit(each) for each in commands]

    def order(self, market: str) -> None:
        """Submit an order of an account of shard 0."""
        _ = self.queue.submit(
            PlaceOrder(
                *(self.queue.next_request_id(), "test", AccountId(0), "", market, Side.BUY),
                *(OrderType.LIMIT, TimeInForce.GTC, PriceTicks(1), QuantityLots(1)),
            )
        )

    def refuse(self, command: Command) -> None:
        self.replies.resolve(
            encode_frame([Refused(command.request_id, TimeMs(1), RejectReason.UNKNOWN_ORDER)])
        )


@asynccontextmanager
async def made(timeout_ms: int = 5_000, shards: int = 1) -> AsyncIterator[Queue]:
    wire, settings, backlog = Wire(), Settings(reply_timeout_ms=timeout_ms, shard_count=shards), NoBacklog()
    listing, replies = listing_of(settings.market_map()), ReplyWaiter(timeout_ms)
    queue = CommandQueue(
        cast("RedisLinks", wire), cast("RedisLink", wire), replies, cast("Backlog", backlog), "test",
        lambda: listing, settings,
    )  # fmt: skip
    yield Queue(queue, wire, backlog, replies)
    await queue.close()
    await replies.close()


LOST = ConnectionError("connection to Redis lost")


async def test_what_has_its_reply_is_not_sent_again() -> None:
    async with made() as each:
        commands, futures = each.cancels(3)
        await asyncio.sleep(0)
        assert each.wire.commands() == [commands]
        # The shard has read the batch and refused the second of it; the answer to the append is lost.
        each.refuse(commands[1])
        each.wire.sent[0][1](LOST)
        each.queue.retry_lost()
        assert each.wire.commands() == [commands, [commands[0], commands[2]]]
        assert [future.done() for future in futures] == [False, True, False]


async def test_it_is_sent_again_as_often_as_it_is_lost_until_the_time_is_up() -> None:
    async with made(300) as each:
        commands, (future,) = each.cancels(1)
        await asyncio.sleep(0)
        for number in range(3):
            each.wire.sent[number][1](LOST)
            each.queue.retry_lost()
        assert each.wire.commands() == [commands] * 4, "the same number each time"
        with pytest.raises(ApiError, match="-1007"):
            await future
        each.wire.sent[3][1](LOST)
        each.queue.retry_lost()
        assert len(each.wire.sent) == 4


async def test_what_redis_refuses_at_first_was_never_done_but_a_repetition_says_nothing_of_the_first() -> (
    None
):
    async with made() as each:
        _, (first,) = each.cancels(1)
        await asyncio.sleep(0)
        each.wire.sent[0][1](hiredis.ReplyError("OOM"))
        assert "-1001" in str(first.exception())
        (command,), (second,) = each.cancels(1)
        await asyncio.sleep(0)
        each.wire.sent[1][1](LOST)
        each.queue.retry_lost()
        each.wire.sent[2][1](hiredis.ReplyError("OOM"))
        assert not second.done()
        each.refuse(command)
        assert second.done()


async def test_replies_that_nobody_heard_are_asked_for_again() -> None:
    async with made() as each:
        commands, _ = each.cancels(3)
        await asyncio.sleep(0)
        each.wire.sent[0][1](b"1-0")
        each.refuse(commands[0])
        unsent, _ = each.cancels(1)  # of this tick: on its way anyway
        each.queue.repeat_unanswered()
        assert each.wire.commands() == [commands, commands[1:]]
        await asyncio.sleep(0)
        assert each.wire.commands()[2:] == [unsent]


async def test_what_its_shard_has_gone_past_without_an_answer_is_sent_once_more() -> None:
    async with made(2_000) as each:
        commands, _ = each.cancels(2)
        await asyncio.sleep(0)
        each.wire.sent[0][1](b"1-0")
        each.refuse(commands[0])
        each.backlog.age_ms = (900,)
        await asyncio.sleep(1.1)
        each.queue.repeat_overdue()
        assert len(each.wire.sent) == 1, "it may still wait its turn"
        each.backlog.age_ms = (0,)
        each.queue.repeat_overdue()
        each.queue.repeat_overdue()
        assert each.wire.commands() == [commands, commands[1:]]


def market_of(shard: int) -> str:
    """A market of one of two shards."""
    markets = Settings(shard_count=2).market_map()
    return markets.markets_of_shard(shard)[0].symbol


@pytest.mark.parametrize("behind", ["age", "memory"])
@pytest.mark.parametrize("shard", [0, 1])
async def test_a_markets_shard_that_is_behind_is_refused_at_once_to_accounts_of_every_shard(
    shard: int, behind: str
) -> None:
    async with made(shards=2) as each:
        if behind == "age":
            each.backlog.age_ms = (0,) * shard + (2_001,) + (0,) * (1 - shard)
        else:
            each.backlog.filled = (0.0,) * shard + (1.01,) + (0.0,) * (1 - shard)
        with pytest.raises(ApiError, match="-1008") as refused:
            each.order(market_of(shard))
        assert (refused.value.status, refused.value.retry_after_s) == (503, 1)
        if shard == 1:
            each.order(market_of(0))  # what does not need it goes on
        await asyncio.sleep(0)
        assert len(each.wire.sent) == shard


async def test_cancels_are_refused_last() -> None:
    async with made() as each:
        each.backlog.filled = (1.1,)
        with pytest.raises(ApiError, match="-1008"):
            each.order("BTCUSDT")
        each.cancels(1)
        each.backlog.filled = (1.21,)
        with pytest.raises(ApiError, match="-1008"):
            each.cancels(1)


def placing(queue: CommandQueue, account: int) -> tuple[int, asyncio.Future[Any]]:
    """Submit an order of an account; return its request id and its reply."""
    request_id = queue.next_request_id()
    order = PlaceOrder(
        *(request_id, "test", AccountId(account), "", "BTCUSDT", Side.BUY),
        *(OrderType.LIMIT, TimeInForce.GTC, PriceTicks(1), QuantityLots(1)),
    )
    return request_id, queue.submit(order)


def sent_ids(each: Queue) -> list[list[int]]:
    return [[cast("PlaceOrder", command).request_id for command in batch] for batch in each.wire.commands()]


async def test_a_shard_gets_no_more_than_it_can_take_and_accounts_take_turns() -> None:
    async with made() as each:
        first = [placing(each.queue, 1)[0] for _ in range(SIZE_FIRST)]
        heavy = [placing(each.queue, 1) for _ in range(PER_ACCOUNT_MAX)]
        with pytest.raises(ApiError, match="-1008"):
            placing(each.queue, 1)  # it alone has too much waiting
        light = placing(each.queue, 2)
        (cancel,), _ = each.cancels(1)
        await asyncio.sleep(0)
        assert sent_ids(each) == [first[:500], first[500:]], (
            "what fits goes in the order in which it came, 500 in a frame"
        )
        for request_id in first[:3]:
            each.replies.resolve(encode_frame([Refused(request_id, TimeMs(1), RejectReason.UNKNOWN_ORDER)]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert sent_ids(each)[2:] == [[cancel.request_id, heavy[0][0], light[0]]]
        # What waits here was never sent, so it is not repeated either.
        each.queue.repeat_unanswered()
        repeated = {request_id for batch in sent_ids(each)[3:] for request_id in batch}
        assert repeated == {*first[3:], cancel.request_id, heavy[0][0], light[0]}


async def test_what_waits_here_for_too_long_is_refused_and_was_not_sent() -> None:
    async with made(10_000) as each:
        each.backlog.age_ms = (300,)
        for _ in range(SIZE_FIRST):
            placing(each.queue, 1)
        _, waiting = placing(each.queue, 2)
        await asyncio.sleep(1.9)
        each.queue.adapt_windows()
        assert not waiting.done()
        await asyncio.sleep(0.3)
        each.queue.adapt_windows()
        with pytest.raises(ApiError, match="-1008"):
            await waiting
        assert sum(map(len, sent_ids(each))) == SIZE_FIRST


async def test_a_window_follows_what_the_shard_can_take() -> None:
    async with made() as each:
        each.backlog.age_ms = (201,)
        each.queue.adapt_windows()
        sent = [placing(each.queue, account)[0] for account in range(SIZE_FIRST)]
        await asyncio.sleep(0)
        assert sent_ids(each) == [sent[:500], sent[500:750]]


async def test_requests_to_cancel_all_of_the_same_orders_go_one_after_the_other() -> None:
    """Each would cost the market's shard a message for each order, also for those whose cancel is on
    its way.
    """
    async with made() as each:

        def cancel_all(account: int, market: str = "BTCUSDT") -> tuple[Command, asyncio.Future[Any]]:
            number = each.queue.next_request_id()
            command = CancelAllOrders(number, "test", AccountId(account), market)
            return command, each.queue.submit(command)

        asked = [cancel_all(1) for _ in range(4)]
        others = [cancel_all(1, "ETHUSDT"), cancel_all(2)]
        await asyncio.sleep(0)
        assert each.wire.commands() == [[asked[0][0], others[0][0], others[1][0]]], (
            "what is not the same does not wait"
        )
        each.refuse(asked[0][0])
        await asyncio.sleep(0.01)
        assert each.wire.commands()[1:] == [[asked[1][0]]]
        asked[2][1].cancel()  # its client has gone
        each.refuse(asked[1][0])
        await asyncio.sleep(0.01)
        assert each.wire.commands()[2:] == [[asked[3][0]]]
        each.refuse(asked[3][0])
        await asyncio.sleep(0.01)
        assert [future.result().request_id for _, future in (asked[0], asked[1], asked[3])] == [
            command.request_id for command, _ in (asked[0], asked[1], asked[3])
        ]
        last, _ = cancel_all(1)
        await asyncio.sleep(0.01)
        assert each.wire.commands()[3:] == [[last]], "nothing is left of those before"


async def test_a_client_that_goes_away_does_not_end_its_turn_to_cancel_all() -> None:
    async with made() as each:
        first, second = (
            CancelAllOrders(each.queue.next_request_id(), "test", AccountId(1), "BTCUSDT") for _ in range(2)
        )
        gone = each.queue.submit(first)
        waiting = each.queue.submit(second)
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0.01)
        assert each.wire.commands() == [[first]]
        each.refuse(first)
        await asyncio.sleep(0.01)
        assert each.wire.commands() == [[first], [second]]
        assert not waiting.done()


async def test_not_any_number_waits_to_cancel_the_same_orders() -> None:
    async with made() as each:
        commands = [
            CancelAllOrders(each.queue.next_request_id(), "test", AccountId(1), "BTCUSDT") for _ in range(12)
        ]
        futures = [each.queue.submit(command) for command in commands[:11]]
        with pytest.raises(ApiError, match="-1008"):
            await each.queue.submit(commands[11])
        each.wire.ready = False
        each.refuse(commands[0])
        await asyncio.sleep(0.01)
        assert all("-1001" in str(future.exception()) for future in futures[1:]), (
            "the shard is away: nothing was done"
        )
