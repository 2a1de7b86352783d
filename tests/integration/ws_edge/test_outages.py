"""What happens while the edge is cut off from Redis is heard afterwards, the last word about every candle
too."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
import redis.asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from adapters.redis_link import RedisLink
from protocol import streams
from protocol.events import DepthChanged, TradeExecuted
from protocol.intervals import INTERVALS
from protocol.market_data import Candle, DepthSnapshot
from protocol.orders import Side
from protocol.positions import ShardPosition
from protocol.stream_id import StreamId
from protocol.streams import EVENTS_FIELD
from protocol.units import TimeMs
from tests.support.edge_processes import running_edge
from tests.support.kept_depth import depth_in
from tests.support.market_log import BTC, START_MS, MarketLog, candles_of, frame, market_map
from ws_edge.payloads import kline

TIMEOUT_S = 60
EDGE_USER = "edge"
MARKET = market_map().by_symbol[BTC]
YEAR_MS = START_MS + 100_000
"""A year begins."""
FAR_MS = 1 << 45
PRICE = 5_000_000


class CutEdge:
    """An edge that can be cut off from Redis, where it has a user of its own."""

    def __init__(self, client: redis.Redis, url: str) -> None:
        self.redis = client
        self.url = url

    def cut_off(self) -> None:
        """End its connections and let it make none."""
        self.redis.acl_setuser(EDGE_USER, enabled=False)
        self.redis.execute_command("CLIENT", "KILL", "USER", EDGE_USER)  # type: ignore[no-untyped-call]

    def let_in(self) -> None:
        """Let it connect again."""
        self.redis.acl_setuser(EDGE_USER, enabled=True)


@pytest.fixture
def edge(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> Iterator[CutEdge]:
    with redis.Redis.from_url(redis_url) as client, ExitStack() as stack:
        # The log's time is that of the last input done, as long as there is more.
        client.xadd(streams.commands(0), {"x": b""}, id=str(StreamId(FAR_MS)))
        request.getfixturevalue("feeds")
        client.execute_command("ACL", "SETUSER", EDGE_USER, "on", ">secret", "+@all", "~*", "&*")
        stack.callback(client.acl_deluser, EDGE_USER)
        own_url = f"redis://{EDGE_USER}:secret@{redis_url.rpartition('@')[2]}"
        yield CutEdge(client, stack.enter_context(running_edge(own_url, tmp_path)).url)


class Trading:
    """Writes trades at times of its own: the log's time stands still between them."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._log = MarketLog()
        self._now = 0

    async def trade(self, time: int) -> int:
        """Trade at `time`, wait until all of it is written, and return the trade's id."""
        self._now = time
        trade = self._log.trade(time, PRICE + time % 7, 1 + time % 5, Side.BUY if time % 2 else Side.SELL)
        self._write(trade)
        while True:
            value: Any = self._redis.hget(streams.candles(0, BTC), "1M")
            if value and msgspec.msgpack.decode(value, type=Candle).last_trade_id == trade.trade_id:
                return trade.trade_id
            await asyncio.sleep(0.01)

    async def quote(self, time: int, quantity: int) -> None:
        """Let so much rest at one price at `time`, and wait until it is in the depth that is asked for."""
        change = self._log.depth(time, (Side.BUY, PRICE, quantity))
        self._write(change)
        while True:
            depth = depth_in(self._redis, 0)
            if depth is not None and depth.sequence == change.sequence:
                return
            await asyncio.sleep(0.01)

    async def base_written(self, sequence: int) -> None:
        """Wait until the base of the depth reaches `sequence`."""
        while True:
            value: Any = self._redis.get(streams.depth(0, BTC))
            if msgspec.msgpack.decode(value, type=DepthSnapshot).sequence >= sequence:
                return
            await asyncio.sleep(0.01)

    def _write(self, event: TradeExecuted | DepthChanged) -> None:
        with self._redis.pipeline() as pipeline:
            pipeline.xadd(streams.events(0), {EVENTS_FIELD: frame(event)}, id=str(StreamId(event.time)))
            pipeline.set(streams.position(0), ShardPosition(1, StreamId(event.time)).encode())
            pipeline.execute()

    def closed(self, interval: str) -> list[dict[str, Any]]:
        """Every candle that is over, as a stream shows it."""
        candles = candles_of(MARKET, interval, self._log.trades[BTC], self._now)
        return [kline(MARKET, each, TimeMs(0), 1)["k"] for each in candles if each.closed]


