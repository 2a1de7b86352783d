"""A WebSocket edge as a process, and its shards' logs."""

import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from cli.local.free_ports import free_port
from runtime.settings import PREFIX
from stream_log.redis_log import RedisStreamLog
from tests.support.market_log import market_map, publish_markets
from tests.support.nursery import Forked, nursery

START_TIMEOUT_S = 90


END_TIMEOUT_S = 60
"""What a loaded machine may need; how long an end takes at most has tests of its own."""


POLL_S = 0.02


def say_markets(redis_url: str) -> None:
    """Say what the shard would."""
    with closing(RedisStreamLog.connect(redis_url)) as log:
        publish_markets(log, market_map())


class Edge(NamedTuple):
    """A running edge."""

    url: str
    process: Forked


@contextmanager
def running_edge(redis_url: str, folder: Path, **settings: str) -> Iterator[Edge]:
    """Run an edge, and see to it that it ends only when told to."""
    say_markets(redis_url)
    port = free_port()
    process = _start("ws_edge.main", redis_url, folder, WS_PORT=str(port), **settings)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _answers(port):
            assert process.poll() is None, "the edge ended"
            assert time.monotonic() < deadline, "the edge does not answer"
            time.sleep(POLL_S)
        yield Edge(f"ws://127.0.0.1:{port}", process)
    finally:
        _end(process)
    assert process.returncode == 0, "the edge ended by itself"


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _start(module: str, redis_url: str, folder: Path, **settings: str) -> Forked:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    # No database is needed: API keys have their read model, and nobody asks for average prices here.
    own = {
        "DATA_DIR": str(folder),
        "REDIS_URL": redis_url,
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
    }
    # All clients are one network here; tests/integration/ws_edge/test_door.py is about limits.
    own |= dict.fromkeys(
        ("REQUEST_WEIGHT_PER_MINUTE", "RAW_REQUESTS_PER_5M", "WS_CONNECTIONS_PER_5M"), "10000000"
    )
    environment = inherited | {PREFIX + name: value for name, value in {**own, **settings}.items()}
    return nursery().start(module, environment)


def _end(process: Forked) -> None:
    process.terminate()
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
