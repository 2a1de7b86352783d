"""Streams under load, through disconnects of the client and of the edge's own connection to Redis: nothing is missing or doubled."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import redis
import redis.asyncio
from websockets.asyncio.client import ClientConnection, connect

from protocol import streams
from protocol.codec import encode_frame
from protocol.events import DepthChanged, OrderAccepted, OrderClosed, OrderFilled, TradeExecuted
from protocol.market_data import DepthSnapshot
from protocol.orders import Side
from protocol.streams import EVENTS_FIELD
from tests.market_log import BTC, START_MS, market_map
from tests.shard_log import FIRST_ACCOUNT, ShardLog
from ws_edge.payloads import levels

MARKETS = market_map()
MARKET = MARKETS.by_symbol[BTC]
COMMANDS = 3_000
COMMANDS_PER_S = 600
TIMEOUT_S = 40
LISTEN_KEY = "k" * 64

Book = tuple[dict[str, str], dict[str, str]]

pytestmark = pytest.mark.usefixtures("feeds")


@pytest.fixture(scope="module")
def log() -> ShardLog:
    log = ShardLog(7, MARKETS, START_MS)
    log.trade(COMMANDS, batch=3, gap_ms=5)
    return log


@asynccontextmanager
async def load(redis_url: str, log: ShardLog) -> AsyncIterator[None]:
    """Write the log's events at a steady rate meanwhile."""
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        done = asyncio.Event()

        async def write() -> None:
            loop = asyncio.get_running_loop()
            pause = COMMANDS / COMMANDS_PER_S / len(log.entries)
            due = loop.time()
            for shard, _, events in log.entries:
                await client.xadd(streams.events(shard), {EVENTS_FIELD: encode_frame(events)})
                due += pause
                await asyncio.sleep(max(0.0, due - loop.time()))
            done.set()

        task = asyncio.create_task(write())
        try:
            yield
            await asyncio.wait_for(done.wait(), TIMEOUT_S)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def cut_off(redis_url: str, times: int, pause_s: float) -> int:
    """Break the edge's listening connection again and again; return how often one was broken."""
    killed = 0
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        while killed < times:
            await asyncio.sleep(pause_s)
            for each in await client.client_list():
                if int(each["sub"]) > 1:
                    killed += int(await client.client_kill_filter(_id=each["id"]))
    return killed


def truths(log: ShardLog) -> dict[int, list[tuple[Side, str, str]]]:
    """What each change of BTCUSDT's sequence does to the book."""
    found: dict[int, list[tuple[Side, str, str]]] = {}
    for event in log.events():
        if isinstance(event, TradeExecuted | DepthChanged) and event.market == BTC:
            changes = event.changes if isinstance(event, DepthChanged) else ()
            found[event.sequence] = [
                (each.side, MARKET.format_price(each.price), MARKET.format_quantity(each.quantity)) for each in changes
            ]
    return found


def change(book: Book, side: Side, price: str, quantity: str) -> None:
    levels_of_side = book[side is Side.SELL]
    levels_of_side[price] = quantity
    if quantity == "0.00000000":
        del levels_of_side[price]


async def snapshot(redis_url: str) -> tuple[int, Book]:
    """What REST's depth would say."""
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        value: Any = await client.get(streams.depth(0, BTC))
    if value is None:
        return 0, ({}, {})
    found = msgspec.msgpack.decode(value, type=DepthSnapshot)
    return found.sequence, (dict(levels(MARKET, found.bids)), dict(levels(MARKET, found.asks)))


async def test_a_local_book_is_the_true_one_at_every_update(redis_url: str, edge: str, log: ShardLog) -> None:
    changes = truths(log)
    last = max(changes)
    truth: Book = ({}, {})
    reached = compared = connections = 0
    dice = random.Random(5)
    async with asyncio.timeout(TIMEOUT_S), load(redis_url, log):
        killer = asyncio.create_task(cut_off(redis_url, 8, 0.4))
        sequence = 0
        while sequence < last:
            connections += 1
            async with connect(f"{edge}/ws/btcusdt@depth@100ms") as client:
                sequence, book, reads = -1, None, dice.randint(2, 8)
                async for message in client:
                    update = json.loads(message)
                    if book is None:
                        while sequence < update["U"] - 1:
                            sequence, book = await snapshot(redis_url)
                        assert book is not None
                    elif update["u"] > sequence:
                        assert update["U"] <= sequence + 1
                    if update["u"] > sequence:
                        for side, name in ((Side.BUY, "b"), (Side.SELL, "a")):
                            for price, quantity in update[name]:
                                change(book, side, price, quantity)
                        sequence = update["u"]
                    for number in range(reached + 1, sequence + 1):
                        for each in changes[number]:
                            change(truth, *each)
                    reached = max(reached, sequence)
                    if reached == sequence:
                        assert book == truth
                        compared += 1
                    reads -= 1
                    if sequence == last or not reads:
                        break
        assert await killer == 8
    assert compared > 20
    assert connections > 5
    assert reached == last


