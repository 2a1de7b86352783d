"""A gateway with the processes behind it, on servers of the test."""

import os
import signal
import subprocess
import time
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import psycopg

from cli.local.free_ports import free_port
from cli.market_configs import all_know_all, known_configs
from runtime import redis_clients
from runtime.database_roles import ServiceRole
from runtime.settings import PREFIX
from stream_log.redis_log import RedisStreamLog
from tests.support.databases import service_url
from tests.support.market_log import market_map, publish_markets
from tests.support.nursery import Forked, nursery

START_TIMEOUT_S = 90


END_TIMEOUT_S = 60
"""What a loaded machine may need; how long an end takes at most has tests of its own."""


POLL_S = 0.02


_ROLES = {"gateway.main": ServiceRole.GATEWAY, "ws_edge.main": ServiceRole.EDGE}
"""Who each process is to the database; shards and feeds do not use it."""


class Processes:
    """Starts gateways and shards on one Redis and one database, and ends them."""

    def __init__(self, redis_url: str, database_url: str, folder: Path, stack: ExitStack) -> None:
        self.redis_url = redis_url
        self.database_url = database_url
        self.shard_count = int(os.environ.get("TEST_SHARD_COUNT", "1"))
        self.started: list[Forked] = []
        self._awaits_markets = self._has_shards = False
        self._folder = folder
        self._stack = stack

    def shards(self, **settings: str) -> list[Forked]:
        """Start every shard. Orders are refused until a shard has been configured, so a gateway waits for
        that."""
        self._awaits_markets = self._has_shards = True
        return [
            self._start("engine_worker.main", SHARD=str(shard), **settings)
            for shard in range(self.shard_count)
        ]

    def _say_markets(self) -> None:
        """Say what the shards would, where there is none: a gateway knows no market otherwise."""
        if not self._has_shards:
            with closing(RedisStreamLog.connect(self.redis_url)) as log:
                publish_markets(log, market_map(self.shard_count))

    def _await_markets(self, url: str) -> None:
        shards = range(self.shard_count)
        deadline = time.monotonic() + START_TIMEOUT_S
        with redis_clients.client(self.redis_url) as client:
            while not all_know_all(known_configs(client, shards), shards):
                assert time.monotonic() < deadline, "the shards are not configured"
                time.sleep(POLL_S)
        while httpx.get(f"{url}/api/v3/exchangeInfo").status_code == 503:
            assert time.monotonic() < deadline, "the gateway has not seen the configuration"
            time.sleep(POLL_S)

    def gateway(self, **settings: str) -> str:
        """Start a gateway and return its URL once it answers."""
        self._say_markets()
        port = free_port()
        process = self._start(
            "gateway.main", **{"RATE_LIMITS_ENABLED": "false", "REST_PORT": str(port), **settings}
        )
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
                    self._await_markets(url)
                    self._awaits_markets = False
                return url

    def feeds(self) -> Forked:
        """Start the feeds of every shard."""
        return self._start("feeds.main")

    def edge(self) -> str:
        """Start an edge and return its URL once it answers."""
        self._say_markets()
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
        """Say that the database holds everything.

        Nobody ingests here, and questions about history would wait for it.
        """
        with psycopg.connect(self.database_url) as connection:
            connection.execute(
                "INSERT INTO ingest SELECT shard, '9999999999999-0' FROM generate_series(0, 99) AS shard "
                "ON CONFLICT (shard) DO UPDATE SET last_id = excluded.last_id"
            )

    def _start(self, module: str, **settings: str) -> Forked:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        own = {
            "DATA_DIR": str(self._folder),
            "REDIS_URL": self.redis_url,
            "DATABASE_URL": service_url(self.database_url, _ROLES[module])
            if module in _ROLES
            else self.database_url,
            "SHARD_COUNT": str(self.shard_count),
            "LOST_TAIL_CHECK_ENABLED": "false",  # nobody here compares the log with the database
            **settings,
        }
        process = nursery().start(module, environment | {PREFIX + name: value for name, value in own.items()})
        self.started.append(process)
        self._stack.callback(_end, process)
        return process


def _end(process: Forked) -> None:
    process.send_signal(signal.SIGCONT)
    process.terminate()
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
