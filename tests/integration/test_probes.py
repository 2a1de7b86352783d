"""Every process on real servers: it is ready, it says why it is not, and a hanging loop is seen."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from cli.local.free_ports import free_port
from engine_worker.main import why_not_ready
from runtime.settings import PREFIX
from stream_log.redis_log import RedisStreamLog
from tests.integration.conftest import OwnRedis
from tests.integration.test_worker import market_map, memory_log, worker
from tests.support.market_log import publish_markets
from tests.unit.runtime.test_probes import ask

DEADLINE_S = 60
PROCESSES: Mapping[str, tuple[str, ...]] = {
    "engine": ("engine_worker.main",),
    "gateway": ("gateway.main",),
    "feeds": ("feeds.main",),
    "ws-edge": ("ws_edge.main",),
    "nudger": ("persist.main", "nudge"),
    "worker": ("persist.main", "work"),
    "mm": ("mm.main",),
}


class Running:
    """Processes with metrics, which end with the test."""

    def __init__(self, redis_url: str, database_url: str, folder: Path, stack: ExitStack) -> None:
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        self._settings = {"redis_url": redis_url, "database_url": database_url, "data_dir": str(folder)}
        self._settings |= {name: str(free_port()) for name in ("rest_port", "ws_port")}
        self._stack = stack
        self.rest_url = f"http://127.0.0.1:{self._settings['rest_port']}"
        self.ws_port = int(self._settings["ws_port"])
        self.ports: dict[str, int] = {}
        self.pids: dict[str, int] = {}

    def say_markets(self) -> None:
        """Say what a shard would, for tests that need none otherwise."""
        with closing(RedisStreamLog.connect(self._settings["redis_url"])) as log:
            publish_markets(log, market_map(1))

    def start(self, name: str, what: str = "", **settings: object) -> None:
        self.ports[name] = free_port()
        values = {**self._settings, "metrics_port": self.ports[name], **settings}
        environment = self._environment | {PREFIX + key.upper(): str(value) for key, value in values.items()}
        process = subprocess.Popen([sys.executable, "-m", *PROCESSES[what or name]], env=environment)
        self.pids[name] = process.pid
        self._stack.callback(process.wait, DEADLINE_S)
        self._stack.callback(process.kill)

    def ready(self, name: str) -> tuple[int, dict[str, str]]:
        try:
            return ask(f"http://127.0.0.1:{self.ports[name]}/readyz")
        except OSError:
            return 0, {}

    def until(self, name: str, status: int, *reasons: str, says: str = "") -> None:
        """Wait until a process answers so, gives these reasons at least, and says this in one of them."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            answered, found = self.ready(name)
            said = not says or any(says in reason for reason in found.values())
            if answered == status and set(reasons) <= found.keys() and said:
                return
            assert time.monotonic() < deadline, (name, answered, found)
            time.sleep(0.02)

    def lives(self, name: str) -> bool:
        return ask(f"http://127.0.0.1:{self.ports[name]}/livez")[0] == 200


@pytest.fixture
def running(own_redis: OwnRedis, database_url: str, tmp_path: Path) -> Iterator[Running]:
    with ExitStack() as stack:
        yield Running(own_redis.settings.resolved_redis_url(), database_url, tmp_path, stack)


def test_all_become_ready_and_say_when_redis_is_away(running: Running, own_redis: OwnRedis) -> None:
    running.start("engine")
    running.until("engine", 503, "process")
    assert "compared with the database" in running.ready("engine")[1]["process"]
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
