"""Streams under load, through disconnects of the client and of the edge's own connection to Redis: nothing is
missing or doubled."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import pytest
import redis
import redis.asyncio
from websockets.asyncio.client import ClientConnection, connect

from adapters.read_models import RedisReadModels
from protocol import streams
from protocol.codec import encode_frame
from protocol.depth import LEVELS_MAX
from protocol.events import DepthChanged, Event, OrderAccepted, OrderClosed, OrderFilled, TradeExecuted
from protocol.orders import Side
from protocol.streams import EVENTS_FIELD
from tests.integration.ws_edge.load import BATCH, COMMANDS_PER_S, Load
from tests.support.market_log import BTC, START_MS, listing_of, market_map
from tests.support.shard_log import FIRST_ACCOUNT, ShardLog
from ws_edge.payloads import levels

MARKETS = market_map()
MARKET = MARKETS.by_symbol[BTC]
LISTING = listing_of(MARKETS)
COMMANDS = 3_000
COMPARISONS, COMPARISONS_WITH_REST, DISCONNECTS, CUTS = 1_000, 20, 100, 20
TIMEOUT_S = 240
PAUSE_S = 0.3
"""Longer than feeds wait for an event before they ask the log for its time, as a busy machine makes it now
and then."""
STEADY, QUIET_S = 1_000_000, 2.0
BOOK_TIMEOUT_S = 240
"""It ends when enough was compared, however fast the machine is."""
LISTEN_KEY = "k" * 64

Book = tuple[dict[str, str], dict[str, str]]

pytestmark = pytest.mark.usefixtures("feeds")


@pytest.fixture
def redis_url(redis_url: str) -> str:
    """A Redis whose shards are at work, at the time of the events that tests write.

    Feeds that hear nothing for a moment ask the log for its time. Of a shard that has nothing to do that is
    the present, months after these events: where the machine was slow in starting feeds or in writing, 24
    hours and a day's candle were over between two trades.
    """
    with redis.Redis.from_url(redis_url) as client:
        for shard in range(MARKETS.shard_count):
            client.set(streams.position(shard), f"1|{START_MS}-0")
            client.xadd(streams.commands(shard), {"waits": ""}, f"{START_MS}-1")
    return redis_url


@pytest.fixture(scope="module")
def log() -> ShardLog:
    log = ShardLog(7, MARKETS, START_MS)
    log.trade(COMMANDS, batch=BATCH, gap_ms=5)
    return log


@asynccontextmanager
async def load(redis_url: str, log: ShardLog) -> AsyncIterator[None]:
    """Write the log's events at a steady rate meanwhile, with a pause in the middle."""
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        done = asyncio.Event()

        async def write() -> None:
            loop = asyncio.get_running_loop()
            pause = COMMANDS / COMMANDS_PER_S / len(log.entries)
            due = loop.time()
            for number, (shard, _, events) in enumerate(log.entries):
                if number == len(log.entries) // 2:
                    await asyncio.sleep(PAUSE_S)
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


class Truth:
    """BTCUSDT's book after every change of its sequence."""

    def __init__(self) -> None:
        self.at: dict[int, Book] = {0: ({}, {})}
        self.last = 0

    def follow(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, TradeExecuted | DepthChanged) and event.market == BTC:
                bids, asks = self.at[self.last]
                self.last = event.sequence
                if isinstance(event, DepthChanged):
                    bids, asks = dict(bids), dict(asks)
                    for each in event.changes:
                        price, quantity = (
                            MARKET.format_price(each.price),
                            MARKET.format_quantity(each.quantity),
                        )
                        change((bids, asks), each.side, price, quantity)
                self.at[self.last] = (bids, asks)


def change(book: Book, side: Side, price: str, quantity: str) -> None:
    levels_of_side = book[side is Side.SELL]
    levels_of_side[price] = quantity
    if quantity == "0.00000000":
        del levels_of_side[price]


async def snapshot(redis_url: str) -> tuple[int, Book]:
    """What REST's depth would say."""
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        found = await RedisReadModels(client, lambda: LISTING).depth(BTC, LEVELS_MAX)
    if found is None:
        return 0, ({}, {})
    return found.sequence, (dict(levels(MARKET, found.bids)), dict(levels(MARKET, found.asks)))