@pytest.mark.parametrize("kept", [True, False], ids=["final candles are kept", "control: they are not"])
async def test_every_final_candle_is_heard_through_an_outage(edge: CutEdge, kept: bool) -> None:
    trading = Trading(edge.redis)
    finals: dict[str, list[Any]] = {interval: [] for interval in INTERVALS}
    newest: dict[str, int] = {}
    names = "/".join(f"btcusdt@kline_{interval}" for interval in INTERVALS)
    async with asyncio.timeout(TIMEOUT_S), connect(f"{edge.url}/ws/{names}") as client:

        async def hear(trade_id: int) -> None:
            while set(newest.values()) != {trade_id} or len(newest) < len(INTERVALS):
                candle = json.loads(await client.recv())["k"]
                if candle["n"]:
                    newest[candle["i"]] = candle["L"]
                if candle["x"]:
                    finals[candle["i"]].append(candle)

        await hear(await trading.trade(YEAR_MS - 61_500))
        await hear(await trading.trade(YEAR_MS - 61_200))
        edge.cut_off()
        for time in (-60_800, -59_400, -58_100, -500, +300, +1_800):
            last = await trading.trade(YEAR_MS + time)
        if not kept:
            edge.redis.delete(*(streams.closed_candles(0, BTC, interval) for interval in INTERVALS))
        edge.let_in()
        await hear(last)
        await hear(await trading.trade(YEAR_MS + 62_000))
    expected = {interval: trading.closed(interval) for interval in INTERVALS}
    assert [len(expected[interval]) for interval in ("1s", "1m", "1h", "1d", "1M", "1w")] == [
        7,
        3,
        1,
        1,
        1,
        0,
    ]
    traded = {interval: [each for each in found if each["n"]] for interval, found in finals.items()}
    assert (traded == expected) == kept
    # Between them are those without a trade: no interval is left out.
    for found in finals.values():
        assert [each["T"] + 1 for each in found[:-1]] == [each["t"] for each in found[1:]]
    assert (len(finals["1s"]) == 124) == kept  # from 62 s before the year to 62 s into it


@pytest.mark.parametrize("kept", [True, False], ids=["diffs are kept", "they are gone"])
async def test_depth_goes_on_without_a_gap_or_is_closed(edge: CutEdge, kept: bool) -> None:
    trading = Trading(edge.redis)
    async with (
        asyncio.timeout(TIMEOUT_S),
        connect(f"{edge.url}/ws/btcusdt@depth@100ms") as client,
        connect(f"{edge.url}/ws/btcusdt@depth5@100ms") as partial,
    ):
        sequence = 0
        hears = asyncio.create_task(client.recv())
        while not hears.done():  # what happens before the edge listens is in its first snapshot
            sequence += 1
            await trading.quote(START_MS + sequence, 1 + sequence % 2)
            await asyncio.wait([hears], timeout=0.2)
        update = json.loads(await hears)
        while update["u"] < sequence:
            update = json.loads(await client.recv())
        before = 1 + sequence % 2
        edge.cut_off()
        for number, quantity in enumerate((3, 4, before), start=sequence + 1):
            await trading.quote(START_MS + number, quantity)
        if not kept:
            await trading.base_written(sequence + 3)  # as when they are gone because too many came since
            edge.redis.delete(streams.depth_diffs(0, BTC))
        edge.let_in()
        while json.loads(await partial.recv())["lastUpdateId"] < sequence + 3:
            pass
        if kept:
            update = json.loads(await client.recv())
            # The level is as it was, and yet must be in it: someone may have begun with what it was
            # meanwhile.
            assert (update["U"], update["u"]) == (sequence + 1, sequence + 3)
            assert [quantity for _, quantity in update["b"]] == [f"{before / 100_000:.8f}"]
        else:
            with pytest.raises(ConnectionClosed) as closing:
                await client.recv()
            assert closing.value.rcvd is not None
            assert closing.value.rcvd.code == 1012


async def test_what_is_said_while_a_link_subscribes_comes_after_it_is_ready(redis_url: str) -> None:
    """Otherwise a listener would take the first thing it hears after an outage for the next thing that
    happened."""
    said: list[int] = []
    heard: list[int] = []
    said_before: list[int] = []

    def ready() -> None:
        assert not heard
        said_before.extend(said)

    link = RedisLink(redis_url, on_message=lambda _channel, payload: heard.append(int(payload)))
    link.on_ready = ready
    for number in range(50_000):
        link.subscribe(f"channel-{number}")
    async with asyncio.timeout(TIMEOUT_S), redis.asyncio.Redis.from_url(redis_url) as client:
        await link.start()
        while not said_before or len(heard) < 50:
            said.append(len(said))
            await client.publish("channel-0", said[-1])
            await asyncio.sleep(0)
    await link.close()
    assert heard[0] < said_before[-1], "nothing was said meanwhile"
    assert heard == list(range(heard[0], heard[0] + len(heard)))
