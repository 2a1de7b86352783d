"""Processes with other shared settings than the running ones have are refused."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import redis

from protocol import streams
from runtime.agreement import FRESH_S, Agreement, Entry, agree
from runtime.settings import PREFIX, ClusterSettings, Settings, SettingsError
from tests.support.own_servers import OwnRedis

DEADLINE_S = 60
TWO_SHARDS = ClusterSettings(shard_count=2)


def say(client: "redis.Redis", name: str, settings: ClusterSettings, age_s: int = 0) -> None:
    entry = Entry(int(client.time()[0]) - age_s, settings)
    client.hset(streams.cluster_settings(0), name, msgspec.json.encode(entry))


def settings_on(url: str, **values: object) -> Settings:
    return msgspec.structs.replace(Settings(redis_url=url), **values)


def start(module: str, url: str, folder: Path) -> "subprocess.Popen[str]":
    environment = os.environ | {
        f"{PREFIX}REDIS_URL": url,
        f"{PREFIX}DATA_DIR": str(folder),
        f"{PREFIX}DEVELOPMENT": "true",
    }
    return subprocess.Popen(
        [sys.executable, "-m", module], env=environment, stderr=subprocess.PIPE, text=True
    )


def test_a_process_may_start_beside_those_that_agree(redis_url: str) -> None:
    first = Agreement(settings_on(redis_url), "feeds")
    second = Agreement(settings_on(redis_url, rest_port=9_999), "gateway")
    first.renew()
    second.renew()
    first.renew()


def test_one_that_differs_is_refused_until_the_others_have_left(redis_url: str) -> None:
    running = Agreement(settings_on(redis_url), "feeds")
    other = Agreement(settings_on(redis_url, shard_count=2), "gateway")
    running.renew()
    with pytest.raises(SettingsError, match=r"EXCHANGE_SHARD_COUNT: 2 here, 1 in feeds@"):
        other.renew()
    running.renew()  # whoever was refused has left nothing
    running.leave()
    other.renew()


def test_an_engine_worker_asks_its_own_server_and_at_its_start_that_of_the_first_shard(
    redis_url: str,
) -> None:
    client = redis.Redis.from_url(redis_url)
    say(client, "feeds@elsewhere.1", TWO_SHARDS)
    three = settings_on(redis_url, shard_count=3, shard=2)
    Agreement(three, "engine-2", 2).renew()  # as in its loop
    with pytest.raises(SettingsError, match=r"EXCHANGE_SHARD_COUNT: 3 here, 2 in feeds@elsewhere"):
        agree(three, "engine-2", 2)
    assert client.hkeys(streams.cluster_settings(0)) == [b"feeds@elsewhere.1"]


def test_an_engine_worker_that_agrees_is_on_its_own_server_alone(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    agree(settings_on(redis_url, shard_count=3, shard=2), "engine-2", 2)
    assert client.hkeys(streams.cluster_settings(0)) == []
    assert len(client.hkeys(streams.cluster_settings(2))) == 1


def test_what_killed_processes_and_other_releases_left_counts_for_nothing(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    say(client, "feeds@killed.1", TWO_SHARDS, age_s=FRESH_S + 2)
    client.hset(streams.cluster_settings(0), "feeds@later.1", b'{"later": true}')
    Agreement(settings_on(redis_url), "gateway").renew()
    assert client.hget(streams.cluster_settings(0), "feeds@killed.1") is None


@pytest.mark.parametrize("module", ["gateway.main", "ws_edge.main", "feeds.main", "engine_worker.main"])
def test_a_process_that_differs_says_so_and_ends(module: str, redis_url: str, tmp_path: Path) -> None:
    say(redis.Redis.from_url(redis_url), "engine-0@elsewhere.1", TWO_SHARDS, age_s=-DEADLINE_S)
    with start(module, redis_url, tmp_path) as process:
        _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert "EXCHANGE_SHARD_COUNT: 1 here, 2 in engine-0@elsewhere.1" in errors


def test_one_that_started_without_redis_ends_when_redis_is_back(own_redis: OwnRedis, tmp_path: Path) -> None:
    url = own_redis.settings.resolved_redis_url()
    say(redis.Redis.from_url(url), "engine-0@elsewhere.1", TWO_SHARDS, age_s=-DEADLINE_S)
    own_redis.kill()
    with start("feeds.main", url, tmp_path) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        own_redis.start()
        _, errors = process.communicate(timeout=DEADLINE_S)
    assert "EXCHANGE_SHARD_COUNT: 1 here, 2 in engine-0@elsewhere.1" in errors
