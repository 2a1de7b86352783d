"""A whole exchange on a Redis Cluster of three masters, a shard per market."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from examples.watch_with_ccxt_pro import connect
from tests.support.api import Api, new_account
from tests.support.data_dirs import data_dir_of_its_own
from tests.support.eventually import eventually
from tests.support.killed_engines import (
    CLIENTS,
    Trader,
    balances_are_what_the_fills_say,
    every_acknowledged_order_is_there,
    kill_and_await_restart,
    money_adds_up,
    trades_are_contiguous,
    wait_for_orders,
)
from tests.support.running_exchange import RunningExchange, running_exchange

KILLS = 3
TIMEOUT_S = 60


@pytest.fixture(scope="module")
def on_a_cluster() -> Iterator[RunningExchange]:
    with (
        data_dir_of_its_own() as path,
        running_exchange(path, redis_mode="cluster", shard_count="3", mm_enabled="false") as exchange,
    ):
        yield exchange


def test_engines_are_killed_in_the_middle_of_trading(on_a_cluster: RunningExchange) -> None:
    traders = [Trader(on_a_cluster.url, number) for number in range(CLIENTS)]
    stop = threading.Event()
    with ThreadPoolExecutor(CLIENTS) as pool:
        running = [pool.submit(trader.trade, stop) for trader in traders]
        try:
            for turn in range(KILLS):
                wait_for_orders(traders, running)
                kill_and_await_restart(on_a_cluster, turn)
            wait_for_orders(traders, running)
        finally:
            stop.set()
        for each in running:
            each.result()
    for trader in traders:
        every_acknowledged_order_is_there(trader)
        balances_are_what_the_fills_say(trader.api)
    eventually("trades without a gap in the database", lambda: trades_are_contiguous(traders))
    eventually("money adds up on all shards", lambda: money_adds_up(on_a_cluster))


@pytest.mark.parametrize("base", ["BTC", "ETH", "SOL"])
async def test_a_trade_is_heard_on_every_market(on_a_cluster: RunningExchange, base: str) -> None:
    symbol = f"{base}/USDT"
    maker = new_account(on_a_cluster.url, **{base: "10"})
    taker = new_account(on_a_cluster.url, USDT="1000000")
    await asyncio.to_thread(
        maker.order, f"{base}USDT", "SELL", "LIMIT", price="5000.00", quantity="1", newClientOrderId="offer"
    )
    client = connect(on_a_cluster.url, on_a_cluster.settings.ws_url(), taker.key, taker.secret)
    client.enableRateLimit = False
    try:
        async with asyncio.timeout(TIMEOUT_S):
            assert (await client.watch_order_book(symbol))["asks"][0][0] == 5000
            trades = asyncio.ensure_future(client.watch_trades(symbol))
            fills = asyncio.ensure_future(client.watch_my_trades(symbol))
            # Again and again, since the subscriptions stand when they stand.
            while not (trades.done() and fills.done()):
                await asyncio.to_thread(
                    taker.order,
                    f"{base}USDT",
                    "BUY",
                    "LIMIT",
                    price="5000.00",
                    quantity="0.01",
                    timeInForce="IOC",
                )
                await asyncio.wait((trades, fills), timeout=0.5)
            assert trades.result()[-1]["price"] == fills.result()[-1]["price"] == 5000
    finally:
        await client.close()
    await asyncio.to_thread(in_the_database, taker, f"{base}USDT")


def in_the_database(api: Api, symbol: str) -> None:
    eventually("own trades in the database", lambda: api.my_trades(symbol))
    assert [each["id"] for each in api.historical_trades(symbol)]


def test_every_shard_is_shown(on_a_cluster: RunningExchange) -> None:
    assert all(shard["answers"] for shard in on_a_cluster.command("shards"))
    assert {each["name"] for each in on_a_cluster.command("status")["processes"]} >= {
        "redis-1",
        "redis-2",
        "redis-3",
    }
