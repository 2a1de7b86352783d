"""A worker that has nothing to do sleeps until it is nudged."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dramatiq
import pytest
import redis

import persist.actors
from persist.actors import SLOW_POLL_MS, declare_ingest, make_broker

NEVER_S = 300.0
"""A sleep that no test waits out."""
TIMEOUT_S = 30.0
IDLE_S = 1.0


@contextmanager
def worker_of(url: str, nudged: list[int], heard: threading.Event) -> Iterator[dramatiq.Actor[[int], None]]:
    """Run a worker that notes the shards that it is nudged about; give what nudges it."""

    def ingest(shard: int) -> None:
        nudged.append(shard)
        heard.set()

    broker = make_broker(url)
    actor = declare_ingest(broker, ingest)
    worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=SLOW_POLL_MS)
    worker.start()
    try:
        yield actor
    finally:
        for consumer in worker.consumers.values():
            consumer.running = False
        actor.send(0)  # it looks whether it is to stop when it is woken
        worker.stop()
        broker.close()


def test_a_nudge_wakes_it(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persist.actors, "WAKE_S", NEVER_S)
    nudged, heard = list[int](), threading.Event()
    with worker_of(redis_url, nudged, heard) as actor, redis.Redis.from_url(redis_url) as client:
        for shard in (3, 4):
            deadline = time.monotonic() + TIMEOUT_S
            while not _sleeps(client) and time.monotonic() < deadline:
                time.sleep(0.01)
            heard.clear()
            actor.send(shard)
            assert heard.wait(TIMEOUT_S)
    assert nudged[:2] == [3, 4]


def test_it_looks_by_itself_in_case_it_was_not_told(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nudged, heard = list[int](), threading.Event()
    with worker_of(redis_url, nudged, heard) as actor:
        monkeypatch.setattr(persist.actors, "_wakes", lambda namespace: f"{namespace}:others.wakes")
        actor.send(5)
        assert heard.wait(TIMEOUT_S)


def test_meanwhile_it_asks_for_little(redis_url: str) -> None:
    with (
        worker_of(redis_url, [], threading.Event()),
        redis.Redis.from_url(redis_url) as client,
    ):
        began, before = time.monotonic(), _looks(client)
        time.sleep(IDLE_S)
        took_s, looks = time.monotonic() - began, _looks(client) - before
    # Its own queue and that of delayed nudges, each four times a second. Without wakes it were 55.
    assert looks < 20 * took_s


def _sleeps(client: redis.Redis) -> bool:
    info: Any = client.info("clients")
    return bool(info["blocked_clients"])


def _looks(client: redis.Redis) -> int:
    statistics: Any = client.info("commandstats")
    return int(statistics.get("cmdstat_evalsha", {}).get("calls", 0))
