"""A shard opens only after its log was compared with the database since Redis started."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest
import redis

from persist.lost_tail_comparison import LogGuard
from protocol import streams
from runtime.settings import PREFIX
from stream_log.lost_tail_note import read_guard, write_guard
from stream_log.redis_log import RedisStreamLog

DEADLINE_S = 60

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        yield client


@pytest.fixture
def engine(redis_url: str) -> Iterator[Start]:
    """Starts an engine worker; whatever still runs in the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(**settings: str) -> subprocess.Popen[str]:
        names = {"redis_url": redis_url, "log_format": "json", **settings}
        environment = {**os.environ, **{f"{PREFIX}{name.upper()}": value for name, value in names.items()}}
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "engine_worker.main"],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait(DEADLINE_S)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def has_opened(client: redis.Redis) -> bool:
    return RedisStreamLog(client).position(0).epoch > 0


def test_a_shard_waits_for_the_comparison_and_then_opens(
    client: redis.Redis, database_url: str, engine: Start
) -> None:
    process = engine()
    assert process.stderr is not None
    assert "waiting for persist-nudger" in process.stderr.readline()
    assert not has_opened(client)
    assert LogGuard(RedisStreamLog(client), database_url, [0]).step() == []
    until(lambda: has_opened(client))


def test_a_shard_that_lost_its_tail_ends_with_code_4_and_says_what_to_do(
    client: redis.Redis, database_url: str, engine: Start
) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("INSERT INTO archive VALUES (0, '1767225600000-0', 3, false)")
    (reason,) = LogGuard(RedisStreamLog(client), database_url, [0]).step()
    process = engine()
    assert process.wait(DEADLINE_S) == 4
    assert process.stderr is not None
    said = process.stderr.read()
    assert "its log ends at 0-0, but was archived up to 1767225600000-0" in said
    assert "exchange restore" in reason
    assert not has_opened(client)
    # The control: without the check it opens.
    engine(lost_tail_check_enabled="false")
    until(lambda: has_opened(client))


def test_what_was_found_holds_for_one_start_of_redis_only(client: redis.Redis, database_url: str) -> None:
    guard = LogGuard(RedisStreamLog(client), database_url, [0])
    assert not read_guard(client, 0).checked
    assert guard.step() == []
    assert read_guard(client, 0).checked
    # Data that another Redis has written, or this one before it was started anew.
    write_guard(client, 0, "0123456789abcdef", "")
    assert not read_guard(client, 0).checked
    with psycopg.connect(database_url) as connection:
        connection.execute("INSERT INTO archive VALUES (0, '0-0', 3, false)")
    assert "its epoch is 0, but was 3 before" in guard.step()[0]
    client.set(streams.position(0), "4|0-0")
    assert guard.step() == [], "what must not open is looked at again"


def test_a_database_that_is_away_vouches_for_nothing(client: redis.Redis) -> None:
    with pytest.raises(psycopg.Error):
        LogGuard(RedisStreamLog(client), "postgresql://127.0.0.1:1/none", [0]).step()
    assert not read_guard(client, 0).checked
