"""Accounts whose streams come back after an outage of the edge's Redis."""

import asyncio
import itertools
import json
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import msgspec
import redis
from websockets.asyncio.client import ClientConnection, connect

from protocol import streams
from protocol.codec import encode_frame
from protocol.events import FundsDeposited
from protocol.market_data import AccountUpdate
from protocol.streams import EVENTS_FIELD
from protocol.units import AccountId, AssetUnits, TimeMs
from tests.support.edge_processes import running_edge
from tests.support.missed_events import repeats_of
from tests.support.own_servers import OwnRedis

ACCOUNTS_PER_CONNECTION: Final = 120
"""As many listenKeys as fit into an address."""


OPENED_AT_ONCE: Final = 4


BACK_S_MAX: Final = 15.0
"""The goal is five seconds.

An idle machine needs less than one (the test prints it), a loaded one may need some more.
"""


def listen_key(account: int) -> str:
    return f"{account:064d}"


def frame(account: int, number: int) -> bytes:
    amount = AssetUnits(number * 10**8)
    return encode_frame(
        [FundsDeposited(TimeMs(number), AccountId(account), "BTC", amount, f"deposit {number}", ())]
    )


def deposit(client: "redis.Redis", account: int, number: int) -> None:
    """As shard and feeds do it: into the log, to whoever listens, and noted as published."""
    entry = frame(account, number)
    client.xadd(streams.events(0), {EVENTS_FIELD: entry}, f"{number}-0")
    update = AccountUpdate(AccountId(account), f"{number}-0", msgspec.Raw(entry))
    client.publish(streams.account(account), msgspec.msgpack.encode(update))
    client.hset(streams.feeds_state(0), "published_id", f"{number}-0")


async def deposits(connection: ClientConnection, count: int) -> list[str]:
    """Return the amounts of the next deposits that a connection hears of."""
    found: list[str] = []
    while len(found) < count:
        event: Any = json.loads(await connection.recv())["data"]
        if event["e"] == "balanceUpdate":
            found.append(event["d"])
    return found


async def is_back(own_redis: OwnRedis, folder: Path, account_count: int) -> None:
    """See an edge that `account_count` accounts listen to come back."""
    accounts = range(1_001, 1_001 + account_count)
    url = own_redis.settings.resolved_redis_url()
    with redis.Redis.from_url(url) as client, client.pipeline(transaction=False) as pipeline:
        for account in accounts:
            pipeline.set(streams.listen_key(listen_key(account)), str(account))
        pipeline.execute()
        deposit(client, 1, 1)
    settings = {
        "WS_CONNECTIONS_PER_ADDRESS_MAX": "1000",
        "WS_STREAMS_PER_ADDRESS_MAX": str(2 * account_count),
    }
    with repeats_of(url), running_edge(url, folder / "edge", **settings) as edge:
        async with AsyncExitStack() as stack:
            slots = asyncio.Semaphore(OPENED_AT_ONCE)

            async def open_for(keys: str) -> ClientConnection:
                async with slots:
                    connection = await connect(f"{edge.url}/stream?streams={keys}")
                    stack.callback(connection.transport.abort)
                    # It is answered once all its accounts are listened to.
                    await connection.send('{"method": "LIST_SUBSCRIPTIONS", "id": 1}')
                    assert len(json.loads(await connection.recv())["result"]) == keys.count("/") + 1
                    return connection

            names = map(listen_key, accounts)
            batches = iter(lambda: list(itertools.islice(names, ACCOUNTS_PER_CONNECTION)), [])
            connections = await asyncio.gather(*(open_for("/".join(batch)) for batch in batches))
            first, last = connections[0], connections[-1]
            with redis.Redis.from_url(url) as client:
                deposit(client, accounts[0], 2)
            assert await deposits(first, 1) == ["2.00000000"]

            own_redis.kill()
            own_redis.start()
            started = time.monotonic()
            with redis.Redis.from_url(url) as client:
                # Nobody hears these: the edge is not back yet, or it hears them on the new connection.
                deposit(client, accounts[-1], 3)
                deposit(client, accounts[0], 4)
                async with asyncio.timeout(BACK_S_MAX):
                    assert await deposits(last, 1) == ["3.00000000"]
                    assert await deposits(first, 1) == ["4.00000000"]
                    took_s = time.monotonic() - started
                    deposit(client, accounts[0], 5)
                    assert await deposits(first, 1) == ["5.00000000"]
                listeners: Any = client.pubsub_numsub(*(streams.account(account) for account in accounts))
                calls: Any = client.info("commandstats")
    sys.stdout.write(f"\nan edge with {account_count:,} accounts was back after {took_s:.2f} s\n")
    assert {count for _, count in listeners} == {1}
    assert calls["cmdstat_subscribe"]["calls"] < account_count // 500
    assert calls["cmdstat_xrange"]["calls"] + calls["cmdstat_hget"]["calls"] < 100