class Watcher:
    """Keeps a local book through connections that break all the time, and compares it with the truth after
    every update."""

    def __init__(
        self,
        truth: Truth,
        redis_url: str,
        edge: str,
        seed: int,
        *,
        forgetful: bool = False,
        steady: bool = False,
    ) -> None:
        self.compared = self.compared_with_rest = self.different = self.disconnects = 0
        self.sequence = 0
        self._truth = truth
        self._redis_url = redis_url
        self._edge = edge
        self._dice = random.Random(seed)
        self._forgetful = forgetful
        self._steady = steady

    async def watch(self, ended: asyncio.Event) -> None:
        """Connect again and again until the last change after `ended` is in the book."""
        while not (ended.is_set() and self.sequence == self._truth.last):
            async with connect(f"{self._edge}/ws/btcusdt@depth@100ms") as client:
                await self._keep_book(client, ended)
                if self._dice.random() < 0.5:
                    client.transport.abort()
            self.disconnects += 1

    async def _keep_book(self, client: ClientConnection, ended: asyncio.Event) -> None:
        self.sequence, book = await snapshot(self._redis_url)
        self._compare(book)
        reads = STEADY if self._steady else self._dice.randint(3, 12)
        for number in range(reads):
            update = await self._next(client, ended)
            if update is None:
                return
            while number == 0 and self.sequence < update["U"] - 1:
                self.sequence, book = await snapshot(self._redis_url)
            if update["u"] <= self.sequence:
                continue
            assert update["U"] <= self.sequence + 1
            if not (self._forgetful and number == 1):
                for side, name in ((Side.BUY, "b"), (Side.SELL, "a")):
                    for price, quantity in update[name]:
                        change(book, side, price, quantity)
            self.sequence = update["u"]
            self._compare(book)
            if number == reads - 1 or (self._steady and number % 10 == 9):
                sequence, rest = await snapshot(self._redis_url)
                if sequence == self.sequence:
                    self.compared_with_rest += 1
                    self.different += book != rest

    async def _next(self, client: ClientConnection, ended: asyncio.Event) -> Any:
        """Return the next update; None at the end, and where a connection that does not last is quiet."""
        while not (ended.is_set() and self.sequence == self._truth.last):
            try:
                async with asyncio.timeout(QUIET_S):
                    return json.loads(await client.recv())
            except TimeoutError:
                if not self._steady:
                    return None  # what came last was said before this connection stood
        return None

    def _compare(self, book: Book) -> None:
        self.compared += 1
        self.different += book != self._truth.at[self.sequence]


