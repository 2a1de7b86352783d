"""Engine workers as processes, started, stopped and killed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from protocol.lease import Leader
from protocol.stream_id import STREAM_START
from protocol.streams import ARCHIVE_READER
from runtime.settings import PREFIX
from stream_log.redis_log import RedisStreamLog
from tests.support.eventually import eventually
from tests.support.nursery import MODULES, Forked, nursery

SHARD = 0


DEADLINE_S = 60


ENGINE, STANDBY = "engine-0", "engine-0-standby-1"


class Workers:
    """Processes of one shard on the Redis at `url`, by name."""

    def __init__(self, url: str, folder: Path, lease_ms: int, **settings: object) -> None:
        self._url = url
        self._folder = folder
        self._settings = {
            "lease_ms": lease_ms,
            "data_dir": folder,
            "redis_url": url,
            "log_format": "json",
            "lost_tail_check_enabled": "false",
            **settings,
        }
        self.running: dict[str, Forked | subprocess.Popen[bytes]] = {}
        self.log = RedisStreamLog.connect(url)
        # Nothing is trimmed: at the end the whole input is applied once more.
        self.log.mark_passed(SHARD, ARCHIVE_READER, STREAM_START)

    def start(self, name: str, module: str = "engine_worker.main", **others: object) -> None:
        """Start a process; `others` are settings of its own."""
        settings = {**self._settings, "engine": name, **others}
        own = {PREFIX + key.upper(): str(value) for key, value in settings.items()}
        environment = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)} | own
        with (self._folder / f"{name}.log").open("ab") as output:
            if module in MODULES:
                self.running[name] = nursery().start(module, environment, outputs=(1, output.fileno()))
            else:
                self.running[name] = subprocess.Popen(
                    [sys.executable, "-m", module], env=environment, stderr=output
                )

    def start_both(self, module: str = "engine_worker.main") -> None:
        """Start two, the second when the first leads, and wait until it stands by."""
        self.start(ENGINE, module)
        self.wait_for_leader(ENGINE)
        self.start(STANDBY, module)
        self.wait_for_standby(STANDBY)

    def leader(self) -> Leader | None:
        return self.log.lease(SHARD).leader

    def wait_for_leader(self, name: str) -> None:
        def leads() -> bool:
            leader = self.leader()
            return leader is not None and (leader.process, leader.pid) == (name, self.running[name].pid)

        eventually(f"{name} leads", leads)

    def wait_for_standby(self, name: str) -> None:
        pid = self.running[name].pid
        eventually(
            f"{name} stands by", lambda: (name, pid) in {each[:2] for each in self.log.standbys(SHARD)}
        )

    def send(self, name: str, number: signal.Signals) -> None:
        self.running[name].send_signal(number)

    def said(self, name: str) -> list[str]:
        return [
            json.loads(line)["event"]
            for line in (self._folder / f"{name}.log").read_text("utf-8").splitlines()
        ]

    def close(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()
