"""Servers that a test has to itself."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.backups import Backup
from tests.support.own_servers import OwnPostgres, OwnRedis


@pytest.fixture
def backup(own_postgres: OwnPostgres, tmp_path: Path) -> Iterator[Backup]:
    made = Backup(own_postgres, tmp_path / "a backup")
    yield made
    made.connection.close()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[OwnRedis]:
    server = OwnRedis(tmp_path / "redis")
    yield server
    server.kill()


@pytest.fixture
def own_postgres() -> Iterator[OwnPostgres]:
    # Not pytest's folder: the server runs as another user, who may not enter that.
    folder = Path(tempfile.mkdtemp(prefix="exchange-test-"))
    folder.chmod(0o755)
    server = OwnPostgres(folder)
    yield server
    server.kill()
    shutil.rmtree(folder)
