"""Whatever a client sends, it hears a clear error or is closed with the right code.

And a slow one hurts only itself.
"""

import asyncio
import json
import socket
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

from tests.support.closing import TIMEOUT_S, closing
from ws_edge.conflation import text_frame
from ws_edge.connection import STUCK_S_MAX, EdgeConnection
from ws_edge.subscriptions import Door, Target


async def ask(client: ClientConnection, frame: str | dict[str, Any]) -> Any:
    await client.send(frame if isinstance(frame, str) else json.dumps(frame))
    return json.loads(await client.recv())


async def test_one_edge_bears_it_all(edge: str) -> None:
    async with connect(f"{edge}/ws") as witness:
        await _refused_at_the_door(edge)
        await _wrong_frames(edge)
        await _floods(edge)
        await _half_open(edge)
        await _api_garbage(edge)
        await _subscriptions(edge)
        assert await ask(witness, {"method": "LIST_SUBSCRIPTIONS", "id": 1}) == {"result": [], "id": 1}


async def _refused_at_the_door(edge: str) -> None:
    upgrade = {
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }  # fmt: skip
    async with httpx.AsyncClient(base_url=edge.replace("ws://", "http://"), headers=upgrade) as http:
        for path, status, code in (
            ("/", 404, -1020),
            ("/wsx", 404, -1020),
            ("/ws?timeUnit=foo", 400, -1194),
            ("/ws-api/v3?timeUnit=foo", 400, -1194),
            ("/api/v3/ping", 404, -1020),
            (f"/ws/{'x@' * 101}", 400, -1101),
            (f"/ws/{'x' * 64}", 400, -1125),
        ):
            answer = await http.get(path)
            assert (answer.status_code, answer.json()["code"]) == (status, code)
        too_many = "/".join(f"a{number}@trade" for number in range(1025))
        assert (await http.get(f"/stream?streams={too_many}")).status_code in (400, 414)
    async with httpx.AsyncClient(base_url=edge.replace("ws://", "http://")) as http:
        assert (await http.get("/ws")).status_code == 426


async def _wrong_frames(edge: str) -> None:
    async with connect(f"{edge}/ws") as client:
        for frame, code in (
            ("{", 3),
            ("nonsense", 3),
            ("[]", 2),
            ('{"id":1}', 2),
            ('{"method":"EAT","id":1}', 2),
        ):
            assert (await ask(client, frame))["error"]["code"] == code
    async with connect(f"{edge}/ws") as client:
        key = "x" * 64
        answer = await ask(client, {"method": "SUBSCRIBE", "params": ["btcusdt@trade", key], "id": 5})
        assert (answer["id"], answer["error"]["code"]) == (5, -1125)
        assert key not in json.dumps(answer), "an error does not repeat a credential"
        assert (await ask(client, {"method": "LIST_SUBSCRIPTIONS", "id": 6}))["result"] == []
        keys = [f"{number:064d}" for number in range(11)]
        answer = await ask(client, {"method": "SUBSCRIBE", "params": keys, "id": 7})
        assert (answer["id"], answer["error"]["code"]) == (7, 2)
    for door in ("/ws", "/ws-api/v3"):
        async with connect(edge + door) as client:
            await client.send(b"\x00\x01")
            assert (await closing(client))[0] == 1003
        async with connect(edge + door) as client:
            await client.send("x" * 100_000)
            assert (await closing(client))[0] == 1009
    async with connect(f"{edge}/ws") as client:
        client.transport.write(b"\xff\xff\xff\xff")  # no frame at all
        assert (await closing(client))[0] == 1002
    async with connect(f"{edge}/ws") as client:
        await client.send([b'{"method": "\xff"'.decode("latin-1"), '"}'])  # in fragments
        assert "error" in json.loads(await client.recv())


async def _floods(edge: str) -> None:
    async with connect(f"{edge}/ws") as client:
        for number in range(50):
            await client.send(json.dumps({"method": "LIST_SUBSCRIPTIONS", "id": number}))
        assert await closing(client) == (1008, "too many messages")
    async with connect(f"{edge}/ws") as client:
        for _ in range(50):
            _ = await client.ping()
        assert await closing(client) == (1008, "too many messages")


async def _half_open(edge: str) -> None:
    host, port = edge.removeprefix("ws://").split(":")
    for sent in (b"", b"GET /ws HTTP/1.1\r\n", b"\x16\x03\x01nonsense\r\n\r\n", b"GET " + b"/" * 20_000):
        with socket.create_connection((host, int(port)), TIMEOUT_S) as raw:
            raw.sendall(sent)


