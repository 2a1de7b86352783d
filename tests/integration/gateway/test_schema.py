"""Some hundred requests that schemathesis makes from the served description.

Tests/long/schema_fuzzing.py has the many.
"""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import httpx
import psycopg
import pytest

from functions.catalog import FUNCTIONS
from persist.ingest import ShardIngest
from stream_log.redis_log import RedisStreamLog
from tests.integration.gateway.conftest import Processes
from tests.support.schema_fuzzing import World, fuzz, fuzz_stateful, report

SEED = 20_261_129
EXAMPLES, WALKING, STEPS = 6, 60, 8
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


@pytest.mark.timeout(600)
def test_answers_are_what_the_description_says(processes: Processes) -> None:
    with exchange(processes) as (url, document):
        world = a_world(processes, url, document, SEED)
        fuzz(world, document, EXAMPLES, SEED)
        fuzz_stateful(world, document, WALKING, STEPS, SEED)
    text, _, _ = report(document, world.seen)
    assert world.seen.violations == [], text
    assert world.seen.cases.total() > 400
    assert set(world.seen.cases) == set(BY_LABEL)
    succeeded = [label for label, statuses in world.seen.statuses.items() if statuses[200]]
    assert len(succeeded) > 40, text


def test_an_answer_that_the_description_does_not_have_is_found(processes: Processes) -> None:
    """The control: a description that lacks a field, a status, or has another form of amounts."""
    with exchange(processes) as (url, document):
        schemas = document["components"]["schemas"]
        del schemas["DepthShape"]["properties"]["asks"]
        schemas["TimeShape"]["properties"]["serverTime"] = {"type": "string"}
        del document["paths"]["/api/v3/avgPrice"]["get"]["responses"]["400"]
        only = {
            path: document["paths"][path] for path in ("/api/v3/depth", "/api/v3/time", "/api/v3/avgPrice")
        }
        world = a_world(processes, url, document, SEED)
        fuzz(world, {**document, "paths": only}, 20, SEED)
    found = {violation.partition(":")[0] for violation in world.seen.violations}
    assert found == {"GET /api/v3/depth", "GET /api/v3/time", "GET /api/v3/avgPrice"}