async def test_a_local_book_is_the_true_one_at_every_update(redis_url: str, edge: str) -> None:
    """1,000 comparisons of the whole book, through 100 disconnects of clients and 20 of the edge's own
    connection."""
    truth, ended = Truth(), asyncio.Event()
    watchers = [Watcher(truth, redis_url, edge, seed, steady=seed < 2) for seed in range(12)]
    control = Watcher(truth, redis_url, edge, 99, forgetful=True)
    killer = asyncio.create_task(cut_off(redis_url, CUTS, 0.5))

    def enough() -> bool:
        return (
            killer.done()
            and sum(each.compared for each in watchers) >= COMPARISONS
            and sum(each.compared_with_rest for each in watchers) >= COMPARISONS_WITH_REST
            and sum(each.disconnects for each in watchers) >= DISCONNECTS
            and control.different > 0
        )

    async def trade() -> None:
        await Load(redis_url, ShardLog(8, MARKETS, START_MS), truth.follow).until(enough)
        await asyncio.sleep(
            PAUSE_S
        )  # so that the last change may be heard before the end is known, as on a busy machine
        ended.set()

    async with asyncio.timeout(BOOK_TIMEOUT_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(trade())
        for each in (*watchers, control):
            tasks.create_task(each.watch(ended))
    assert await killer == CUTS
    assert [each.different for each in watchers] == [0] * len(watchers)
    assert {each.sequence for each in watchers} == {truth.last}
    assert control.different > 0, "an update that was left out must be noticed"


async def test_no_trade_and_no_event_of_an_account_is_missing(
    redis_url: str, edge: str, log: ShardLog
) -> None:
    account = FIRST_ACCOUNT + 1
    with redis.Redis.from_url(redis_url) as client:
        client.set(streams.listen_key(LISTEN_KEY), str(account))
    wanted_trades = [
        event for event in log.events() if isinstance(event, TradeExecuted) and event.market == BTC
    ]
    wanted_reports = [
        (
            event.order.order_id,
            event.order.status.name,
            event.trade_id if isinstance(event, OrderFilled) else -1,
        )
        for event in log.events()
        if isinstance(event, OrderAccepted | OrderFilled | OrderClosed) and event.order.account_id == account
    ]
    trades: list[Any] = []
    reports: list[tuple[int, str, int]] = []
    async with (
        asyncio.timeout(TIMEOUT_S),
        connect(f"{edge}/stream?streams={LISTEN_KEY}/btcusdt@trade") as client,
    ):
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
    names = [
        "btcusdt@ticker",
        "btcusdt@miniTicker",
        "btcusdt@kline_1d",
        "!miniTicker@arr",
        "btcusdt@depth5@100ms",
    ]
    names += ["btcusdt@ticker_1h", "!ticker_1h@arr", "btcusdt@kline_1d@+08:00", "btcusdt@kline_1m@+08:00"]
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
            and seen["btcusdt@ticker_1h"]["n"] == len(wanted)
            and any(each["s"] == BTC and each["n"] == len(wanted) for each in seen["!ticker_1h@arr"])
            and seen["btcusdt@kline_1d@+08:00"]["k"]["L"] == len(wanted)
        )

    async with (
        asyncio.timeout(TIMEOUT_S),
        connect(f"{edge}/stream?streams={'/'.join(map(quote, names))}") as client,
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
    hour, shifted = seen["btcusdt@ticker_1h"], seen["btcusdt@kline_1d@+08:00"]["k"]
    assert (hour["e"], hour["v"], hour["F"], hour["O"] % 60_000) == ("1hTicker", volume, 1, 0)
    assert (shifted["v"], shifted["f"], shifted["n"], shifted["i"]) == (volume, 1, len(wanted), "1d")
    assert shifted["t"] % 86_400_000 == 16 * 3_600_000
    assert candle["l"] <= candle["o"] <= candle["h"]
    assert (len(book["bids"]), len(book["asks"])) == (5, 5)


async def test_what_is_unknown_says_nothing_and_harms_nothing(
    redis_url: str, edge: str, log: ShardLog
) -> None:
    """A symbol that there is not, upper case, an interval that there is not: no error, no message, and the
    others are heard."""
    strange = ["foousdt@trade", "BTCUSDT@trade", "btcusdt@kline_7m", "nonsense"]
    async with (
        asyncio.timeout(TIMEOUT_S),
        # What they do not read any more must not keep them from closing.
        connect(f"{edge}/stream?streams=btcusdt@trade/foousdt@trade", max_queue=None) as by_address,
        connect(f"{edge}/ws", max_queue=None) as by_request,
    ):
        await answered(by_request, "SET_PROPERTY", "combined", True)
        assert await answered(by_request, "SUBSCRIBE", *strange, "btcusdt@trade") is None
        assert await answered(by_request, "LIST_SUBSCRIPTIONS") == [*strange, "btcusdt@trade"]
        async with load(redis_url, log):
            for client in (by_address, by_request):
                for _ in range(50):
                    assert json.loads(await client.recv())["stream"] == "btcusdt@trade"


async def test_a_listen_key_can_be_subscribed_to(redis_url: str, edge: str, log: ShardLog) -> None:
    account = FIRST_ACCOUNT + 1
    with redis.Redis.from_url(redis_url) as client:
        client.set(streams.listen_key(LISTEN_KEY), str(account))
    reports = [
        event.order.order_id
        for event in log.events()
        if isinstance(event, OrderAccepted | OrderFilled | OrderClosed) and event.order.account_id == account
    ]
    async with (
        asyncio.timeout(TIMEOUT_S),
        connect(f"{edge}/stream") as wrapped,
        connect(f"{edge}/ws") as plain,
        connect(f"{edge}/ws") as gone,
    ):
        for each in (wrapped, plain, gone):
            assert await answered(each, "SUBSCRIBE", LISTEN_KEY) is None
            assert await answered(each, "LIST_SUBSCRIPTIONS") == [LISTEN_KEY]
        assert await answered(gone, "UNSUBSCRIBE", LISTEN_KEY) is None
        assert await answered(gone, "LIST_SUBSCRIPTIONS") == []
        heard: list[int] = []
        async with load(redis_url, log):
            while len(heard) < len(reports):
                event = json.loads(await plain.recv())
                message = json.loads(await wrapped.recv())
                assert message["stream"] == LISTEN_KEY
                assert message["data"]["e"] == event["e"]
                if event["e"] == "executionReport":
                    heard.append(event["i"])
        assert heard == reports
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(gone.recv(), 0.2)


async def answered(client: ClientConnection, method: str, *params: object) -> Any:
    """Send a request and return its result; streams may speak before."""
    await client.send(json.dumps({"method": method, "params": params, "id": 1}))
    while True:
        message = json.loads(await client.recv())
        if message.get("id") == 1:
            return message["result"]