async def test_no_trade_and_no_event_of_an_account_is_missing(redis_url: str, edge: str, log: ShardLog) -> None:
    account = FIRST_ACCOUNT + 1
    with redis.Redis.from_url(redis_url) as client:
        client.set(streams.listen_key(LISTEN_KEY), str(account))
    wanted_trades = [event for event in log.events() if isinstance(event, TradeExecuted) and event.market == BTC]
    wanted_reports = [
        (event.order.order_id, event.order.status.name, event.trade_id if isinstance(event, OrderFilled) else -1)
        for event in log.events()
        if isinstance(event, OrderAccepted | OrderFilled | OrderClosed) and event.order.account_id == account
    ]
    trades: list[Any] = []
    reports: list[tuple[int, str, int]] = []
    async with asyncio.timeout(TIMEOUT_S), connect(f"{edge}/stream?streams={LISTEN_KEY}/btcusdt@trade") as client:
        await answered(client, "LIST_SUBSCRIPTIONS")
        async with load(redis_url, log):
            killer = asyncio.create_task(cut_off(redis_url, 10, 0.35))
            while len(trades) < len(wanted_trades) or len(reports) < len(wanted_reports):
                message = json.loads(await client.recv())
                event = message["data"]
                if message["stream"] == LISTEN_KEY:
                    if event["e"] == "executionReport":
                        reports.append((event["i"], event["X"], event["t"]))
                else:
                    trades.append(event)
            assert await killer == 10
    # The first trade that was heard says where following begins; from there on every one counts.
    assert [each["t"] for each in trades] == [each.trade_id for each in wanted_trades]
    assert [each["p"] for each in trades] == [MARKET.format_price(each.price) for each in wanted_trades]
    assert reports == wanted_reports


async def test_candles_and_tickers_are_those_of_the_trades(redis_url: str, edge: str, log: ShardLog) -> None:
    names = ["btcusdt@ticker", "btcusdt@miniTicker", "btcusdt@kline_1d", "!miniTicker@arr", "btcusdt@depth5@100ms"]
    wanted = [event for event in log.events() if isinstance(event, TradeExecuted) and event.market == BTC]
    seen: dict[str, Any] = {}

    def complete() -> bool:
        mine = [each for each in seen.get("!miniTicker@arr", []) if each["s"] == BTC]
        return (
            seen.keys() >= set(names)
            and seen["btcusdt@kline_1d"]["k"]["L"] == len(wanted)
            and seen["btcusdt@ticker"]["n"] == len(wanted)
            and bool(mine)
            and mine[0]["v"] == seen["btcusdt@ticker"]["v"]
            and seen["btcusdt@miniTicker"]["v"] == seen["btcusdt@ticker"]["v"]
        )

    async with (
        asyncio.timeout(TIMEOUT_S),
        connect(f"{edge}/stream?streams={'/'.join(names)}") as client,
        load(redis_url, log),
    ):
        while not complete():
            message = json.loads(await client.recv())
            seen[message["stream"]] = message["data"]
    volume = MARKET.format_quantity(type(wanted[0].quantity)(sum(each.quantity for each in wanted)))
    ticker, candle, book = seen["btcusdt@ticker"], seen["btcusdt@kline_1d"]["k"], seen["btcusdt@depth5@100ms"]
    assert (ticker["v"], ticker["F"], ticker["L"]) == (volume, 1, len(wanted))
    assert ticker["c"] == MARKET.format_price(wanted[-1].price)
    assert ticker["h"] == MARKET.format_price(max(each.price for each in wanted))
    assert candle["l"] <= candle["o"] <= candle["h"]
    assert (len(book["bids"]), len(book["asks"])) == (5, 5)


async def answered(client: ClientConnection, method: str, *params: str) -> Any:
    """Send a request and return its result; streams may speak before."""
    await client.send(json.dumps({"method": method, "params": params, "id": 1}))
    while True:
        message = json.loads(await client.recv())
        if message.get("id") == 1:
            return message["result"]
