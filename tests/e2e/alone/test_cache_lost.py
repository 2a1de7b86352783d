"""The Redis of what may be lost is killed: nothing of it is on disk.

Orders go on, and everything is shown again within seconds.
"""

import signal
from pathlib import Path
from typing import Any

import psutil

from cli.local.state_file import read_state
from tests.support.api import Api, RefusedError, new_account
from tests.support.eventually import eventually
from tests.support.lost_redis import SYMBOL, trade, traded, what_is_seen
from tests.support.running_exchange import RunningExchange, running_exchange

CACHE = "redis-cache"
KILLS = 3


def pids(exchange: RunningExchange) -> dict[str, int]:
    state = read_state(exchange.settings)
    assert state is not None
    return {each.name: each.pid for each in state.processes}


def seen(accounts: tuple[Api, ...]) -> list[dict[str, Any]] | None:
    """What accounts see; None while a part of it cannot be asked for."""
    try:
        tickers = [
            api.get(f"/api/v3/ticker/{kind}", symbol=SYMBOL)
            for kind in ("price", "bookTicker")
            for api in accounts
        ]
        return [*map(what_is_seen, accounts), *tickers]
    except RefusedError as error:
        if error.status != 503:
            raise
        return None


# Takes long: the second Redis is killed and emptied, and everything in it has to come back.
def test_orders_go_on_and_everything_is_shown_again(data_dir: Path) -> None:
    with running_exchange(data_dir, mm_enabled="false") as exchange:
        accounts = buyer, seller = (
            new_account(exchange.url, USDT="100000"),
            new_account(exchange.url, SOL="1000"),
        )
        trade(buyer, seller, 10)
        eventually("all trades in the history", lambda: traded(seller) == 6)
        last = seller.historical_trades(SYMBOL)[-1]["price"]
        eventually("the ticker", lambda: buyer.get("/api/v3/ticker/price", symbol=SYMBOL)["price"] == last)
        eventually("a depth", lambda: buyer.get("/api/v3/depth", symbol=SYMBOL)["asks"])
        others = {name: pid for name, pid in pids(exchange).items() if name != CACHE}
        for _ in range(KILLS):
            before = eventually("all is shown", lambda: seen(accounts))
            cache = psutil.Process(pids(exchange)[CACHE])
            cache.send_signal(signal.SIGKILL)
            cache.wait()
            # At once: an order needs nothing of it.
            order = buyer.order(SYMBOL, "BUY", "LIMIT", quantity="0.1", price="50")
            assert (
                buyer.signed("DELETE", "/api/v3/order", symbol=SYMBOL, orderId=order["orderId"])["status"]
                == "CANCELED"
            )
            eventually("all is shown again", lambda before=before: same(seen(accounts), before))  # type: ignore[misc]
        assert {name: pid for name, pid in pids(exchange).items() if name != CACHE} == others, (
            "no other process ended"
        )


def same(found: list[dict[str, Any]] | None, before: list[dict[str, Any]]) -> bool:
    """Whether what is seen is as it was, but for orders that were canceled since."""
    if found is None:
        return False
    return all(
        {**now, "orders": ()} == {**then, "orders": ()} for now, then in zip(found, before, strict=True)
    )
