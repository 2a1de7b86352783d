"""The master of a Redis under Sentinel dies: what was acknowledged is there, and what was not replicated was
never said.

TEST_PROMOTIONS is how often it dies; with more than the default, a summary is printed (pytest -s).
TEST_STANDBYS is how many engine workers stand by meanwhile.
"""

import os
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import Api, RefusedError, new_account, refused
from tests.support.eventually import eventually
from tests.support.killed_engines import (
    CLIENTS,
    Trader,
    balances_are_what_the_fills_say,
    every_acknowledged_order_is_there,
    money_adds_up,
    trades_are_contiguous,
    wait_for_orders,
)
from tests.support.redis_failover import (
    RETRY_S,
    SYMBOL,
    Cut,
    buyer_with_a_resting_order,
    exchange_on,
    promote_the_replica,
    sell,
    until_available,
)
from tests.support.redis_servers import RedisServers, redis_servers

PROMOTIONS = int(os.environ.get("TEST_PROMOTIONS", "2"))
STANDBYS = os.environ.get("TEST_STANDBYS", "1")


@pytest.fixture
def servers(data_dir: Path) -> Iterator[RedisServers]:
    """A master, its replica, and three sentinels."""
    folder = data_dir / "servers"
    folder.mkdir()
    with redis_servers(folder, "sentinel") as running:
        yield running


# Takes long: sentinel takes seconds to find a master dead and to promote its replica, several times.
def test_promotions_under_load_lose_no_acknowledged_order(servers: RedisServers, data_dir: Path) -> None:
    with exchange_on(servers, data_dir, 1, standbys=STANDBYS) as exchange:
        traders = [Trader(exchange.url, number) for number in range(CLIENTS)]
        stop = threading.Event()
        outages = []
        with ThreadPoolExecutor(CLIENTS) as pool:
            running = [pool.submit(trader.trade, stop) for trader in traders]
            try:
                for _ in range(PROMOTIONS):
                    wait_for_orders(traders, running)
                    began = time.monotonic()
                    servers.start_replica(promote_the_replica(servers))
                    wait_for_orders(traders, running, 1)
                    outages.append(time.monotonic() - began)
                    report(f"{len(outages)}: {outages[-1]:.1f} s, {acknowledged(traders)} orders")
                    eventually("a replica again", servers.is_ready, timeout_s=RETRY_S)
                wait_for_orders(traders, running)
            finally:
                stop.set()
            for each in running:
                each.result()
        for trader in traders:
            every_acknowledged_order_is_there(trader)
            balances_are_what_the_fills_say(trader.api)
        eventually("trades without a gap in the database", lambda: trades_are_contiguous(traders))
        eventually("money adds up", lambda: money_adds_up(exchange))
    report(
        f"{PROMOTIONS} promotions, {acknowledged(traders)} orders acknowledged, 0 lost; kill to next order: "
        f"median {statistics.median(outages):.1f} s, longest {max(outages):.1f} s"
    )


def report(line: str) -> None:
    if PROMOTIONS > 2:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def acknowledged(traders: list[Trader]) -> int:
    return sum(len(trader.outcomes) for trader in traders)


def test_what_is_not_replicated_is_not_said(servers: RedisServers, data_dir: Path) -> None:
    with exchange_on(servers, data_dir, 1, reply_timeout_ms="1000") as exchange:
        buyer_with_a_resting_order(exchange)
        seller = new_account(exchange.url, ETH="10")
        sell(seller, "replicated", "1")
        eventually("the trade in the database", lambda: trade_ids(seller) == [1])
        cut = Cut(servers)
        with pytest.raises(RefusedError) as refusal:
            sell(seller, "unknown", "2")
        assert (refusal.value.status, refusal.value.code) == (503, -1007)
        with servers.client(cut.master) as master:
            assert master.xlen("ev:{0}") > 0, "it has happened on the old master all the same"
        assert trade_ids(seller) == [1], "nothing of it is in the database"
        assert len(seller.get("/api/v3/trades", symbol=SYMBOL)) == 1, "nor in the market data"

        cut.promote()
        with refused(-2013, "Order does not exist."):
            found = until_available(lambda: order_named(seller, "unknown"))
            pytest.fail(f"the exchange has {found}; it was cut from {cut.replica}, and now: {cut.state()}")
        # From here on the exchange goes on as if it had never been.
        eventually("the same order again", lambda: resell(seller))
        eventually("the trades in the database", lambda: trade_ids(seller) == [1, 2])
        assert [trade["qty"] for trade in seller.get("/api/v3/trades", symbol=SYMBOL)] == [
            "1.00000000",
            "2.00000000",
        ]
        eventually("money adds up", lambda: exchange.command("shards")[0]["conserved"])


def resell(seller: Api) -> Any:
    try:
        return sell(seller, "unknown", "2")
    except RefusedError as refusal:
        if refusal.status == 503:
            return None
        raise


def trade_ids(api: Api) -> list[int]:
    return [trade["id"] for trade in api.historical_trades(SYMBOL)]


def order_named(api: Api, client_order_id: str) -> Any:
    return api.signed("GET", "/api/v3/order", symbol=SYMBOL, origClientOrderId=client_order_id)
