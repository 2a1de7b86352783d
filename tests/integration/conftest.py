"""Servers that a test has to itself."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli import embedded
from cli.ports import free_port
from runtime.settings import Settings
from tests.e2e.api import eventually


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
