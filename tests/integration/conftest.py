"""Servers that a test has to itself."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.local import embedded
from cli.local.free_ports import free_port
from runtime.settings import Settings
from tests.support.api import eventually


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


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[OwnRedis]:
    server = OwnRedis(tmp_path / "redis")
    yield server
    server.kill()


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


@pytest.fixture
def own_postgres() -> Iterator[OwnPostgres]:
    # Not pytest's folder: the server runs as another user, who may not enter that.
    folder = Path(tempfile.mkdtemp(prefix="exchange-test-"))
    folder.chmod(0o755)
    server = OwnPostgres(folder)
    yield server
    server.kill()
    shutil.rmtree(folder)
