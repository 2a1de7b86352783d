"""Clients that never read, among others under load: they are closed, and nobody else notices."""

import asyncio
import itertools
import json
import re
import socket
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest
from websockets.asyncio.client import connect

from cli.local.free_ports import free_port
from protocol.events import Event, TradeExecuted
from protocol.intervals import INTERVALS
from tests.integration.ws_edge.load import Load
from tests.support.edge_processes import running_edge
from tests.support.market_log import BTC, START_MS, market_map
from tests.support.shard_log import ShardLog

STUCK, HEALTHY = 30, 5
WARM_TRADES = 200
STUCK_BYTES_MAX = 1 << 20
"""What one stuck client may cost, at most."""
LOOK_EVERY = 20
"""Entries written between two looks at the edge's connections and memory."""
TIMEOUT_S = 180

_KINDS = (
    *("trade", "aggTrade", "depth@100ms", "depth5@100ms", "depth10@100ms", "depth20@100ms", "bookTicker"),
    *("ticker", "miniTicker", *(f"kline_{interval}" for interval in INTERVALS)),
)
_EVERYTHING = "/".join(f"{symbol.lower()}@{kind}" for symbol in market_map().by_symbol for kind in _KINDS)

pytestmark = pytest.mark.usefixtures("feeds")


def never_reading(edge: str) -> socket.socket:
    """Subscribe to everything on a connection with the smallest of buffers, and leave it at that."""
    host, port = edge.removeprefix("ws://").split(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((host, int(port)))
    client.sendall(
        f"GET /stream?streams={_EVERYTHING} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: "
        "websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
        "AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    )
    return client


def established(process: psutil.Process) -> set[int]:
    """The other side's ports of the connections that stand."""
    found = process.net_connections("tcp")
    return {each.raddr.port for each in found if each.status == psutil.CONN_ESTABLISHED and each.raddr}


async def test_stuck_clients_are_closed_and_the_others_miss_nothing(redis_url: str, tmp_path: Path) -> None:
    metrics_port = free_port()
    wanted: list[int] = []
    heard: list[list[int]] = [[] for _ in range(HEALTHY)]
    memory: list[int] = []

    def follow(events: list[Event]) -> None:
        wanted.extend(
            each.trade_id for each in events if isinstance(each, TradeExecuted) and each.market == BTC
        )

    with ExitStack() as stack:
        edge = stack.enter_context(running_edge(redis_url, tmp_path, METRICS_PORT=str(metrics_port)))
        process = psutil.Process(edge.process.pid)
        load = Load(redis_url, ShardLog(9, market_map(), START_MS), follow)
        listening, looks = asyncio.Semaphore(0), itertools.count()

        async def listen(trades: list[int]) -> None:
            async with connect(f"{edge.url}/ws/btcusdt@trade") as client:
                await client.send(json.dumps({"method": "LIST_SUBSCRIPTIONS", "id": 1}))
                await client.recv()
                listening.release()
                while True:
                    trades.append(json.loads(await client.recv())["t"])

        listeners = [asyncio.create_task(listen(trades)) for trades in heard]
        async with asyncio.timeout(TIMEOUT_S):
            for _ in listeners:
                await listening.acquire()
            await load.until(lambda: len(wanted) >= WARM_TRADES)
            before = process.memory_info().rss
            clients = [stack.enter_context(never_reading(edge.url)) for _ in range(STUCK)]
            ports = {client.getsockname()[1] for client in clients}
            await load.until(lambda: ports <= established(process))

            def closed() -> bool:
                if next(looks) % LOOK_EVERY:
                    return False
                memory.append(process.memory_info().rss)
                return not ports & established(process)

            await load.until(closed)
            while any(trades != wanted for trades in heard):
                assert not any(each.done() for each in listeners), "a client that reads was closed"
                await asyncio.sleep(0.01)
        for each in listeners:
            each.cancel()
        await asyncio.gather(*listeners, return_exceptions=True)
        async with httpx.AsyncClient() as http:
            metrics = (await http.get(f"http://127.0.0.1:{metrics_port}/metrics")).text
    counted = re.search(r"^ws_edge_slow_clients_closed_total (\S+)", metrics, re.MULTILINE)
    assert counted
    assert float(counted[1]) == STUCK
    assert max(memory) - before < STUCK * STUCK_BYTES_MAX
