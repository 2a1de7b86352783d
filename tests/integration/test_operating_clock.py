"""What an operator signs counts also after Redis's clock was ahead: entries keep the ids of that time until
the clock is there again."""

import threading
import time
from pathlib import Path

import pytest
import redis

from cli.operating import tell
from engine_worker.worker import Worker
from protocol import streams
from protocol.commands import CloseAccount
from protocol.configuration import Role
from protocol.replies import FundsReply
from protocol.units import AccountId
from runtime.settings import PREFIX, load_settings
from stream_log.redis_log import RedisStreamLog
from tests.support.workers import run_until_quiet

AHEAD_MS = 3_600_000


def test_a_signed_command_counts_after_redis_clock_was_an_hour_ahead(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"REDIS_URL": redis_url, "DATA_DIR": str(tmp_path), "SHARD_COUNT": "1"}.items():
        monkeypatch.setenv(f"{PREFIX}{name}", value)
    settings, client = load_settings(), redis.Redis.from_url(redis_url)
    worker = Worker.of(settings, RedisStreamLog.connect(redis_url))
    worker.start()
    run_until_quiet([worker])
    client.xadd(streams.commands(0), {"?": ""}, id=f"{int(time.time() * 1_000) + AHEAD_MS}-0")
    stopping = threading.Event()

    def lead() -> None:
        while not stopping.is_set():
            worker.step(10)

    thread = threading.Thread(target=lead)
    thread.start()
    try:
        reply = tell(
            client,
            settings,
            0,
            Role.OPERATOR,
            lambda number, waiter: CloseAccount(number, waiter, AccountId(1)),
            "close",
        )
    finally:
        stopping.set()
        thread.join()
    assert isinstance(reply, FundsReply)
