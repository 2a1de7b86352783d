"""The real processes on real servers, killed and restarted."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from cli.local import embedded
from cli.local.free_ports import free_port
from persist.actors import declare_ingest, make_broker
from persist.migrate import migrate
from protocol.stream_id import StreamId
from protocol.streams import EVENTS_FIELD, EventReader, events
from runtime.settings import PREFIX, Settings
from stream_log.redis_log import RedisStreamLog
from tests.integration.persist.stored import assert_stored, query
from tests.support.market_log import START_MS, market_map, publish_markets
from tests.support.shard_log import ShardLog

DEADLINE_S = 60
PICKED_UP_S = 15
"""Two to three seconds on an idle machine; minutes with the timings that Dramatiq comes with."""

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(redis_url: str, database_url: str) -> Iterator[Start]:
    """Starts `python -m persist.main PART`; whatever still runs in the end is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start_part(part: str, **settings: object) -> subprocess.Popen[bytes]:
        names = {"redis_url": redis_url, "database_url": database_url, **settings}
        environment = {
            **os.environ,
            **{f"{PREFIX}{name.upper()}": str(value) for name, value in names.items()},
        }
        started.append(subprocess.Popen([sys.executable, "-m", "persist.main", part], env=environment))
        return started[-1]

    yield start_part
    for process in started:
        process.kill()
        process.wait(DEADLINE_S)


