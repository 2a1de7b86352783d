"""Markets are configured by commands, while they trade.

A changed file alone changes nothing that was or will be.
"""

import importlib.resources
import os
import signal
from decimal import Decimal
from pathlib import Path

from tests.support.api import Api, new_account, refused
from tests.support.eventually import eventually
from tests.support.exchange_command import run
from tests.support.running_exchange import running_exchange

SYMBOL = "BTCUSDT"


def trade(seller: Api, buyer: Api) -> Decimal:
    """Let 0.1 BTC be traded, and return what the buyer received of it."""
    before = buyer.balances()["BTC"][0]
    seller.order(SYMBOL, "SELL", "LIMIT", quantity="0.1", price="50000")
    assert buyer.order(SYMBOL, "BUY", "LIMIT", quantity="0.1", price="50000")["status"] == "FILLED"
    return buyer.balances()["BTC"][0] - before


# Takes long: every process is restarted with another markets file, after commands that each start a
# process.
def test_fees_and_status_change_by_commands_and_by_nothing_else(data_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "markets.toml"
    text = importlib.resources.files("protocol").joinpath("markets.toml").read_text("utf-8")
    file.write_text(text)
    tmp_path.chmod(0o755)
    settings = {"mm_enabled": "false", "markets_file": str(file), "shard_count": "3"}
    with running_exchange(data_dir, **settings) as exchange:
        seller, buyer = new_account(exchange.url, BTC="10"), new_account(exchange.url, USDT="1000000")
        paid = [trade(seller, buyer) for _ in range(5)]
        assert paid == [Decimal("0.0999")] * 5  # less 0.1 %
        balances = seller.balances(), buyer.balances()

        # Ten times the fee in the file, and every worker starts anew: nothing that was traded changes, nor
        # does the fee.
        assert text.count('symbol = "BTCUSDT"\n') == 1
        file.write_text(text.replace('symbol = "BTCUSDT"\n', 'symbol = "BTCUSDT"\ntaker_fee = "0.01"\n'))
        for each in exchange.processes():
            if each.name.startswith("engine"):
                os.kill(each.pid, signal.SIGKILL)
        eventually("the engines", lambda: exchange.command("status")["ready"])
        assert (seller.balances(), buyer.balances()) == balances
        assert trade(seller, buyer) == Decimal("0.0999")
        assert exchange.command("audit")["problems"] == []

        (planned,) = exchange.command("markets", "plan")
        assert planned["differences"] == {"taker_fee_ppm": {"now": 1_000, "then": 10_000}}
        assert "BTCUSDT is trading, version 2" in run(exchange, "markets", "apply")
        assert trade(seller, buyer) == Decimal("0.099")
        assert "as the settings say" in run(exchange, "markets", "apply")

        resting = seller.order(SYMBOL, "SELL", "LIMIT", quantity="0.1", price="60000")
        for command, cancels in (("halt", False), ("cancel-only", True)):
            run(exchange, "markets", command, "btcusdt")
            with refused(-1013, "Market is closed."):
                buyer.order(SYMBOL, "BUY", "LIMIT", quantity="0.1", price="50000")
            if not cancels:
                with refused(-1013, "Market is closed."):
                    seller.signed("DELETE", "/api/v3/order", symbol=SYMBOL, orderId=resting["orderId"])
        canceled = seller.signed("DELETE", "/api/v3/order", symbol=SYMBOL, orderId=resting["orderId"])
        assert canceled["status"] == "CANCELED"
        assert "BTCUSDT is trading, version 5" in run(exchange, "markets", "resume", SYMBOL)
        assert trade(seller, buyer) == Decimal("0.099")

        replayed = exchange.command("replay", "--verify")
        assert all(each["same"] for each in replayed)
