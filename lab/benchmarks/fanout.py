"""`fanout`: one edge process and its subscribers: at maximum speed, with many, and with stuck ones."""

import asyncio
import itertools
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import msgspec
import psutil
import redis
import uvloop

from cli.local.free_ports import free_port
from lab.benchmarks import http
from lab.benchmarks.garbage import uncollected
from lab.benchmarks.load_generators import open_loop
from lab.benchmarks.report import Result
from lab.benchmarks.servers import process_on_redis
from lab.benchmarks.subscribers import Subscriber, subscribe, subscribe_stuck
from protocol import streams
from protocol.codec import encode_frame
from protocol.events import TradeExecuted
from protocol.market_data import TradeBatch
from protocol.orders import Side
from protocol.streams import MarketDataKind
from protocol.units import AccountId, OrderId, PriceTicks, QuantityLots, Sequence, TimeMs, TradeId

NO_DATABASE = "postgresql://nobody@127.0.0.1:1/none"
SYMBOL = "BTCUSDT"
GROUP = 20
"""Messages published at once while the edge is driven as fast as it goes."""
GROUPS_UNDER_WAY = 2
PAYLOAD_BYTES = 130
"""About what a trade takes."""
IDLE = 10_000
ORDER_RATE = 300
ORDER_CONNECTIONS = 32
STUCK = 50
CLOSED_WITHIN_S = 30
"""How long to wait for the stuck ones to be closed before giving up."""
DEADLINE_S = 60

MARKETS = (("BTCUSDT", "100000.00", "0.001"), ("ETHUSDT", "4000.00", "0.02"), ("SOLUSDT", "200.00", "0.5"))
"""Market, price and quantity of the orders."""
KINDS = ("trade", "trade", "bookTicker", "depth@100ms")
"""Streams that subscribers have, one each, dealt in this order."""
EVERYTHING = "/stream?streams=" + "/".join(
    f"{symbol.lower()}@{kind}"
    for symbol, *_ in MARKETS
    for kind in ("trade", "aggTrade", "bookTicker", "depth@100ms")
)

_trade_event = re.compile(rb'\{"e":"trade","E":\d+,"s":"(\w+)","t":(\d+)')


def fanout(target: http.Target, subscribers: int, seconds: int) -> list[Result]:
    """Measure throughput, memory, and latency with and without stuck subscribers."""
    frames_per_s, edge_bytes = _edge_throughput(subscribers, seconds)
    reference = _broadcast_throughput(subscribers, seconds)
    idle_bytes = _idle_bytes()
    alone = uvloop.run(_under_orders(target, subscribers - STUCK, seconds, stuck=False))
    beside = uvloop.run(_under_orders(target, subscribers - STUCK, seconds, stuck=True))
    load = f"{ORDER_RATE} orders/s for {seconds} s, open loop"
    return [
        Result(
            bench="fanout",
            what=f"trades to {subscribers:,} subscribers, as fast as the edge goes",
            unit="frames/s",
            runs=[frames_per_s],
            reference="broadcast() of websockets, nothing else",
            reference_runs=[reference],
            notes=f"{edge_bytes} bytes a frame",
        ),
        Result(
            bench="fanout",
            what=f"memory of the edge for each of {IDLE:,} idle subscribers",
            unit="kB",
            runs=[idle_bytes / 1_000],
        ),
        Result(
            bench="fanout",
            what=f"order → trade at a client, p99, {subscribers:,} subscribers, {load}",
            unit="ms",
            runs=[alone.p99_ms],
            reference="p50",
            reference_runs=[alone.p50_ms],
            notes=f"{alone.frames_per_s:,.0f} frames/s",
        ),
        Result(
            bench="fanout",
            what=f"the same while {STUCK} of them never read",
            unit="ms",
            runs=[beside.p99_ms],
            reference="p99 while all read",
            reference_runs=[alone.p99_ms],
            notes=f"memory of the edge {beside.grown_bytes / 1_000_000:+.1f} MB over the run",
        ),
        Result(
            bench="fanout",
            what="until the last of the stuck was closed, from when it connected",
            unit="s",
            runs=[beside.closed_after_s],
        ),
    ]


# ------------------------------------------------------------------ as fast as it goes


