"""The API's description, and an exchange with one of everything that it describes."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import httpx
import psycopg

from functions.catalog import FUNCTIONS
from persist.ingest import ShardIngest
from stream_log.redis_log import RedisStreamLog
from tests.support.gateway_processes import Processes
from tests.support.schema_fuzzing import World

INGEST_POLL_S = 0.01


BY_LABEL = {f"{function.method} {function.path}": function for function in FUNCTIONS}


@contextmanager
def ingesting(processes: Processes) -> Iterator[None]:
    """Store what the shards say, as the persist workers do."""
    ended = threading.Event()

    def run() -> None:
        with closing(RedisStreamLog.connect(processes.redis_url)) as log:
            workers = [
                ShardIngest(shard, log, processes.database_url, processes.shard_count, 2_000)
                for shard in range(processes.shard_count)
            ]
            while not ended.wait(INGEST_POLL_S):
                for worker in workers:
                    worker.step()
            for worker in workers:
                worker.close()

    thread = threading.Thread(target=run, name="ingest")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def exchange(processes: Processes) -> Iterator[tuple[str, dict[str, Any]]]:
    """Start an exchange without limits, and yield its URL and its description."""
    processes.shards()
    processes.feeds()
    url = processes.gateway(
        FAUCET_AMOUNT_MAX="1000000",
        ORDERS_PER_10S="1000000",
        ORDERS_PER_DAY="1000000000",
    )
    with ingesting(processes):
        document: dict[str, Any] = httpx.get(f"{url}/schema/openapi.json").raise_for_status().json()
        yield url, document


def a_world(processes: Processes, url: str, document: dict[str, Any], seed: int) -> World:
    """Return who asks; one of them has withdrawn something, and all mails are theirs to read."""

    def mails() -> list[str]:
        with psycopg.connect(processes.database_url) as connection:
            rows = connection.execute("SELECT body FROM mails ORDER BY mail_id DESC LIMIT 20").fetchall()
        return [body for (body,) in reversed(rows)]

    world = World(url, BY_LABEL, document, seed, mails)
    with psycopg.connect(processes.database_url) as connection:
        connection.execute(
            "INSERT INTO transfers VALUES (%s, 'withdrawal', 'w1', 'BTC', 100000000, now())",
            (world.account_id,),
        )
    return world
