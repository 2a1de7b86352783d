"""Every process of the exchange on servers of the test, with its probes."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path

from cli.local.free_ports import free_port
from runtime.settings import PREFIX
from stream_log.redis_log import RedisStreamLog
from tests.support.market_log import publish_markets
from tests.support.probe_questions import ask
from tests.support.workers import market_map

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
