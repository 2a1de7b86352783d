"""What Redis answers when it cannot: clients get 503 and Retry-After, no process ends, and all go on by
themselves."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import redis
from redis.cluster import key_slot  # type: ignore[attr-defined]

from protocol import streams
from tests.support.api import Api, RefusedError, new_account
from tests.support.eventually import eventually
from tests.support.gateway_processes import Processes
from tests.support.outages import is_done, order
from tests.support.redis_servers import RedisServers, redis_servers

BALLAST = 3_000
"""Values that make loading take some seconds.

They must not be compressible, since Redis listens once in 2 MB.
"""
ASKED = (
    "/api/v3/depth?symbol=BTCUSDT",
    "/api/v3/ticker/bookTicker?symbol=BTCUSDT",
    "/api/v3/trades?symbol=BTCUSDT",
)


@pytest.fixture
def single(tmp_path: Path) -> Iterator[RedisServers]:
    with redis_servers(tmp_path, "single") as servers:
        yield servers


def exchange_on(
    url: str, database_url: str, folder: Path, stack: ExitStack, shard_count: int = 1
) -> Processes:
    processes = Processes(url, database_url, folder, stack)
    processes.shard_count = shard_count
    return processes


def replica_of_nobody(client: redis.Redis) -> None:
    client.replicaof("127.0.0.1", "1")


def master_again(client: redis.Redis) -> None:
    client.replicaof("NO", "ONE")


def needs_replicas(client: redis.Redis) -> None:
    client.config_set("min-replicas-to-write", 1)


def needs_none(client: redis.Redis) -> None:
    client.config_set("min-replicas-to-write", 0)


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        pytest.param(replica_of_nobody, master_again, id="READONLY"),
        pytest.param(needs_replicas, needs_none, id="NOREPLICAS"),
    ],
)
def test_redis_refuses_to_write(
    single: RedisServers,
    database_url: str,
    tmp_path: Path,
    begin: Callable[[redis.Redis], None],
    end: Callable[[redis.Redis], None],
) -> None:
    with ExitStack() as stack:
        processes = exchange_on(single.url, database_url, tmp_path, stack)
        engines = processes.shards()
        api = new_account(processes.gateway(), USDT="1000")
        order(api)
        with single.client("redis") as client:
            begin(client)
            only_unavailable(api)
            end(client)
        eventually("orders are taken again", is_done(lambda: order(api)))
        assert [each.poll() for each in engines] == [None], "the engine has waited"


def test_redis_is_loading(single: RedisServers, database_url: str, tmp_path: Path) -> None:
    with single.client("redis") as client, client.pipeline(transaction=False) as pipeline:
        for number in range(BALLAST):
            pipeline.set(f"ballast:{number}", os.urandom(5_000))
        pipeline.execute()
        client.bgrewriteaof()
        eventually("a short log", lambda: not client.info("persistence")["aof_rewrite_in_progress"])
    with ExitStack() as stack:
        processes = exchange_on(single.url, database_url, tmp_path, stack)
        engines = processes.shards()
        api = new_account(processes.gateway(), USDT="1000")
        order(api)
        single.kill("redis")
        single.start_one("redis", "--key-load-delay", "2000")
        eventually("LOADING", lambda: is_loading(single, in_words=True))
        assert refusal_of(api) is not None
        while is_loading(single):
            refusal_of(api)
        eventually("orders are taken again", is_done(lambda: order(api)), timeout_s=60)
        assert [each.poll() for each in engines] == [None], "the engine has waited"


def is_loading(servers: RedisServers, *, in_words: bool = False) -> bool:
    """Whether it says that it is loading, or, since it listens only now and then meanwhile, says nothing."""
    with servers.client("redis") as client:
        try:
            client.get("ballast:0")
        except redis.BusyLoadingError:
            return True
        except redis.TimeoutError:
            return not in_words
        except redis.ConnectionError:
            return False
    return False


def only_unavailable(api: Api) -> None:
    """Ask for everything; an order is refused with 503, and nothing else that goes wrong is anything but
    that."""
    deadline = time.monotonic() + 1
    refusals = 0
    while time.monotonic() < deadline or not refusals:
        assert refusal_of(api) is not None
        refusals += 1


def refusal_of(api: Api) -> RefusedError | None:
    """Place an order and ask for market data: what is not done is not done for now, and nothing worse.

    Return the order's refusal.
    """
    refusal = None
    try:
        order(api)
    except RefusedError as error:
        if (error.status, error.code) not in ((503, -1001), (503, -1007)):
            raise
        refusal = error
    for path in ASKED:
        answer = api.http.get(path)
        assert answer.status_code in (200, 503)
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            assert answer.headers["Retry-After"] == "1"
    return refusal


@pytest.fixture
def trading_on_a_cluster(
    cluster_servers: RedisServers, database_url: str, tmp_path: Path
) -> Iterator[tuple[Processes, Api]]:
    cluster_servers.flush()
    with ExitStack() as stack:
        processes = exchange_on(cluster_servers.url, database_url, tmp_path, stack, shard_count=3)
        processes.shards()
        api = new_account(processes.gateway(), USDT="1000")
        eventually("a first order", is_done(lambda: order(api)))
        yield processes, api


def test_a_slot_of_the_cluster_has_no_server(
    cluster_servers: RedisServers, trading_on_a_cluster: tuple[Processes, Api]
) -> None:
    _, api = trading_on_a_cluster
    slots = {key_slot(streams.position(shard).encode()) for shard in range(3)}
    taken = [
        (name, slot)
        for slot in slots
        for name in ("redis-1", "redis-2", "redis-3")
        if has(cluster_servers, name, slot)
    ]
    for name, slot in taken:
        with cluster_servers.client(name) as client:
            client.execute_command("CLUSTER DELSLOTS", slot)
    only_unavailable(api)
    for name, slot in taken:
        with cluster_servers.client(name) as client:
            client.execute_command("CLUSTER ADDSLOTS", slot)
    eventually("orders are taken again", is_done(lambda: order(api)), timeout_s=60)


def has(servers: RedisServers, name: str, slot: int) -> bool:
    with servers.client(name) as client:
        own = next(
            line for line in client.execute_command("CLUSTER NODES").values() if "myself" in line["flags"]
        )
    return any(int(each[0]) <= slot <= int(each[-1]) for each in own["slots"])


def test_a_shard_moves_to_another_node(
    cluster_servers: RedisServers, trading_on_a_cluster: tuple[Processes, Api]
) -> None:
    _, api = trading_on_a_cluster
    slot = key_slot(streams.position(0).encode())
    names = ("redis-1", "redis-2", "redis-3")
    source = next(name for name in names if has(cluster_servers, name, slot))
    target = next(name for name in names if name != source)
    move(cluster_servers, slot, source, target)
    try:
        for _ in range(20):
            eventually("orders are taken again", is_done(lambda: order(api)), timeout_s=60)
        assert has(cluster_servers, target, slot)
    finally:
        move(cluster_servers, slot, target, source)
    eventually("orders are taken again", is_done(lambda: order(api)), timeout_s=60)


def move(servers: RedisServers, slot: int, source: str, target: str) -> None:
    """Move a slot with all its keys, as `redis-cli --cluster reshard` does."""
    password = servers.settings.password_file.read_text("ascii").strip()
    with servers.client(source) as old, servers.client(target) as new:
        old_id, new_id = (each.execute_command("CLUSTER MYID").decode() for each in (old, new))
        port = new.config_get("port")["port"]
        new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", old_id)
        old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", new_id)
        while keys := old.execute_command("CLUSTER GETKEYSINSLOT", slot, 100):
            old.execute_command("MIGRATE", "127.0.0.1", port, "", 0, 5_000, "AUTH", password, "KEYS", *keys)
        for client in (new, old):
            client.execute_command("CLUSTER SETSLOT", slot, "NODE", new_id)