async def _api_garbage(edge: str) -> None:
    async with connect(f"{edge}/ws-api/v3") as client:
        for frame, status, code in (
            ("{", 400, -1135),
            ("[1,2]", 400, -1135),
            ({"id": 1}, 400, -1135),
            ({"id": 1, "method": "order.eat"}, 400, -1020),
            ({"id": 1, "method": "depth"}, 400, -1102),
            ({"id": 1, "method": "depth", "params": {"symbol": None}}, 400, -1102),
            ({"id": 1, "method": "depth", "params": {"symbol": "NOSUCH"}}, 400, -1121),
            ({"id": 1, "method": "time", "params": {"x": {"y": [1]}}}, 400, -1104),
            ({"id": 1, "method": "order.place", "params": {"symbol": "BTCUSDT"}}, 400, -1102),
            ({"id": 1, "method": "userDataStream.subscribe"}, 401, -1002),
            ({"id": 1, "method": "userDataStream.unsubscribe", "params": {"subscriptionId": 3}}, 400, -2036),
        ):
            answer = await ask(client, frame)
            assert (answer["status"], answer["error"]["code"]) == (status, code), frame
        answer = await ask(client, {"id": "a", "method": "v3/ping", "params": {"returnRateLimits": False}})
        assert answer == {"id": "a", "status": 200, "result": {}}
        assert (await ask(client, {"id": 1, "method": "ping", "params": None}))["status"] == 200
        answer = await ask(client, {"id": None, "method": "session.status"})
        assert (answer["id"], answer["result"]["apiKey"], answer["result"]["userDataStream"]) == (
            None,
            None,
            False,
        )
        assert answer["rateLimits"][0]["rateLimitType"] == "REQUEST_WEIGHT"


async def _subscriptions(edge: str) -> None:
    async with connect(f"{edge}/stream?streams=btcusdt@trade") as client:
        await ask(client, {"method": "SUBSCRIBE", "params": ["ethusdt@trade"], "id": 1})
        await ask(client, {"method": "UNSUBSCRIBE", "params": ["btcusdt@trade"], "id": 2})
        listed = await ask(client, {"method": "LIST_SUBSCRIPTIONS", "id": "three"})
        assert listed == {"result": ["ethusdt@trade"], "id": "three"}
        assert (await ask(client, {"method": "GET_PROPERTY", "params": ["combined"], "id": 4}))[
            "result"
        ] is True
        many = [f"{market}@kline_1m" for market in ("btcusdt", "ethusdt")] * 600
        assert (await ask(client, {"method": "SUBSCRIBE", "params": many, "id": 5}))["error"]["code"] == 2


@pytest.mark.parametrize(
    "reason", ["too slow: too much waits to be read", "too slow: nothing was read for too long"]
)
async def test_a_client_that_does_not_read_is_closed_with_a_reason(reason: str) -> None:
    other_side: asyncio.Future[EdgeConnection] = asyncio.get_running_loop().create_future()

    async def handle(connection: ServerConnection) -> None:
        assert isinstance(connection, EdgeConnection)
        connection.open_target(Target(Door.RAW), "127.0.0.1")
        frame = text_frame(b"x" * 10_000)
        if reason.endswith("read"):
            while not connection.closing:
                connection.deliver_frame(frame)
                await asyncio.sleep(0)
        else:
            while connection.slow_since is None:
                connection.deliver_frame(frame)
            connection.check_slow(connection.slow_since + STUCK_S_MAX - 0.1)
            assert not connection.closing
            connection.check_slow(connection.slow_since + STUCK_S_MAX + 0.1)
        other_side.set_result(connection)
        await connection.wait_closed()

    def create(*arguments: Any, **options: Any) -> EdgeConnection:
        return EdgeConnection(*arguments, messages_per_second=5, **options)

    async with (
        asyncio.timeout(TIMEOUT_S),
        serve(handle, "127.0.0.1", 0, create_connection=create, compression=None) as server,  # type: ignore[arg-type]
        connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", max_queue=1) as client,
    ):
        assert (await other_side).transport.get_write_buffer_size() < 100_000
        assert await closing(client) == (1013, reason)


async def test_sigterm_says_so_and_waits_for_nobody(edge_process: Any) -> None:
    url, process = edge_process
    async with (
        asyncio.timeout(TIMEOUT_S),
        connect(f"{url}/ws/btcusdt@trade") as client,
        connect(f"{url}/ws-api/v3") as other,
    ):
        await ask(client, {"method": "LIST_SUBSCRIPTIONS", "id": 1})
        await ask(other, {"id": 1, "method": "ping"})
        process.terminate()
        assert json.loads(await client.recv())["e"] == "serverShutdown"
        assert json.loads(await other.recv())["event"]["e"] == "serverShutdown"
        assert await closing(client) == (1001, "the server is shutting down")
        assert (await closing(other))[0] == 1001
    assert await asyncio.to_thread(process.wait, TIMEOUT_S) == 0
