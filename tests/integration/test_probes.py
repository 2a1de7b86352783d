"""Every process on real servers: it is ready, it says why it is not, and a hanging loop is seen."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from engine_worker.main import why_not_ready
from tests.support.own_servers import OwnRedis
from tests.support.probed_processes import PROCESSES, Running
from tests.support.workers import market_map, memory_log, worker


@pytest.fixture
def running(own_redis: OwnRedis, database_url: str, tmp_path: Path) -> Iterator[Running]:
    with ExitStack() as stack:
        yield Running(own_redis.settings.resolved_redis_url(), database_url, tmp_path, stack)


def test_all_become_ready_and_say_when_redis_is_away(running: Running, own_redis: OwnRedis) -> None:
    running.start("engine")
    running.until("engine", 503, "process", says="compared with the database")
    for name in ("gateway", "feeds", "ws-edge", "nudger", "worker", "mm"):
        running.start(name)
    for name in PROCESSES:
        running.until(name, 200)
        assert running.lives(name)
    running.start("standby", "engine", engine="engine-0-standby-1")
    running.until("standby", 200)
    own_redis.kill()
    for name in ("engine", "standby", "feeds", "nudger", "worker"):
        running.until(name, 503, says="Redis")
        assert running.lives(name)
    # These tell clients themselves what is the matter; were they all taken out of the balancer, nobody would.
    for name in ("gateway", "ws-edge"):
        assert running.ready(name) == (200, {})
        assert running.lives(name)
    assert running.ready("mm") == (200, {})  # it waits, and knows for what
    own_redis.start()
    for name in (*PROCESSES, "standby"):
        running.until(name, 200)


def test_the_worker_says_when_the_database_is_away(running: Running) -> None:
    running.start("worker", database_url="postgresql://nobody@127.0.0.1:1/none")
    running.until("worker", 503, "database")
    assert running.lives("worker")


def test_a_gateway_is_not_ready_before_it_has_reached_redis(running: Running, own_redis: OwnRedis) -> None:
    own_redis.kill()
    running.start("gateway")
    running.until("gateway", 503, "redis", "links")
    assert running.lives("gateway")
    own_redis.start()
    running.until("gateway", 503, "markets", says="shard 0 has not said yet which markets it has")
    assert running.lives("gateway")
    running.say_markets()
    running.until("gateway", 200)


def test_a_standby_that_is_too_far_behind_is_not_ready_until_it_leads() -> None:
    standby = worker(memory_log(), 0, market_map(1))
    standby.join()
    assert why_not_ready(standby, 5) is None
    standby.lag_ms = 6
    assert why_not_ready(standby, 5) == "it stands by, 6 ms behind; more than 5 is too much"
    standby.lead()
    assert why_not_ready(standby, 5) is None
