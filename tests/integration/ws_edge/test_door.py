"""The door of an edge: handshakes are charged, networks have budgets, and whoever is banned is sent away."""

import asyncio
import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import redis
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import InvalidMessage, InvalidStatus

from adapters.crowd import Crowd
from protocol import streams
from tests.support.edge_processes import running_edge
from ws_edge.connection import EdgeConnection
from ws_edge.subscriptions import Door, Target

TIMEOUT_S = 30


async def ask(client: ClientConnection, frame: dict[str, Any]) -> Any:
    await client.send(json.dumps(frame))
    return json.loads(await client.recv())


async def refused(url: str) -> tuple[int, int]:
    """Return status and code of a handshake that is refused."""
    with pytest.raises(InvalidStatus) as refusal:
        await connect(url, proxy=None)
    response = refusal.value.response
    return response.status_code, json.loads(response.body or b"{}")["code"]


async def await_new_window() -> None:
    """Wait where a minute is about to end: what is counted starts anew with it."""
    left = 60 - time.time() % 60
    if left < 20:
        await asyncio.sleep(left + 0.1)


async def test_handshakes_are_charged_and_a_banned_network_is_sent_away(
    redis_url: str, tmp_path: Path
) -> None:
    settings = {"REQUEST_WEIGHT_PER_MINUTE": "12", "RATE_LIMITS_ENABLED": "true"}
    with running_edge(redis_url, tmp_path, **settings) as edge:
        await await_new_window()
        async with (
            asyncio.timeout(240),
            connect(f"{edge.url}/ws", proxy=None) as streams,
            connect(f"{edge.url}/ws-api/v3", proxy=None) as api,
        ):
            answer = await ask(api, {"id": 1, "method": "ping"})
            first = answer["rateLimits"][-1]["count"]
            assert first >= 5, "two handshakes cost two each"
            statuses: list[int] = []
            for number in range(700):
                answer = await ask(api, {"id": number, "method": "ping"})
                statuses.append(answer["status"])
                assert answer["id"] == number
                assert answer["rateLimits"][-1]["count"] == first + len(statuses) or answer["status"] == 418
                if answer["status"] == 418:
                    break
            assert statuses.count(429) == 600
            assert (statuses[-1], answer["error"]["code"]) == (418, -1003)
            assert answer["rateLimits"][-1]["count"] >= 600
            assert (
                0 < answer["error"]["data"]["retryAfter"] - answer["error"]["data"]["serverTime"] <= 120_000
            )
            for client in (api, streams):
                await client.wait_closed()
                assert client.close_code == 1008
            for path in ("/ws", "/ws-api/v3", "/nothing"):
                assert await refused(edge.url + path) == (418, -1003)


async def test_budgets(redis_url: str, tmp_path: Path) -> None:
    settings = {
        "WS_CONNECTIONS_PER_ADDRESS_MAX": "5",
        "WS_STREAMS_PER_ADDRESS_MAX": "4",
        "WS_CONNECTIONS_PER_5M": "40",
        "RATE_LIMITS_ENABLED": "true",
    }
    path = "/ws/btcusdt@trade/ethusdt@trade"
    with running_edge(redis_url, tmp_path, **settings) as edge:
        async with asyncio.timeout(120):
            first, second = [await connect(edge.url + path, proxy=None) for _ in range(2)]
            assert await refused(edge.url + path) == (429, -1034)
            others = [await connect(f"{edge.url}/ws", proxy=None) for _ in range(3)]
            assert await refused(f"{edge.url}/ws") == (429, -1034)
            answer = await ask(others[0], {"id": 1, "method": "SUBSCRIBE", "params": ["btcusdt@ticker"]})
            assert answer["error"]["msg"] == "Invalid request: more than 4 streams of one network"
            first.transport.abort()  # whoever left is forgotten
            await others[1].close()
            while True:
                answer = await ask(others[0], {"id": 1, "method": "SUBSCRIBE", "params": ["btcusdt@ticker"]})
                if "error" not in answer:
                    break
                await asyncio.sleep(0.3)
            statuses: list[int] = []
            while len(statuses) < 60 and (not statuses or statuses[-1] == 404):
                statuses.append((await refused(f"{edge.url}/nothing"))[0])
            assert statuses[-1] == 429, "handshakes in five minutes"
            for client in (second, *others):
                await client.close()


