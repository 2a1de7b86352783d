"""The embedded servers, as they really start."""

import psycopg
import pytest
import redis


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


def test_postgres_is_durable_and_new_enough(postgres_server: str) -> None:
    with psycopg.connect(postgres_server) as connection:
        assert connection.info.server_version >= 160000
        for name, value in (("fsync", "on"), ("synchronous_commit", "on"), ("server_encoding", "UTF8")):
            assert connection.execute("SELECT current_setting(%s)", (name,)).fetchone() == (value,)
