"""A gateway and the shards behind it, as processes, on the real servers."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psycopg
import pytest

from cli.market_configs import all_know_all, known_configs
from cli.ports import free_port
from runtime import redis_clients
from runtime.settings import PREFIX

START_TIMEOUT_S = 90
POLL_S = 0.02


class Processes:
    """Starts gateways and shards on one Redis and one database, and ends them."""

    def __init__(self, redis_url: str, database_url: str, folder: Path, stack: ExitStack) -> None:
        self.redis_url = redis_url
        self.database_url = database_url
        self.shard_count = int(os.environ.get("TEST_SHARD_COUNT", "1"))
        self.started: list[subprocess.Popen[bytes]] = []
        self._awaits_markets = False
        self._folder = folder
        self._stack = stack

    def shards(self, **settings: str) -> list[subprocess.Popen[bytes]]:
        """Start every shard. Orders are refused until a shard has been configured, so a gateway waits for that."""
        self._awaits_markets = True
        return [self._start("engine_worker.main", SHARD=str(shard), **settings) for shard in range(self.shard_count)]

    def _await_markets(self) -> None:
        shards = range(self.shard_count)
        deadline = time.monotonic() + START_TIMEOUT_S
        with redis_clients.client(self.redis_url) as client:
            while not all_know_all(known_configs(client, shards), shards):
                assert time.monotonic() < deadline, "the shards are not configured"

    def gateway(self, **settings: str) -> str:
        """Start a gateway and return its URL once it answers."""
        port = free_port()
        process = self._start("gateway.main", **{"RATE_LIMITS_ENABLED": "false", "REST_PORT": str(port), **settings})
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                httpx.get(f"{url}/api/v3/ping")
            except httpx.TransportError:
                assert process.poll() is None, "the gateway ended"
                assert time.monotonic() < deadline, "the gateway does not answer"
                time.sleep(POLL_S)
            else:
                if self._awaits_markets:
                    self._await_markets()
                    self._awaits_markets = False
                return url

    def edge(self) -> str:
        """Start an edge and return its URL once it answers."""
        port = free_port()
        process = self._start("ws_edge.main", RATE_LIMITS_ENABLED="false", WS_PORT=str(port))
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/")
            except httpx.TransportError:
                assert process.poll() is None, "the edge ended"
                assert time.monotonic() < deadline, "the edge does not answer"
                time.sleep(POLL_S)
            else:
                return f"ws://127.0.0.1:{port}"

    def pretend_ingested(self) -> None:
        """Say that the database holds everything; nobody ingests here, and questions about history would wait for it."""
        with psycopg.connect(self.database_url) as connection:
            connection.execute(
                "INSERT INTO ingest SELECT shard, '9999999999999-0' FROM generate_series(0, 99) AS shard "
                "ON CONFLICT (shard) DO UPDATE SET last_id = excluded.last_id"
            )

    def _start(self, module: str, **settings: str) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        own = {
            "DATA_DIR": str(self._folder),
            "REDIS_URL": self.redis_url,
            "DATABASE_URL": self.database_url,
            "SHARD_COUNT": str(self.shard_count),
            "LOST_TAIL_CHECK_ENABLED": "false",  # nobody here compares the log with the database
            **settings,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", module], env=environment | {PREFIX + name: value for name, value in own.items()}
        )
        self.started.append(process)
        self._stack.callback(_end, process)
        return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGCONT)
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


@pytest.fixture
def processes(redis_url: str, database_url: str, tmp_path: Path) -> Iterator[Processes]:
    """What starts gateways and shards."""
    with ExitStack() as stack:
        yield Processes(redis_url, database_url, tmp_path, stack)


@pytest.fixture
def url(processes: Processes) -> str:
    """The URL of a gateway with its shards."""
    processes.shards()
    return processes.gateway()