def _edge_throughput(count: int, seconds: int) -> tuple[float, int]:
    """Return the frames per second that an edge sends to `count` subscribers, and the size of a frame."""
    channel = streams.market_data(SYMBOL, MarketDataKind.TRADE)
    with _edge() as (client, port, _):
        numbers = itertools.count(1)

        def publish(_witness: Subscriber) -> None:
            with client.pipeline(transaction=False) as pipeline:
                for number in itertools.islice(numbers, GROUP):
                    pipeline.publish(channel, encode_frame(TradeBatch(SYMBOL, (_trade(number),))))
                pipeline.execute()

        with uncollected():
            return uvloop.run(_saturated(port, f"/ws/{SYMBOL.lower()}@trade", count, seconds, publish))


def _trade(number: int) -> TradeExecuted:
    return TradeExecuted(
        time=TimeMs(time.time_ns() // 1_000_000),
        market=SYMBOL,
        sequence=Sequence(number),
        trade_id=TradeId(number),
        aggregate_id=number,
        price=PriceTicks(10_000_000),
        quantity=QuantityLots(100),
        taker_side=Side.BUY,
        maker_order_id=OrderId(1),
        taker_order_id=OrderId(2),
        maker_account_id=AccountId(1),
        taker_account_id=AccountId(2),
    )


def _broadcast_throughput(count: int, seconds: int) -> float:
    """Return the frames per second of the library's own broadcast under the same load."""
    port = free_port()
    server = subprocess.Popen([sys.executable, "-m", "lab.benchmarks.broadcast", str(port)])
    try:
        _wait_until_open(port)

        def publish(witness: Subscriber) -> None:
            witness.send(f"{GROUP} {PAYLOAD_BYTES}")

        with uncollected():
            frames_per_s, _ = uvloop.run(_saturated(port, "/", count, seconds, publish))
        return frames_per_s
    finally:
        server.terminate()
        server.wait(DEADLINE_S)


async def _saturated(
    port: int, path: str, count: int, seconds: int, publish: Callable[[Subscriber], None]
) -> tuple[float, int]:
    """Publish groups so that some are always under way.

    Return frames per second once everybody has them all, and a frame's bytes.
    """
    heard, news = 0, asyncio.Event()

    def hear(_payload: memoryview) -> None:
        nonlocal heard
        heard += 1
        if heard % GROUP == 0:
            news.set()

    (witness,) = await subscribe(port, [path], hear)
    others = await subscribe(port, [path] * (count - 1))
    published = 0
    began = time.perf_counter()
    while time.perf_counter() < began + seconds:
        while published - heard < GROUP * GROUPS_UNDER_WAY:
            publish(witness)
            published += GROUP
        news.clear()
        await asyncio.wait_for(news.wait(), DEADLINE_S)
    while heard < published or any(reader.received < witness.received for reader in others):
        if any(reader.lost for reader in others) or time.perf_counter() > began + seconds + DEADLINE_S:
            raise RuntimeError("a subscriber did not get everything")
        await asyncio.sleep(0.001)
    took_s = time.perf_counter() - began
    for subscriber in (witness, *others):
        subscriber.transport.abort()
    return published * count / took_s, witness.received // published


# ------------------------------------------------------------------ memory


def _idle_bytes() -> float:
    """Return the memory that an edge takes for each idle subscriber."""
    with _edge(ws_connections_max=str(2 * IDLE)) as (_, port, process):

        async def measure() -> int:
            await subscribe(port, ["/ws/btcusdt@trade"] * 100)  # so that what is made once is there
            before = psutil.Process(process.pid).memory_info().rss
            idle = await subscribe(port, ["/ws/btcusdt@kline_1M"] * IDLE)
            grown = psutil.Process(process.pid).memory_info().rss - before
            for subscriber in idle:
                subscriber.transport.abort()
            return grown

        return uvloop.run(measure()) / IDLE


# ------------------------------------------------------------------ under orders


class _UnderOrders(NamedTuple):
    p50_ms: float
    p99_ms: float
    frames_per_s: float
    grown_bytes: int
    closed_after_s: float


async def _under_orders(target: http.Target, readers: int, seconds: int, *, stuck: bool) -> _UnderOrders:
    """Place orders at a steady rate, and time each trade from its taker order's due time to each reader.

    Besides the readers there are `STUCK` subscribers to everything, which read as well, or never do.
    """
    port = target.settings.ws_port
    arrivals: list[tuple[bytes, int, float]] = []
    frames = 0

    def hear(payload: memoryview) -> None:
        nonlocal frames
        frames += 1
        match = _trade_event.match(payload)
        if match is not None:
            arrivals.append((match[1], int(match[2]), time.perf_counter()))

    paths = [
        f"/ws/{MARKETS[number % len(MARKETS)][0].lower()}@{KINDS[number // len(MARKETS) % len(KINDS)]}"
        for number in range(readers)
    ]
    subscribers = await subscribe(port, paths, hear)
    edge = psutil.Process(target.process_id("ws-edge"))
    connected = time.perf_counter()
    # As many subscribers in both runs: they differ only in whether these read.
    deaf = await subscribe_stuck(port, EVERYTHING, STUCK) if stuck else []
    others = [] if stuck else await subscribe(port, [EVERYTHING] * STUCK)
    memory = edge.memory_info().rss
    closing = asyncio.create_task(_until_closed(edge, port, readers, connected))
    answers = await open_loop(
        target.settings.rest_port, ORDER_CONNECTIONS, ORDER_RATE, seconds, _order_maker(target)
    )
    grown = edge.memory_info().rss - memory
    if any(answer.status != 200 for answer in answers):
        raise RuntimeError(
            "not every order was accepted: "
            f"{next(answer.body for answer in answers if answer.status != 200)!r}"
        )
    closed_after_s = await closing if stuck else 0.0
    closing.cancel()
    due = {
        (order.symbol.encode(), fill.trade_id): answer.due
        for answer in answers
        for order in [_decode_order(answer.body)]
        for fill in order.fills
    }
    await _until_heard(arrivals, due)
    if any(subscriber.lost for subscriber in (*subscribers, *others)):
        raise RuntimeError("a subscriber that reads was closed")
    for subscriber in (*subscribers, *others):
        subscriber.transport.abort()
    for client in deaf:
        client.close()
    quantiles = statistics.quantiles([at - due[symbol, trade_id] for symbol, trade_id, at in arrivals], n=100)
    return _UnderOrders(quantiles[49] * 1_000, quantiles[98] * 1_000, frames / seconds, grown, closed_after_s)


class _Fill(msgspec.Struct, rename="camel"):
    trade_id: int


class _Order(msgspec.Struct):
    symbol: str
    fills: list[_Fill] = []


_decode_order = msgspec.json.Decoder(_Order).decode


def _order_maker(target: http.Target) -> Callable[[int, int], bytes]:
    sign = http.signer(target)

    def make(_connection: int, number: int) -> bytes:
        step, turn = divmod(number, len(MARKETS))
        symbol, price, quantity = MARKETS[turn]
        rests = step % 2 == 0 or step % 50 == 1
        kind = "side=SELL&timeInForce=GTC" if rests else "side=BUY&timeInForce=IOC"
        return sign(
            number,
            f"symbol={symbol}&{kind}&type=LIMIT&quantity={quantity}&price={price}&newOrderRespType=FULL",
        )

    return make


async def _until_closed(edge: psutil.Process, port: int, readers: int, connected: float) -> float:
    """Return how long after `connected` the edge held no more connections than those of the readers."""
    while _held(edge, port) > readers:
        if time.perf_counter() > connected + CLOSED_WITHIN_S:
            raise TimeoutError(f"after {CLOSED_WITHIN_S} s not all of the stuck were closed")
        await asyncio.sleep(0.25)
    return time.perf_counter() - connected


def _held(edge: psutil.Process, port: int) -> int:
    return sum(
        1
        for connection in edge.net_connections(kind="tcp")
        if connection.status == psutil.CONN_ESTABLISHED and connection.laddr.port == port
    )


async def _until_heard(arrivals: list[tuple[bytes, int, float]], due: dict[tuple[bytes, int], float]) -> None:
    """Wait until the last trades have reached somebody."""
    deadline = time.perf_counter() + DEADLINE_S
    heard: set[tuple[bytes, int]] = set()
    while not due.keys() <= heard:
        heard = {(symbol, trade_id) for symbol, trade_id, _ in arrivals}
        if time.perf_counter() > deadline:
            raise TimeoutError("some trades reached nobody")
        await asyncio.sleep(0.1)


# ------------------------------------------------------------------ servers


@contextmanager
def _edge(**settings: str) -> Iterator[tuple[redis.Redis, int, "subprocess.Popen[bytes]"]]:
    """Run an edge on a separate Redis, and yield that, the edge's port and its process.

    No request needs a database.
    """
    port = free_port()
    own = {
        "ws_port": str(port),
        "ws_connections_per_address_max": str(IDLE),
        "rate_limits_enabled": "false",
        "database_url": NO_DATABASE,
        "log_level": "error",
        **settings,
    }
    with process_on_redis("ws_edge.main", **own) as (client, process):
        _wait_until_open(port)
        yield client, port, process


def _wait_until_open(port: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), DEADLINE_S).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
