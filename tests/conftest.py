"""The real servers for tests: one Redis and one PostgreSQL per run, clean for every test.

TEST_POSTGRES_BIN names the folder of another PostgreSQL's programs (one with TimescaleDB, say),
TEST_REDIS_BIN the folder of another valkey-server or redis-server, TEST_SHARD_COUNT the number of shards of
the `exchange` fixture. TEST_DATABASE_URL names a running PostgreSQL, as its superuser, for tests that need no
more than a database; without pytest's -n.
"""

import functools
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import hypothesis
import psycopg
import pytest
import redis
from psycopg import sql
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from cli.local import embedded
from cli.local.free_ports import free_port
from runtime.database_roles import passwords_text
from runtime.settings import PREFIX, Settings
from tests.support.databases import ROLE_PASSWORDS
from tests.support.redis_servers import RedisServers, redis_servers

START_TIMEOUT_S = 60

# Every client makes a TLS context, and reads all certificates for it: 25 ms of a processor, thousands of
# times.
httpx._transports.default.create_ssl_context = functools.cache(httpx.create_ssl_context)  # type: ignore[attr-defined]

# How long a request waits on a busy machine says nothing about the code either. One that hashes a password,
# at the lowest priority, took more than the 5 s of httpx once.
httpx._config.DEFAULT_TIMEOUT_CONFIG.read = 60.0

# How fast a machine makes examples says nothing about the code.
hypothesis.settings.register_profile(
    "unhurried", suppress_health_check=[hypothesis.HealthCheck.too_slow], deadline=None
)
hypothesis.settings.load_profile("unhurried")


class _OneExchangeAtATime(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """With several workers, one of them runs all end-to-end tests that share an exchange, another one those
    that break one of their own.

    Each other test may go anywhere.
    """

    def _split_scope(self, nodeid: str) -> str:
        return next(
            (scope for scope in ("tests/e2e/alone/", "tests/e2e/") if nodeid.startswith(scope)), nodeid
        )


def pytest_configure() -> None:
    """Take SIGINT, also where the shell started the tests in its background: what ignores it, its children
    ignore, too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return _OneExchangeAtATime(config, log)


@pytest.fixture(scope="session")
def server_settings() -> Iterator[Settings]:
    """Settings of the servers that the tests share: free ports, and a data folder that any user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="exchange-test-"))
    folder.chmod(0o755)
    settings = Settings(
        data_dir=folder,
        redis_port=free_port(),
        postgres_port=free_port(),
        postgres_bin=os.environ.get("TEST_POSTGRES_BIN", ""),
        redis_bin=os.environ.get("TEST_REDIS_BIN", ""),
    )
    embedded.make_data_dir(settings)
    yield settings
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def redis_server(server_settings: Settings) -> Iterator[str]:
    """The URL of the Redis that the tests share."""
    with _running(embedded.redis_command(server_settings), lambda: embedded.redis_ready(server_settings)):
        yield server_settings.resolved_redis_url()


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The URL of an empty Redis."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server


@pytest.fixture(scope="session")
def sentinel_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServers]:
    """A Redis with a replica and three sentinels that the tests share; they leave it as they found it."""
    with redis_servers(tmp_path_factory.mktemp("sentinel"), "sentinel") as servers:
        yield servers


@pytest.fixture(scope="session")
def cluster_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServers]:
    """A Redis Cluster of three masters that the tests share."""
    with redis_servers(tmp_path_factory.mktemp("cluster"), "cluster") as servers:
        yield servers


@pytest.fixture(scope="session")
def postgres_server(server_settings: Settings) -> Iterator[str]:
    """The URL of the PostgreSQL that the tests share."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
        return
    with _running(
        embedded.postgres_command(server_settings), lambda: embedded.postgres_ready(server_settings)
    ):
        yield server_settings.resolved_database_url()


@pytest.fixture(scope="session")
def has_timescaledb(postgres_server: str) -> bool:
    """Whether that PostgreSQL has TimescaleDB."""
    with psycopg.connect(postgres_server) as connection:
        found = connection.execute(
            "SELECT 1 FROM pg_available_extensions WHERE name = 'timescaledb'"
        ).fetchone()
    return found is not None


@pytest.fixture(scope="session")
def migrated_template(postgres_server: str, server_settings: Settings) -> str:
    """The name of a migrated database to copy."""
    name = "migrated"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        url = _with_database(postgres_server, name)
        environment = {
            **os.environ,
            f"{PREFIX}DATABASE_URL": url,
            f"{PREFIX}DATABASE_ROLE_PASSWORDS": passwords_text(ROLE_PASSWORDS),
            f"{PREFIX}DATA_DIR": str(server_settings.data_dir),
        }
        subprocess.run(
            [sys.executable, "-m", "persist.main", "migrate"],
            env=environment,
            check=True,
            timeout=START_TIMEOUT_S,
        )
        # TimescaleDB's own workers would keep it from being copied.
        connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(name)))
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
        )
    return name


_numbers = itertools.count()


@pytest.fixture
def database_url(postgres_server: str, migrated_template: str) -> Iterator[str]:
    """The URL of a migrated database without rows."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(migrated_template)
            )
        )
        yield _with_database(postgres_server, name)
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _with_database(url: str, name: str) -> str:
    return f"{url.rpartition('/')[0]}/{name}"


@contextmanager
def _running(command: embedded.ServerCommand, ready: Callable[[], bool]) -> Iterator[None]:
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command.arguments, stdout=output, stderr=subprocess.STDOUT, user=command.user, group=command.group
        )
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not ready():
                if process.poll() is not None or time.monotonic() > deadline:
                    output.seek(0)
                    pytest.fail(
                        f"{command.arguments[0]} did not start:\n{output.read().decode(errors='replace')}"
                    )
                time.sleep(0.02)
            yield
        finally:
            process.send_signal(command.stop_signal)
            process.wait(START_TIMEOUT_S)


@pytest.fixture(autouse=True)
def _skip_without_timescaledb(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("timescaledb") and not request.getfixturevalue("has_timescaledb"):
        pytest.skip(
            "this PostgreSQL has no TimescaleDB; name one that has in TEST_POSTGRES_BIN or TEST_DATABASE_URL"
        )