def until(condition: Callable[[], bool], within_s: float = DEADLINE_S) -> float:
    """Wait for the condition and return how long it took."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < within_s, "it did not happen in time"
        time.sleep(0.005)
    return time.monotonic() - begun


def last_ids(database_url: str) -> dict[int, StreamId]:
    found = query(database_url, "SELECT shard, last_id FROM ingest")
    return {shard: StreamId.parse(last_id) for shard, last_id in found}


def caught_up(log: RedisStreamLog, database_url: str, shards: int = 1) -> bool:
    stored = last_ids(database_url)
    return all(stored.get(shard) == log.last_id(events(shard)) for shard in range(shards))


@pytest.mark.parametrize("shard_count", [1, 3])
def test_events_are_stored_soon_and_a_stop_drains(
    redis_url: str, database_url: str, start: Start, shard_count: int
) -> None:
    markets, log = market_map(shard_count), RedisStreamLog.connect(redis_url)
    nudge, work = start("nudge", shard_count=shard_count), start("work", shard_count=shard_count)
    trading = ShardLog(1, markets, START_MS)
    trading.append_to(log)
    until(lambda: caught_up(log, database_url, shard_count))
    delays = []
    for _ in range(20):
        known = len(trading.entries)
        trading.trade(1)
        for shard, _, found in trading.entries[known:]:
            log.append(events(shard), {EVENTS_FIELD: ShardLog.frame(found)})
        delays.append(until(lambda: caught_up(log, database_url, shard_count), PICKED_UP_S))
    assert sorted(delays)[len(delays) // 2] < 0.5
    for process in (nudge, work):
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
    assert_stored(database_url, trading.events(), markets)
    for shard in range(shard_count):
        assert log.passed(shard)[EventReader.PERSIST] == log.last_id(events(shard))


def test_killed_workers_lose_and_double_nothing(redis_url: str, database_url: str, start: Start) -> None:
    markets, log, dice = market_map(), RedisStreamLog.connect(redis_url), random.Random(7)
    trading = ShardLog(7, markets, START_MS)
    trading.trade(4_000)
    trading.append_to(log)
    start("nudge", ingest_batch_entries=100, ingest_sweep_s=3_600)
    work = start("work", ingest_batch_entries=100, ingest_sweep_s=3_600)
    for _ in range(4):
        before = last_ids(database_url).get(0)
        until(lambda before=before: last_ids(database_url).get(0, before) != before)  # type: ignore[misc]
        time.sleep(dice.uniform(0, 0.02))  # anywhere in a batch
        work.kill()
        work.wait(DEADLINE_S)
        assert not caught_up(log, database_url), "it was killed in the middle"
        before = last_ids(database_url)[0]
        work = start("work", ingest_batch_entries=100, ingest_sweep_s=3_600)
        # Without a sweep: only the dead worker's own message can bring its work back. A new process takes a
        # second to start.
        until(lambda before=before: last_ids(database_url)[0] != before, PICKED_UP_S)  # type: ignore[misc]
    until(lambda: caught_up(log, database_url))
    assert_stored(database_url, trading.events(), markets)


def test_without_a_queue_everything_is_stored_all_the_same(
    redis_url: str, database_url: str, start: Start
) -> None:
    """Nobody nudges: the queue is lost, away or full.

    The control is the test before, whose worker does not sweep in time.
    """
    markets, log = market_map(), RedisStreamLog.connect(redis_url)
    start("work", ingest_sweep_s=1)
    trading = ShardLog(9, markets, START_MS)
    trading.append_to(log)
    until(lambda: caught_up(log, database_url))
    assert_stored(database_url, trading.events(), markets)
    until(lambda: log.passed(0)[EventReader.PERSIST] == log.last_id(events(0)))


def test_doubled_reordered_and_needless_nudges_are_harmless(
    redis_url: str, database_url: str, start: Start
) -> None:
    markets, log, dice = market_map(3), RedisStreamLog.connect(redis_url), random.Random(8)
    for _ in range(2):
        start("work", shard_count=3, ingest_batch_entries=50)
    actor = declare_ingest(make_broker(redis_url), lambda _shard: None)
    publish_markets(log, markets)
    trading = ShardLog(8, markets, START_MS)
    trading.trade(400)
    for number, (shard, _, found) in enumerate(trading.entries):
        log.append(events(shard), {EVENTS_FIELD: ShardLog.frame(found)})
        if number % 5 == 0:
            for shard_nudged in dice.choices((0, 1, 2, 3, 99), k=3):
                actor.send(shard_nudged)
    for shard in (2, 0, 1):
        actor.send(shard)
        actor.send(shard)
    until(lambda: caught_up(log, database_url, 3))
    assert_stored(database_url, trading.events(), markets)


def test_a_lost_nudge_is_made_up_for_by_the_sweep(redis_url: str, database_url: str, start: Start) -> None:
    markets, log = market_map(), RedisStreamLog.connect(redis_url)
    start("nudge", ingest_sweep_s=1)
    trading = ShardLog(9, markets, START_MS)
    trading.append_to(log)
    client = redis.Redis.from_url(redis_url)
    until(lambda: bool(client.hlen("{dramatiq}:ingest.msgs")))
    client.delete("{dramatiq}:ingest", "{dramatiq}:ingest.msgs")
    start("work")
    until(lambda: caught_up(log, database_url))
    assert_stored(database_url, trading.events(), markets)


class Servers:
    """A Redis and a PostgreSQL of a test's own, to be killed."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(
            data_dir=folder,
            redis_port=free_port(),
            postgres_port=free_port(),
            postgres_bin=os.environ.get("TEST_POSTGRES_BIN", ""),
        )
        embedded.make_data_dir(self.settings)
        self._running: dict[str, tuple[subprocess.Popen[bytes], embedded.ServerCommand]] = {}

    def start(self, name: str) -> None:
        command, ready = {
            "redis": (embedded.redis_command, embedded.redis_ready),
            "postgres": (embedded.postgres_command, embedded.postgres_ready),
        }[name]
        how = command(self.settings)
        process = subprocess.Popen(
            how.arguments,
            user=how.user,
            group=how.group,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._running[name] = (process, how)
        until(lambda: ready(self.settings))

    def kill(self, name: str) -> None:
        process, _ = self._running.pop(name)
        process.kill()
        process.wait(DEADLINE_S)

    def stop(self) -> None:
        for process, how in self._running.values():
            process.send_signal(how.stop_signal)
            process.wait(DEADLINE_S)


@pytest.fixture
def servers() -> Iterator[Servers]:
    folder = Path(tempfile.mkdtemp(prefix="exchange-test-"))
    folder.chmod(0o755)  # PostgreSQL may run as another user
    servers = Servers(folder)
    servers.start("redis")
    servers.start("postgres")
    yield servers
    servers.stop()
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["postgres", "redis"])
def test_a_server_that_dies_and_comes_back_loses_nothing(servers: Servers, start: Start, name: str) -> None:
    redis_url, database_url = servers.settings.resolved_redis_url(), servers.settings.resolved_database_url()
    migrate(database_url)
    markets, log = market_map(), RedisStreamLog.connect(redis_url)
    trading = ShardLog(10, markets, START_MS)
    trading.trade(3_000)
    trading.append_to(log)
    processes = [
        start(
            part, redis_url=redis_url, database_url=database_url, ingest_batch_entries=100, ingest_sweep_s=1
        )
        for part in ("nudge", "work")
    ]
    until(lambda: bool(last_ids(database_url)))
    servers.kill(name)
    time.sleep(1.5)  # the outage
    servers.start(name)
    log = RedisStreamLog.connect(redis_url)
    until(lambda: caught_up(log, database_url))
    assert [process.poll() for process in processes] == [None, None], "they outlive it"
    assert_stored(database_url, trading.events(), markets)
