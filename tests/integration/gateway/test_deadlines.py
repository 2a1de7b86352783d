"""A request whose recvWindow is over before it reaches its shard is not carried out, whatever held it up."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from tests.support.api import Api, new_account, refused
from tests.support.gateway_processes import Processes

PAUSE_S = 1.2
WINDOW_MS = 300


@pytest.fixture
def account(processes: Processes) -> Api:
    processes.shards()
    return new_account(processes.gateway(), USDT="10000")


@contextmanager
def redis_paused(url: str) -> Iterator[None]:
    """Let Redis stand still for a while, which begins now and ends by itself."""
    with redis.Redis.from_url(url) as client:
        server: Any = client.info("server")
    pid = server["process_id"]
    os.kill(pid, signal.SIGSTOP)
    timer = threading.Timer(PAUSE_S, os.kill, (pid, signal.SIGCONT))
    timer.start()
    try:
        yield
    finally:
        timer.join()


def order(account: Api, number: int, window_ms: int) -> Any:
    return account.order(
        "BTCUSDT",
        "BUY",
        "LIMIT",
        quantity="0.01",
        price="20000",
        newClientOrderId=f"c{number}",
        recvWindow=window_ms,
    )


def test_an_order_that_comes_too_late_is_refused_and_leaves_nothing(account: Api, redis_url: str) -> None:
    began = time.monotonic()
    with redis_paused(redis_url), refused(-1021, "Timestamp for this request is outside of the recvWindow."):
        order(account, 1, WINDOW_MS)
    assert time.monotonic() - began > PAUSE_S / 2, "it did not have to wait"
    assert account.signed("GET", "/api/v3/openOrders") == []
    assert account.balances()["USDT"][1] == 0
    assert order(account, 1, WINDOW_MS)["status"] == "NEW"


def test_one_that_its_client_still_wants_is_carried_out(account: Api, redis_url: str) -> None:
    """The control: the same pause, and a longer window."""
    with redis_paused(redis_url):
        assert order(account, 1, 10_000)["status"] == "NEW"


@pytest.mark.parametrize("path", ["/api/v3/order", "/api/v3/openOrders"])
def test_a_late_cancel_cancels_nothing(account: Api, redis_url: str, path: str) -> None:
    order(account, 1, 10_000)
    which = {"origClientOrderId": "c1"} if path.endswith("order") else {}
    with redis_paused(redis_url), refused(-1021, "Timestamp for this request is outside of the recvWindow."):
        account.signed("DELETE", path, symbol="BTCUSDT", recvWindow=WINDOW_MS, **which)
    assert [each["clientOrderId"] for each in account.signed("GET", "/api/v3/openOrders")] == ["c1"]
