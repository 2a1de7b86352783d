"""Whether a shard answers is asked again and again: it must cost the same however much there is to know."""

import threading
from collections.abc import Iterator

import pytest

from cli import inquiries
from engine_worker.core import conservation as audit
from engine_worker.core.shard_state import ShardState
from engine_worker.worker import Worker
from runtime.settings import Settings
from stream_log.redis_log import RedisStreamLog


@pytest.fixture
def settings(redis_url: str) -> Settings:
    return Settings(redis_url=redis_url)


@pytest.fixture
def running(redis_url: str, settings: Settings) -> Iterator[None]:
    worker = Worker(RedisStreamLog.connect(redis_url), 0, settings.market_map(), batch_entries_max=10)
    worker.start()
    stopping = threading.Event()

    def run() -> None:
        while not stopping.is_set():
            worker.step(20)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    stopping.set()
    thread.join()


def test_it_adds_nothing_up(running: None, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def adds_up(_: ShardState) -> list[object]:
        raise AssertionError("the books were added up")

    monkeypatch.setattr(audit, "recount", adds_up)
    monkeypatch.setattr(audit, "digest", adds_up)
    assert inquiries.shards_answer(settings, 5)
    # The control: an audit makes a digest.
    with inquiries.connect(settings) as client:
        assert inquiries.audit(client, [0], 0.3) == {}


def test_a_shard_that_is_not_there_does_not_answer(redis_url: str, settings: Settings) -> None:
    assert not inquiries.shards_answer(settings, 0.1)
