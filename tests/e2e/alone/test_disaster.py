"""Redis's data are gone, or have lost their end: the exchange does not open, is restored from the database,
and trades on."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import pytest

from cli.commands.restore import GO_ON
from cli.local.state_file import read_state
from protocol.stream_id import StreamId
from tests.support.api import Api, eventually, new_account
from tests.support.running_exchange import RunningExchange, running_exchange

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


@pytest.mark.timeout(600)
@pytest.mark.parametrize("shard_count", ["3"])
def test_a_wiped_redis_is_restored_and_trading_goes_on(data_dir: Path, shard_count: str) -> None:
    settings = {"mm_enabled": "false", "shard_count": shard_count, "snapshot_interval_s": "2"}
    with running_exchange(data_dir, **settings) as exchange:
        buyer = new_account(exchange.url, USDT="100000")
        seller = new_account(exchange.url, SOL="1000")
        trade(buyer, seller, 10)
        buyer.order(SYMBOL, "BUY", "LIMIT", quantity="2", price="90", newClientOrderId="rests")
        eventually("all trades in the history", lambda: traded(seller) == 6)
        # The shards go on to say that time passes.
        reached = [report["position"] for report in exchange.command("shards")]
        eventually("everything archived", lambda: all_archived(exchange, reached))
        before = [what_is_seen(account) for account in (buyer, seller)]
        sequence = buyer.get("/api/v3/depth", symbol=SYMBOL)["lastUpdateId"]
        kill_everything(exchange)
    environment = exchange.environment
    shutil.rmtree(data_dir / "redis")

    refused = exchange_command(environment, "up")
    assert refused.returncode == 1
    assert "has lost the end of its log" in refused.stderr
    assert "exchange restore" in refused.stderr

    dry = exchange_command(environment, "restore", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "Nothing was written." in dry.stdout
    restored = exchange_command(environment, "restore")
    assert restored.returncode == 0, restored.stderr + restored.stdout
    assert GO_ON in " ".join(restored.stdout.split())

    with running_exchange(data_dir, **settings) as exchange:
        buyer, seller = (Api(exchange.url, each.key, each.secret) for each in (buyer, seller))
        eventually("the book", lambda: buyer.get("/api/v3/depth", symbol=SYMBOL)["bids"])
        assert [what_is_seen(account) for account in (buyer, seller)] == before
        book = exchange.command("book", "--market", SYMBOL, "--sequence", str(sequence))
        assert (book["bids"], book["asks"]) == tuple(map(pairs, before[0]["book"]))
        trade(buyer, seller, 5)
        eventually("the new trades in the history", lambda: traded(seller) == 9)
        tape = buyer.historical_trades(SYMBOL)
        assert [each["id"] for each in tape] == list(range(1, len(tape) + 1))
        orders = buyer.signed("GET", "/api/v3/allOrders", symbol=SYMBOL)
        assert len({each["orderId"] for each in orders}) == len(orders)
        buyer.signed("DELETE", "/api/v3/order", symbol=SYMBOL, origClientOrderId="rests")
        eventually("money adds up on all shards", lambda: conserved(exchange))


def pairs(levels: list[list[str]]) -> list[list[str]]:
    return [list(level) for level in levels]


def traded(api: Api) -> Decimal:
    """The quantity of all trades on the tape."""
    return sum((Decimal(each["qty"]) for each in api.historical_trades(SYMBOL)), Decimal(0))


def all_archived(exchange: RunningExchange, positions: list[str]) -> bool:
    archived = [
        StreamId.parse(report["passed"].get("archive", "0-0")) for report in exchange.command("shards")
    ]
    pairs = zip(archived, positions, strict=True)
    return all(done >= StreamId.parse(position) for done, position in pairs)


def conserved(exchange: RunningExchange) -> bool:
    reports = exchange.command("shards")
    settled: dict[str, int] = {}
    for report in reports:
        assert report["conserved"]
        for asset, *_, amount in report["rows"]:
            settled[asset] = settled.get(asset, 0) + amount
    return not any(settled.values())
