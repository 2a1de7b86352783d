"""An edge that is told to stop: requests under way are answered, later ones get a clear word, and nobody new
is let in."""

import asyncio
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import pytest
import redis
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from adapters.secret_box import SecretBox, master_key
from functions.users.api_key_record import ApiKeyRecord, KeyKind, encode_record
from protocol import streams
from protocol.units import AccountId
from runtime.settings import Settings
from tests.support.closing import closing
from tests.support.edge_processes import Edge, running_edge
from tests.support.waiting import until

TIMEOUT_S = 30
KEY, SECRET = "k" * 64, b"secret"


async def test_a_request_under_way_is_answered_before_the_close(redis_url: str, tmp_path: Path) -> None:
    record = ApiKeyRecord(
        AccountId(1001), KeyKind.HMAC, SecretBox(master_key(Settings(data_dir=tmp_path))).seal(SECRET, KEY)
    )
    with redis.Redis.from_url(redis_url) as client:
        client.set(streams.api_key(KEY), encode_record(record))
        # Nobody matches orders here, so the answer is that nobody knows, and takes its time.
        with running_edge(redis_url, tmp_path, REPLY_TIMEOUT_MS="3000", DRAIN_GRACE_MS="0") as edge:
            async with asyncio.timeout(TIMEOUT_S), connect(f"{edge.url}/ws-api/v3") as api:
                await api.send(order(1))
                await until(lambda: bool(client.xlen(streams.commands(0))))
                edge.process.terminate()
                assert json.loads(await api.recv())["event"]["e"] == "serverShutdown"
                late = json.loads(await _ask_until_refused(api))
                assert (late["status"], late["error"]["code"]) == (503, -1001)
                answer = json.loads(await api.recv())
                assert (answer["id"], answer["status"], answer["error"]["code"]) == (1, 503, -1007)
                assert await closing(api) == (1001, "the server is shutting down")
            assert await ended(edge) == 0
        assert client.xlen(streams.commands(0)) == 1


async def test_newcomers_are_sent_away_while_those_inside_may_move(redis_url: str, tmp_path: Path) -> None:
    with running_edge(redis_url, tmp_path, DRAIN_GRACE_MS="3000") as edge:
        async with asyncio.timeout(TIMEOUT_S), connect(f"{edge.url}/ws/btcusdt@trade") as inside:
            edge.process.terminate()
            assert json.loads(await inside.recv())["e"] == "serverShutdown"
            with pytest.raises(InvalidStatus) as refusal:
                await connect(f"{edge.url}/ws/btcusdt@trade")
            assert refusal.value.response.status_code == 503
            assert refusal.value.response.headers["Retry-After"] == "1"
            assert (await closing(inside))[0] == 1001
        assert await ended(edge) == 0


async def test_before_it_drains_it_goes_on_as_before(redis_url: str, tmp_path: Path) -> None:
    with running_edge(redis_url, tmp_path, DRAIN_DELAY_MS="1000", DRAIN_GRACE_MS="0") as edge:
        edge.process.terminate()
        async with asyncio.timeout(TIMEOUT_S), connect(f"{edge.url}/ws-api/v3") as api:
            await api.send('{"id": 1, "method": "ping"}')
            assert json.loads(await api.recv())["status"] == 200
            assert json.loads(await api.recv())["event"]["e"] == "serverShutdown"
            assert (await closing(api))[0] == 1001
        assert await ended(edge) == 0


async def ended(edge: Edge) -> int:
    """Wait until the process has ended by itself; return what it ended with."""
    return await asyncio.to_thread(edge.process.wait, TIMEOUT_S)


async def _ask_until_refused(api: Any) -> str:
    """Return the first refusal of a ping: the edge begins to refuse a moment after it has said that it
    leaves."""
    while True:
        await api.send('{"id": 2, "method": "ping"}')
        answer: str = await api.recv()
        if json.loads(answer)["status"] != 200:
            return answer


def order(number: int) -> str:
    parameters: dict[str, object] = {
        "apiKey": KEY,
        "symbol": "BTCUSDT",
        "side": "BUY",
        "type": "LIMIT",
        "timeInForce": "GTC",
        "quantity": "1",
        "price": "50000",
        "newClientOrderId": f"order-{number}",
        "recvWindow": 60_000,
        "timestamp": time.time_ns() // 1_000_000,
    }
    payload = "&".join(f"{name}={parameters[name]}" for name in sorted(parameters))
    signed = {**parameters, "signature": hmac.digest(SECRET, payload.encode(), hashlib.sha256).hex()}
    return json.dumps({"id": number, "method": "order.place", "params": signed})
