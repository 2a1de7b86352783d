"""What an operator and the treasury do from the command line, as clients meet it, on a whole exchange."""

import secrets
import subprocess
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from cli.local.own_exchange import EXCHANGE
from tests.support.api import Api, RefusedError, new_account, refused
from tests.support.data_dirs import data_dir_of_its_own
from tests.support.eventually import eventually
from tests.support.exchange_command import run
from tests.support.running_exchange import RunningExchange, running_exchange

SYMBOL = "BTCUSDT"
TIMEOUT_S = 60


@pytest.fixture(scope="module")
def operated() -> Iterator[RunningExchange]:
    """One for all: each test takes back what it has changed for everybody, and trades where no other test
    does."""
    with (
        data_dir_of_its_own() as path,
        running_exchange(path, mm_enabled="false", shard_count="3", orders_per_10s="1000") as running,
    ):
        yield running


def number_of(account: Api) -> str:
    return str(account.signed("GET", "/api/v3/account")["uid"])


def buy(account: Api, price: str = "30000") -> dict[str, object]:
    placed: dict[str, object] = account.order(SYMBOL, "BUY", "LIMIT", quantity="0.001", price=price)
    return placed


def fails(exchange: RunningExchange, *arguments: str, **settings: str) -> str:
    """Run a command that must fail, and return what it says."""
    environment = {
        **exchange.environment,
        **{f"EXCHANGE_{name.upper()}": text for name, text in settings.items()},
    }
    done = subprocess.run(
        (*EXCHANGE, *arguments), env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0, done.stdout
    return done.stdout + done.stderr


# Takes long: a dozen commands of operators, each a process that starts.
def test_an_account_is_frozen_emptied_limited_and_closed(operated: RunningExchange) -> None:
    account = new_account(operated.url, USDT="1000")
    number = number_of(account)
    resting = [buy(account, price)["orderId"] for price in ("30000", "30001", "30002")]
    run(operated, "accounts", "freeze", number)
    with refused(-2010, "This action is disabled on this account."):
        buy(account)
    shown = account.signed("GET", "/api/v3/account")
    assert (shown["canTrade"], shown["canWithdraw"]) == (False, False)
    assert "frozen" in run(operated, "accounts", "show", number)
    account.signed("DELETE", "/api/v3/order", symbol=SYMBOL, orderId=str(resting[0]))
    assert "2 orders are being canceled" in run(operated, "accounts", "cancel-orders", number, "--yes")
    eventually("its orders are gone", lambda: account.signed("GET", "/api/v3/openOrders") == [], TIMEOUT_S)
    states = {
        each["orderId"]: each["status"] for each in account.signed("GET", "/api/v3/allOrders", symbol=SYMBOL)
    }
    assert [states[each] for each in resting] == ["CANCELED", "EXPIRED", "EXPIRED"]
    assert account.balances()["USDT"] == (Decimal(1000), Decimal(0))

    run(operated, "accounts", "thaw", number)
    run(operated, "accounts", "limit", number, "--open-orders", "1", "--orders-1d", "2")
    buy(account)
    with refused(-2010, "Filter failure: MAX_NUM_ORDERS"):
        buy(account)
    run(operated, "accounts", "limit", number, "--open-orders", "0")
    buy(account)
    with pytest.raises(RefusedError) as too_many:
        buy(account)
    assert (too_many.value.status, too_many.value.code) == (429, -1015)
    run(operated, "accounts", "limit", number, "--orders-1d", "0")
    account.signed("DELETE", "/api/v3/openOrders", symbol=SYMBOL)

    assert "account_in_use" in fails(operated, "accounts", "close", number)
    for _ in range(2):  # the second time it is known for the same
        assert "has 0.00000000 USDT" in run(
            operated, "treasury", "withdraw", number, "usdt", "1000", "--id", "everything"
        )
    run(operated, "accounts", "close", number)
    assert account.balances()["USDT"] == (Decimal(0), Decimal(0))


# Takes long: commands of operators, each a process that starts.
def test_money_comes_and_fees_go_by_the_treasurys_word(operated: RunningExchange) -> None:
    buyer, seller = new_account(operated.url), new_account(operated.url)
    for account, asset, amount in ((buyer, "usdt", "1000"), (seller, "eth", "1")):
        run(operated, "treasury", "deposit", number_of(account), asset, amount, "--id", secrets.token_hex(4))
    seller.order("ETHUSDT", "SELL", "LIMIT", quantity="0.01", price="3000")
    buyer.order("ETHUSDT", "BUY", "LIMIT", quantity="0.01", price="3000")
    # The taker's fee: a thousandth of 0.01 ETH, at the shard of the buyer.
    shards = operated.settings.shard_count
    shard = str(int(number_of(buyer)) % 2_520 % shards)
    assert "0.00000000 ETH of fees left" in run(
        operated, "treasury", "withdraw-fees", "eth", "0.00001", "--shard", shard, "--id", "q1"
    )
    assert "insufficient_balance" in fails(
        operated, "treasury", "withdraw-fees", "eth", "0.00000001", "--shard", shard, "--id", "q2"
    )
    run(operated, "audit")
    assert "0 fee" not in run(operated, "replay", "--verify")


def test_open_orders_of_every_account_are_bounded(operated: RunningExchange) -> None:
    account, public = new_account(operated.url, USDT="1000"), Api(operated.url)

    def shown() -> int:
        (rule,) = public.get("/api/v3/exchangeInfo")["exchangeFilters"]
        return int(rule["maxNumOrders"])

    assert shown() == 1_000
    run(operated, "accounts", "limit-all", "--open-orders", "1")
    eventually("clients are told", lambda: shown() == 1, TIMEOUT_S)
    buy(account)
    with pytest.raises(RefusedError, match=r"-2010.*Filter failure: EXCHANGE_MAX_NUM_ORDERS"):
        buy(account)
    run(operated, "accounts", "limit-all", "--open-orders", "1000", "--in-flight", "5000")
    buy(account)


def test_maintenance_is_announced_begins_and_ends(operated: RunningExchange) -> None:
    account, public = new_account(operated.url, USDT="1000"), Api(operated.url)

    def status() -> tuple[int, str, bool]:
        said = public.get("/sapi/v1/system/status")
        return said["status"], said["msg"], "maintenanceFrom" in said

    assert status() == (0, "normal", False)
    run(operated, "maintenance", "begin", "--at", "2099-01-01T00:00:00Z")
    eventually("it is announced", lambda: status() == (0, "normal", True), TIMEOUT_S)
    order = buy(account)
    run(operated, "maintenance", "begin")
    eventually("it has begun", lambda: status() == (1, "system_maintenance", True), TIMEOUT_S)
    with pytest.raises(RefusedError, match="maintenance"):
        buy(account)
    account.signed("DELETE", "/api/v3/order", symbol=SYMBOL, orderId=str(order["orderId"]))
    run(operated, "maintenance", "end")
    buy(account)
    eventually("it is over", lambda: status() == (0, "normal", False), TIMEOUT_S)


# Takes long: commands of operators, each a process that starts.
def test_a_key_that_was_replaced_signs_nothing_any_more(operated: RunningExchange) -> None:
    account = new_account(operated.url, USDT="1000")
    number = number_of(account)
    old = (Path(operated.settings.data_dir) / "operator.key").read_text()
    run(operated, "keys", "rotate", "operator")
    run(operated, "accounts", "freeze", number)
    assert "not_authorized" in fails(operated, "accounts", "thaw", number, operator_key=old)
    assert "not_authorized" in fails(operated, "accounts", "thaw", number, operator_key="A" * 43 + "=")
    # The treasury's key, and the old faucet's, are other keys.
    run(operated, "keys", "rotate", "faucet", "--keep")
    new_account(operated.url, USDT="1")
    assert (Path(operated.settings.data_dir) / "operator.key").stat().st_mode & 0o777 == 0o600


def test_a_market_is_delisted_with_what_rests_there(operated: RunningExchange) -> None:
    account, public = new_account(operated.url, USDT="10000"), Api(operated.url)
    orders = [buy(account, str(30_000 + number))["orderId"] for number in range(150)]
    assert "BTCUSDT is delisting" in run(operated, "markets", "delist", SYMBOL, "--yes")
    eventually(
        "its orders are gone", lambda: account.balances()["USDT"] == (Decimal(10_000), Decimal(0)), TIMEOUT_S
    )

    def symbols() -> set[str]:
        return {each["symbol"] for each in public.get("/api/v3/exchangeInfo")["symbols"]}

    eventually("it is not listed", lambda: symbols() == {"ETHUSDT", "SOLUSDT"}, TIMEOUT_S)
    with refused(-1121, "Invalid symbol."):
        buy(account)
    history = account.signed("GET", "/api/v3/allOrders", symbol=SYMBOL)
    assert {each["orderId"]: each["status"] for each in history} == dict.fromkeys(orders, "EXPIRED")
    run(operated, "audit")
    run(operated, "replay", "--verify")
    assert "BTCUSDT is trading" in run(operated, "markets", "resume", SYMBOL)
    eventually("it is listed again", lambda: SYMBOL in symbols(), TIMEOUT_S)
    buy(account)
