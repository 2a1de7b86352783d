"""A standby follows in turns: what it asks of Redis depends on the time, not on the orders."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis

from tests.support.api import Api
from tests.support.eventually import eventually
from tests.support.gateway_processes import Processes
from tests.support.newcomers import newcomer

THREADS = 4
ORDERS = 200
"""Of each thread: new ones come all the time, or the standby would find nothing new, and wait."""
TURNS_PER_S = 20
"""Of a lease of a second, without a full page to follow."""
OTHERS_PER_S = 10
"""Other questions for the snapshots, of both workers: once a second each, three at most."""


def test_a_standby_does_not_read_each_order_by_itself(processes: Processes, redis_url: str) -> None:
    processes.shards()
    url = processes.gateway()
    processes.shards(ENGINE="engine-0-standby-1", LEASE_MS="1000")
    person = newcomer(url)
    person.ask("POST", "/api/v1/faucet", {"asset": "USDT", "amount": "1000"}).raise_for_status()
    key = person.key()

    def place(_thread: int) -> None:
        api = Api(url, key.key, key.secret)
        for _ in range(ORDERS):
            order = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "IOC"}
            api.signed("POST", "/api/v3/order", **order, price="10000", quantity="0.001")

    with redis.Redis.from_url(redis_url) as client:
        eventually("a standby", lambda: client.hlen("standbys:{0}"))
        before, began = _looks(client), time.monotonic()
        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(place, range(THREADS)))
        took_s, looks = time.monotonic() - began, _looks(client) - before
    assert looks <= (TURNS_PER_S + OTHERS_PER_S) * took_s + 20, f"{looks} looks in {took_s:.1f} s"


def _looks(client: redis.Redis) -> int:
    statistics: Any = client.info("commandstats")
    return int(statistics.get("cmdstat_lrange", {}).get("calls", 0))
