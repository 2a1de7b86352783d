"""Garbage in Dramatiq's queue: it goes to the dead letters, and every nudge is run without delay."""

import itertools
import threading
import time
from typing import Any

import pytest
import redis
from dramatiq import Worker
from dramatiq.brokers.redis import RedisBroker

from persist import actors
from persist.actors import QUEUE, declare_ingest, make_broker
from protocol import streams
from protocol.streams import JOBS_NAMESPACE

GARBAGE = (b"garbage", b"", b"{}", b"[]", b"17", b'{"queue_name": "ingest"}', b"\xff\xfe")
NUDGES = 300
DEADLINE_S = 90


def run_with_garbage(redis_url: str) -> tuple[int, list[dict[bytes, bytes]], int, float]:
    """Nudge with garbage between.

    Return the nudges run, the dead letters, what is left in the queue, and the seconds it took.
    """
    done, ran = threading.Event(), itertools.count(1)
    broker = make_broker(redis_url)
    client = redis.Redis.from_url(redis_url)

    def ingest(shard: int) -> None:
        assert shard == 5
        if next(ran) == NUDGES:
            done.set()

    actor = declare_ingest(broker, ingest)
    for number in range(NUDGES):
        actor.send(5)
        if number % (NUDGES // len(GARBAGE)) == 0 and number // (NUDGES // len(GARBAGE)) < len(GARBAGE):
            payload = GARBAGE[number // (NUDGES // len(GARBAGE))]
            client.hset(f"{JOBS_NAMESPACE}:{QUEUE}.msgs", f"poison-{number}", payload)
            client.rpush(f"{JOBS_NAMESPACE}:{QUEUE}", f"poison-{number}")
    worker = Worker(broker, worker_threads=1, worker_timeout=20)
    began = time.monotonic()
    worker.start()
    done.wait(DEADLINE_S)
    took_s = time.monotonic() - began
    worker.stop()
    letters: Any = client.xrange(streams.dead_letters(0))
    left: Any = client.hlen(f"{JOBS_NAMESPACE}:{QUEUE}.msgs")
    broker.close()
    return next(ran) - 1, [fields for _, fields in letters], left, took_s


def test_garbage_among_the_nudges_is_buried_and_all_nudges_run(redis_url: str) -> None:
    ran, letters, left, took_s = run_with_garbage(redis_url)
    assert ran == NUDGES
    assert [letter[b"payload"] for letter in letters] == list(GARBAGE)
    assert all(
        letter[b"source"] == f"{JOBS_NAMESPACE}:{QUEUE}".encode() and letter[b"id"].startswith(b"poison-")
        for letter in letters
    )
    assert left == 0
    assert took_s < DEADLINE_S


def test_dramatiq_alone_does_not_bury_it(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors, "NudgeBroker", RedisBroker)
    monkeypatch.setattr("tests.integration.persist.test_poisoned_queue.DEADLINE_S", 2)
    _, letters, left, _ = run_with_garbage(redis_url)
    assert letters == []
    assert left > 0
