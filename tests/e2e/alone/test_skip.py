"""Mail that a shard does not understand halts it, an operator has it skipped, and the exchange goes on and is
sound."""

import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from cli.inquiries import audit
from protocol import streams
from protocol.codec import FORMAT, encode_frame
from protocol.streams import MESSAGES_FIELD
from stream_log.halt import read_halt
from tests.support.api import Api, RefusedError, new_account
from tests.support.eventually import eventually
from tests.support.running_exchange import RunningExchange, running_exchange

TIMEOUT_S = 300
HALTED, OVERLOADED = -1016, -1008
RESTART_S = 60
"""A halted worker is tried again after half a minute."""

pytestmark = pytest.mark.timeout(TIMEOUT_S)


def run(exchange: RunningExchange, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        env={**exchange.environment, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def works(account: Api, symbol: str) -> bool:
    """Whether an order is accepted and canceled again.

    A gateway looks ten times a second whether a shard is halted, and how long its oldest entry waits.
    """
    try:
        order = account.order(symbol, "BUY", "LIMIT", quantity="1", price="10")
    except RefusedError as refused:
        if refused.code in (HALTED, OVERLOADED):
            return False
        raise
    account.signed("DELETE", "/api/v3/order", symbol=symbol, orderId=order["orderId"])
    return True


# Takes long: the supervisor waits between two starts of a worker that halts, and a halt is waited for
# twice.
def test_unknown_mail_halts_and_is_skipped(data_dir: Path) -> None:
    with (
        running_exchange(data_dir, shard_count="3", mm_enabled="false") as exchange,
        redis.Redis.from_url(exchange.settings.resolved_redis_url()) as client,
    ):
        accounts = [new_account(exchange.url, USDT="10000") for _ in range(3)]
        reply = audit(client, [0])[0]
        first = dict(reply.received).get(1, 0) + 1
        stamp = time.time_ns() // 1_000
        fields: Any = {MESSAGES_FIELD: encode_frame((FORMAT, stamp, 1, 0, first, [[99, "money"]]))}
        poison: Any = client.xadd(streams.commands(0), fields)
        halt = eventually("the halt", lambda: read_halt(client, 0))
        assert f"entry {poison.decode()}: message {first} of shard 1 is not understood" in halt.reason
        status = exchange.command("status")
        assert status["halted"]["0"] == halt.reason
        before = client.get(streams.position(0))

        refused = run(exchange, *skip("7-0"))
        assert refused.returncode == 1
        assert poison.decode() in refused.stderr
        ordered = run(exchange, *skip(poison.decode()))
        assert ordered.returncode == 0, ordered.stderr
        assert "Shard 1 has not sent these messages" in ordered.stdout
        eventually("the shard", lambda: client.get(streams.position(0)) != before, timeout_s=RESTART_S)
        eventually("no halt", lambda: read_halt(client, 0) is None)

        for account in accounts:
            for symbol in ("BTCUSDT", "ETHUSDT", "SOLUSDT"):
                eventually("an order", partial(works, account, symbol))
        letters = [each for each in exchange.command("dead")["letters"] if each["where"] == "in:{0}"]
        assert [(each["stream_id"], each["reason"]) for each in letters] == [
            (poison.decode(), "skipped by ada: nobody of ours wrote it")
        ]
        verified = exchange.command("replay", "--verify")
        assert [report["same"] for report in verified] == [True] * 3
        assert run(exchange, "audit").returncode == 0
        passed = run(exchange, "dead", "pass", "in:{0}", poison.decode(), "--yes")
        assert passed.returncode == 0, passed.stderr
        assert exchange.command("dead")["count"] == 0


def skip(stream_id: str) -> list[str]:
    reason = "nobody of ours wrote it"
    return ["skip", "--shard", "0", "--id", stream_id, "--operator", "ada", "--reason", reason, "--yes"]
