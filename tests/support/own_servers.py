"""A Redis and a PostgreSQL that a test may stop."""

import os
import signal
import subprocess
from pathlib import Path

from cli.local import embedded
from cli.local.free_ports import free_port
from runtime.settings import Settings
from tests.support.eventually import eventually


class OwnRedis:
    """A Redis that a test may stop."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(data_dir=folder, redis_port=free_port())
        embedded.make_data_dir(self.settings)
        self.start()

    def start(self) -> None:
        command = embedded.redis_command(self.settings)
        self._process = subprocess.Popen(
            command.arguments, stdout=subprocess.DEVNULL, user=command.user, group=command.group
        )
        eventually("redis is there", lambda: embedded.redis_ready(self.settings))

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class OwnPostgres:
    """A PostgreSQL that is not there before a test starts it."""

    def __init__(self, folder: Path) -> None:
        bin_folder = os.environ.get("TEST_POSTGRES_BIN", "")
        self.settings = Settings(data_dir=folder, postgres_port=free_port(), postgres_bin=bin_folder)
        embedded.make_data_dir(self.settings)
        self.url = self.settings.resolved_database_url()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = embedded.postgres_command(self.settings)
        self._process = subprocess.Popen(
            command.arguments,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=command.user,
            group=command.group,
        )
        eventually("postgres is there", lambda: embedded.postgres_ready(self.settings), 60)

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
