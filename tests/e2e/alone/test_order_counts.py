"""Unfilled orders are counted once for all gateways, and an order that trades no longer counts, whoever has
placed it where."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.support.api import Api, RefusedError, new_account, now_ms, signature_of
from tests.support.data_dirs import data_dir_of_its_own
from tests.support.eventually import eventually
from tests.support.exchange_command import run
from tests.support.running_exchange import RunningExchange, running_exchange

SYMBOL = "BTCUSDT"


@pytest.fixture(scope="module")
def running() -> Iterator[RunningExchange]:
    """One for all; only the first test trades."""
    with (
        data_dir_of_its_own() as path,
        running_exchange(path, mm_enabled="false", gateways="2", ws_edges="1") as started,
    ):
        yield started


def counted(account: Api) -> dict[str, tuple[int, int]]:
    """Return (limit, count) by interval."""
    rows: list[Any] = account.signed("GET", "/api/v3/rateLimit/order")
    return {row["interval"]: (row["limit"], row["count"]) for row in rows}


def test_a_makers_orders_count_until_they_trade(running: RunningExchange) -> None:
    maker, taker = new_account(running.url, USDT="100000"), new_account(running.url, BTC="10")
    port = int(running.url.rpartition(":")[2])
    there = f"{running.url.rpartition(':')[0]}:{port + 100}"
    elsewhere = {each: Api(there, each.key, each.secret) for each in (maker, taker)}
    for price in ("30000", "30001", "30002"):
        maker.order(SYMBOL, "BUY", "LIMIT", quantity="0.001", price=price)
    eventually("the other gateway knows", lambda: counted(elsewhere[maker])["DAY"] == (200_000, 3))
    assert counted(maker)["DAY"][1] == 3
    elsewhere[taker].order(SYMBOL, "SELL", "MARKET", quantity="0.0025")  # two of them, and half of the third
    for gateway in (maker, elsewhere[maker]):
        eventually("they count no more", lambda gateway=gateway: counted(gateway)["DAY"][1] == 0)  # type: ignore[misc]
    eventually("so does the taker's", lambda: counted(taker)["DAY"][1] == 0)
    elsewhere[taker].order(
        SYMBOL, "SELL", "MARKET", quantity="0.0005"
    )  # the rest of the third, which no longer counts
    maker.order(SYMBOL, "BUY", "LIMIT", quantity="0.001", price="30000")
    eventually("one is open", lambda: counted(elsewhere[maker])["DAY"][1] == 1)


def test_what_an_operator_has_set_is_what_is_told(running: RunningExchange) -> None:
    account = new_account(running.url, USDT="100000")
    number = str(account.signed("GET", "/api/v3/account")["uid"])
    run(running, "accounts", "limit", number, "--orders-1d", "2")
    assert counted(account)["DAY"] == (2, 0)
    assert counted(account)["SECOND"][0] == 100
    for _ in range(2):
        account.order(SYMBOL, "BUY", "LIMIT", quantity="0.001", price="30000")
    with pytest.raises(RefusedError) as refusal:
        account.order(SYMBOL, "BUY", "LIMIT", quantity="0.001", price="30000")
    assert "Too many new orders; current limit is 2 orders per 1 DAY." in str(refusal.value)
    assert counted(account)["DAY"] == (2, 2)


def test_both_apis_tell_the_same_counts_also_of_orders_that_fail(running: RunningExchange) -> None:
    account = new_account(running.url, USDT="100000")
    for _ in range(2):
        account.order(SYMBOL, "BUY", "LIMIT", quantity="0.001", price="30000")

    with connect(f"{running.settings.ws_url()}/ws-api/v3", proxy=None) as client:

        def ask(method: str, **parameters: str) -> Any:
            signed = {**parameters, "apiKey": account.key, "timestamp": str(now_ms())}
            payload = "&".join(f"{name}={value}" for name, value in sorted(signed.items()))
            signed["signature"] = signature_of(account.secret, payload)
            client.send(json.dumps({"id": 1, "method": method, "params": signed}))
            return json.loads(client.recv(60))

        def orders(rows: list[Any]) -> list[int]:
            return [row["count"] for row in rows if row["rateLimitType"] == "ORDERS"]

        eventually("REST's are known", lambda: orders(ask("account.rateLimits.orders")["result"])[1] == 2)
        order = {"symbol": SYMBOL, "side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "quantity": "0.001"}
        placed = ask("order.place", **order, price="30000")
        assert (placed["status"], orders(placed["rateLimits"])[1]) == (200, 3)
        failed = ask("order.place", **order, price="0.001")
        assert failed["status"] == 400
        assert orders(failed["rateLimits"])[1] == 3
    answer = account.send(
        "POST", "/api/v3/order", f"symbol={SYMBOL}&side=BUY&type=LIMIT&timestamp={now_ms()}"
    )
    assert answer.status_code == 400
    eventually("those of sockets are known", lambda: counted(account)["DAY"][1] == 3)
    refusal = account.send(
        "POST", "/api/v3/order", f"symbol={SYMBOL}&side=BUY&type=LIMIT&timestamp={now_ms()}"
    )
    assert refusal.headers["x-mbx-order-count-1d"] == "3"
