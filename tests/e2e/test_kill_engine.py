"""kill -9 of the engine worker in the middle of trading: whatever was acknowledged is there, once, and the
money adds up."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

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
from tests.support.running_exchange import RunningExchange

pytestmark = pytest.mark.shard_counts(1, 3)

KILLS = 5


# Takes long: engine workers are killed several times, and each restart restores the shard's state.
def test_killing_the_engine_in_the_middle_of_trading(exchange: RunningExchange) -> None:
    traders = [Trader(exchange.url, number) for number in range(CLIENTS)]
    stop = threading.Event()
    with ThreadPoolExecutor(CLIENTS) as pool:
        running = [pool.submit(trader.trade, stop) for trader in traders]
        try:
            for turn in range(KILLS):
                wait_for_orders(traders, running)
                kill_and_await_restart(exchange, turn)
            wait_for_orders(traders, running)
        finally:
            stop.set()
        for each in running:
            each.result()

    for trader in traders:
        every_acknowledged_order_is_there(trader)
        balances_are_what_the_fills_say(trader.api)
    eventually("trades without a gap in the database", lambda: trades_are_contiguous(traders))
    eventually("money adds up on all shards", lambda: money_adds_up(exchange))
