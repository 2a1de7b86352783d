"""Redis or the database is away: 503 and Retry-After, never a 500, and back to work afterwards."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import redis

from tests.support.api import Api, RefusedError, new_account, refused
from tests.support.eventually import eventually
from tests.support.gateway_processes import Processes
from tests.support.outages import is_done, order
from tests.support.own_servers import OwnRedis

UNAVAILABLE = "Internal error; unable to process your request. Please try again."


@pytest.fixture
def apart(own_redis: OwnRedis, database_url: str, tmp_path: Path) -> Iterator[Processes]:
    with ExitStack() as stack:
        yield Processes(own_redis.settings.resolved_redis_url(), database_url, tmp_path, stack)


def test_redis_dies_and_comes_back(apart: Processes, own_redis: OwnRedis) -> None:
    apart.shards()
    url = apart.gateway()
    api = new_account(url, USDT="1000")
    order(api)
    own_redis.kill()
    for _ in range(3):
        with pytest.raises(RefusedError) as refusal:
            order(api)
        assert (refusal.value.status, refusal.value.code) in ((503, -1001), (503, -1007))
        answer = httpx.get(f"{url}/api/v3/depth?symbol=BTCUSDT")
        assert (answer.status_code, answer.json()["code"], answer.headers["Retry-After"]) == (503, -1001, "1")
    assert httpx.get(f"{url}/api/v3/ping").json() == {}
    own_redis.start()
    eventually("market data is there again", is_done(lambda: api.get("/api/v3/depth", symbol="BTCUSDT")))
    apart.shards()
    eventually("orders are taken again", is_done(lambda: order(api)))


def test_redis_is_read_only(apart: Processes, own_redis: OwnRedis) -> None:
    apart.shards()
    api = new_account(apart.gateway(), USDT="1000")
    with redis.Redis.from_url(own_redis.settings.resolved_redis_url()) as client:
        client.replicaof("127.0.0.1", 1)
        with refused(-1001, UNAVAILABLE):
            order(api)
        client.replicaof("NO", "ONE")
    apart.shards()
    eventually("orders are taken again", is_done(lambda: order(api)))


def test_orders_need_no_database(processes: Processes) -> None:
    processes.shards()
    api = new_account(processes.gateway(), USDT="1000")
    processes.database_url = "postgresql://127.0.0.1:1/nowhere"
    alone = processes.gateway()
    own = Api(alone, api.key, api.secret)
    eventually("an accepted order", is_done(lambda: order(own)))
    for answer in (
        httpx.get(f"{alone}/api/v3/klines?symbol=BTCUSDT&interval=1m", timeout=10),
        httpx.post(
            f"{alone}/api/v1/signup", json={"email": "a@example.com", "password": "long enough"}, timeout=10
        ),
    ):
        assert (answer.status_code, answer.json()["code"], answer.headers["Retry-After"]) == (503, -1001, "1")
