"""Gateways refuse new work before Redis is full, and cancels last."""

from collections.abc import Iterator
from contextlib import contextmanager

import redis

from runtime import redis_clients
from tests.support.api import Api, RefusedError, new_account
from tests.support.eventually import eventually
from tests.support.gateway_processes import Processes
from tests.support.order_weights import BUSY

ORDERS_MAX = 20_000


def place(api: Api) -> RefusedError | None:
    """Place an order that rests; return why it was refused, None also when there are too many."""
    try:
        api.order("BTCUSDT", "BUY", "LIMIT", quantity="0.001", price="20000")
    except RefusedError as error:
        return error if error.status == 503 else None
    return None


def cancel(api: Api, order_id: int) -> RefusedError | None:
    """Cancel an order; return why that was refused, None also when there is no such order."""
    try:
        api.signed("DELETE", "/api/v3/order", symbol="BTCUSDT", orderId=order_id)
    except RefusedError as error:
        return error if error.code != -2011 else None
    return None


def test_a_log_that_its_readers_leave_is_bounded(processes: Processes) -> None:
    """Nobody stores or publishes anything here, so events stay."""
    processes.shards()
    api = new_account(processes.gateway(LOG_MB_MAX="1"), USDT="100000")
    refused = None
    for number in range(ORDERS_MAX):
        refused = place(api)
        if refused is not None:
            break
        if number % 100 == 99:
            api.signed("DELETE", "/api/v3/openOrders", symbol="BTCUSDT")
    assert refused is not None
    assert (refused.status, refused.code, refused.message) == (503, -1008, BUSY)
    assert cancel(api, 1) is None
    assert api.balances()["USDT"], "questions are answered"


@contextmanager
def memory_used(client: redis.Redis, part: float) -> Iterator[None]:
    """Give Redis so much memory that `part` of it is in use."""
    used = client.info("memory")["used_memory"]
    client.config_set("maxmemory", int(used / part))
    try:
        yield
    finally:
        client.config_set("maxmemory", 0)


def test_orders_are_refused_before_redis_is_full_and_cancels_last(processes: Processes) -> None:
    processes.shards()
    api = new_account(processes.gateway(), USDT="100000")
    with redis_clients.client(processes.redis_url) as client:
        # Enough that a connection more or less makes no difference.
        client.setrange("session:ballast", 30_000_000, b"x")
        try:
            with memory_used(client, 0.6):
                order = api.order("BTCUSDT", "BUY", "LIMIT", quantity="0.001", price="20000")
            with memory_used(client, 0.82):
                refused = eventually("orders are refused", lambda: place(api))
                assert (refused.status, refused.code) == (503, -1008)
                assert cancel(api, order["orderId"]) is None
            with memory_used(client, 0.95):
                refused = eventually("cancels are refused", lambda: cancel(api, order["orderId"]))
                assert (refused.status, refused.code) == (503, -1008)
            eventually("orders are taken again", lambda: place(api) is None)
        finally:
            client.delete("session:ballast")