async def test_streams_of_listen_keys_are_in_the_budget(redis_url: str, tmp_path: Path) -> None:
    keys = [f"k{number:063d}" for number in range(5)]
    with redis.Redis.from_url(redis_url) as client:
        for number, key in enumerate(keys):
            client.set(streams.listen_key(key), str(1001 + number))
    with running_edge(redis_url, tmp_path, WS_STREAMS_PER_ADDRESS_MAX="4") as edge:
        async with asyncio.timeout(120):
            first, second = [
                await connect(f"{edge.url}/stream?streams={'/'.join(some)}", proxy=None)
                for some in (keys[:2], keys[2:4])
            ]
            for client_ in (first, second):  # answered when the accounts' streams are open
                assert len((await ask(client_, {"id": 1, "method": "LIST_SUBSCRIPTIONS"}))["result"]) == 2
            assert await refused(f"{edge.url}/ws/{keys[4]}") == (429, -1034)
            other = await connect(f"{edge.url}/ws", proxy=None)
            answer = await ask(other, {"id": 1, "method": "SUBSCRIBE", "params": ["btcusdt@ticker"]})
            assert answer["error"]["msg"] == "Invalid request: more than 4 streams of one network"
            await first.close()
            while True:  # its place is free, and only its
                answer = await ask(
                    other, {"id": 1, "method": "SUBSCRIBE", "params": ["btcusdt@ticker", "ethusdt@ticker"]}
                )
                if "error" not in answer:
                    break
                await asyncio.sleep(0.3)
            assert await refused(f"{edge.url}/ws/{keys[4]}") == (429, -1034)
            for client_ in (second, other):
                await client_.close()


async def test_whoever_left_is_forgotten_before_its_handler_notices() -> None:
    forgotten, ends = asyncio.Event(), asyncio.Event()
    seen: list[EdgeConnection] = []

    async def handle(connection: ServerConnection) -> None:
        assert isinstance(connection, EdgeConnection)
        connection.open_target(Target(Door.RAW), "127.0.0.1")
        connection.when_lost(forgotten.set)
        seen.append(connection)
        await ends.wait()  # it does not read

    def create(*arguments: Any, **options: Any) -> EdgeConnection:
        return EdgeConnection(*arguments, messages_per_second=5, peers=peers, **options)

    peers = Crowd(10, 10)
    async with (
        asyncio.timeout(TIMEOUT_S),
        serve(handle, "127.0.0.1", 0, create_connection=create, compression=None) as server,  # type: ignore[arg-type]
    ):
        client = await connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", proxy=None)
        assert peers.total == 1
        client.transport.abort()
        try:
            await asyncio.wait_for(forgotten.wait(), TIMEOUT_S / 2)
        finally:
            ends.set()
        assert (peers.total, peers.networks()) == (0, 0)
        seen[0].deliver_frame(b"x")  # to nobody, and no error
        late: list[bool] = []
        seen[0].when_lost(lambda: late.append(True))
        assert late == [True]


async def test_connections_without_a_handshake_are_counted(redis_url: str, tmp_path: Path) -> None:
    with running_edge(
        redis_url, tmp_path, WS_CONNECTIONS_PER_ADDRESS_MAX="5", RATE_LIMITS_ENABLED="false"
    ) as edge:
        host, port = edge.url.removeprefix("ws://").split(":")
        silent = [socket.create_connection((host, int(port)), TIMEOUT_S) for _ in range(30)]
        await asyncio.sleep(1.0)
        open_ = 0
        for each in silent:
            each.setblocking(False)
            try:
                each.recv(1)
            except BlockingIOError:
                open_ += 1
            except ConnectionResetError:
                pass
        assert open_ == 10
        for each in silent:
            each.close()
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                async with connect(f"{edge.url}/ws-api/v3", proxy=None) as api:
                    told = (await ask(api, {"id": 1, "method": "exchangeInfo"}))["result"]["rateLimits"]
                    break
            except (OSError, InvalidMessage):
                assert time.monotonic() < deadline, "those that left are counted for ever"
                await asyncio.sleep(0.1)
        limits = [
            (each["rateLimitType"], each["interval"], each["intervalNum"], each["limit"]) for each in told
        ]
        assert limits[-2:] == [
            ("RAW_REQUESTS", "MINUTE", 5, 10_000_000),
            ("CONNECTIONS", "MINUTE", 5, 10_000_000),
        ]
