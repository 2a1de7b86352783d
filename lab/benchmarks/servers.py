"""A Redis as `exchange up` runs it, with one process of the exchange on it."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from cli.local import embedded
from cli.local.free_ports import free_port
from lab.benchmarks.workload import OPEN_ORDERS_MAX, roomy_markets_file
from runtime import redis_clients
from runtime.settings import PREFIX, Settings, load_settings

STOP_S = 300


@contextmanager
def redis_of_its_own() -> Iterator[tuple[Settings, redis.Redis]]:
    """Run a Redis, its data in a temporary folder, that writes every commit to disk.

    Yield settings that name it, and a client.
    """
    with tempfile.TemporaryDirectory(prefix="exchange-bench-") as folder:
        markets = roomy_markets_file(Path(folder))
        own = Settings(
            data_dir=Path(folder),
            redis_port=free_port(),
            redis_bin=load_settings().redis_bin,  # so that two servers can be compared
            markets_file=str(markets),
            open_orders_max=OPEN_ORDERS_MAX,
        )
        embedded.make_data_dir(own)
        server = subprocess.Popen(embedded.redis_command(own).arguments, stdout=subprocess.DEVNULL)
        try:
            while not embedded.redis_ready(own):
                time.sleep(0.02)
            with redis_clients.client(own.resolved_redis_url()) as client:
                yield own, client
        finally:
            server.terminate()
            server.wait(STOP_S)


@contextmanager
def process_on_redis(module: str, **settings: str) -> Iterator[tuple[redis.Redis, "subprocess.Popen[bytes]"]]:
    """Run `python -m module` with its own settings on its own Redis, which syncs every commit to disk."""
    with redis_of_its_own() as (own, client):
        values = {
            "data_dir": str(own.data_dir),
            "redis_port": str(own.redis_port),
            "markets_file": own.markets_file,
            "open_orders_max": str(own.open_orders_max),
            "log_level": "warning",
            "lost_tail_check_enabled": "false",  # there is no database to compare with
            **settings,
        }
        environment = {**os.environ, **{PREFIX + name.upper(): value for name, value in values.items()}}
        process = subprocess.Popen([sys.executable, "-m", module], env=environment)
        try:
            yield client, process
        finally:
            process.terminate()
            process.wait(STOP_S)
