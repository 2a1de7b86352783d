"""A Redis whose data is wiped under a running exchange, and what clients see before and after."""

import signal
import subprocess
import sys
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import psutil

from cli.local.state_file import read_state
from tests.support.api import Api
from tests.support.running_exchange import RunningExchange

SYMBOL = "SOLUSDT"


TIMEOUT_S = 120


def exchange_command(environment: Mapping[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        env=dict(environment), capture_output=True, text=True, timeout=TIMEOUT_S,
    )  # fmt: skip


def kill_everything(exchange: RunningExchange) -> None:
    """kill -9 of the supervisor and all that it has started, the servers included."""
    state = read_state(exchange.settings)
    assert state is not None
    pids = [state.pid, *(each.pid for each in state.processes)]
    processes = [psutil.Process(pid) for pid in pids if pid and psutil.pid_exists(pid)]
    for process in processes:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    for process in processes:
        process.wait(TIMEOUT_S)


def what_is_seen(account: Api) -> dict[str, Any]:
    book = account.get("/api/v3/depth", symbol=SYMBOL)
    return {
        "balances": account.balances(),
        "open orders": account.signed("GET", "/api/v3/openOrders"),
        "orders": account.signed("GET", "/api/v3/allOrders", symbol=SYMBOL),
        "trades": account.my_trades(SYMBOL),
        "book": (book["bids"], book["asks"]),
        "tape": account.historical_trades(SYMBOL),
        "recent": account.get("/api/v3/trades", symbol=SYMBOL),
    }


def trade(buyer: Api, seller: Api, rounds: int) -> None:
    for number in range(rounds):
        seller.order(SYMBOL, "SELL", "LIMIT", quantity="1", price=f"{100 + number}")
        buyer.order(SYMBOL, "BUY", "LIMIT", quantity="0.6", price=f"{100 + number}")


def traded(api: Api) -> Decimal:
    """The quantity of all trades on the tape."""
    return sum((Decimal(each["qty"]) for each in api.historical_trades(SYMBOL)), Decimal(0))
