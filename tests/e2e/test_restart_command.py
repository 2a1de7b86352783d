"""`exchange restart` as a user meets it."""

import subprocess
import sys

import msgspec
import pytest

from cli.local.own_exchange import OwnExchangeError
from mm.accounts import Accounts
from tests.support.api import Api
from tests.support.eventually import eventually
from tests.support.running_exchange import RunningExchange

TIMEOUT_S = 120


def test_named_processes_are_restarted_in_their_order_and_leave_nothing_behind(
    exchange: RunningExchange,
) -> None:
    before = {each.name: each for each in exchange.processes()}
    restarted = exchange.command("restart", "frontend", "mm", "gateway", timeout_s=TIMEOUT_S)
    assert [each["process"] for each in restarted] == ["gateway", "mm", "frontend"]
    after = {each.name: each for each in exchange.processes()}
    assert {name for name in before if before[name].pid != after[name].pid} == {"gateway", "mm", "frontend"}
    assert all(after[name].restarts == before[name].restarts for name in before)
    assert exchange.command("status")["ready"]
    eventually("no quote but those of now", lambda: _quotes_are_no_more_than_wanted(exchange))


def _quotes_are_no_more_than_wanted(exchange: RunningExchange) -> bool:
    file = exchange.settings.data_dir / "mm.json"
    maker = msgspec.json.decode(file.read_bytes(), type=Accounts).maker.keys
    api = Api(exchange.url, maker.api_key, maker.secret)
    levels = exchange.settings.mm_levels
    books = [
        api.signed("GET", "/api/v3/openOrders", symbol=symbol)
        for symbol in exchange.settings.market_map().by_symbol
    ]
    return all(
        0 < sum(1 for order in orders if order["side"] == side) <= levels
        for orders in books
        for side in ("BUY", "SELL")
    )


def test_engine_workers_are_restarted_with_the_core_that_is_asked_for(exchange: RunningExchange) -> None:
    before = {each.name: each.pid for each in exchange.processes()}
    workers = {name for name in before if name.startswith("engine")}
    restarted = exchange.command("restart", "--core", "objects", timeout_s=TIMEOUT_S)
    assert {each["process"] for each in restarted} == workers
    after = {each.name: each.pid for each in exchange.processes()}
    assert {name for name in before if before[name] != after[name]} == workers
    status = exchange.command("status")
    assert {row["name"]: row["core"] for row in status["processes"] if row["core"]} == dict.fromkeys(
        workers, "objects"
    )
    for arguments, words in (
        (("gateway", "--core", "objects"), "gateway has no core; engine workers are: engine-0"),
        (("--core", "quick"), "'quick' is not one of"),
    ):
        with pytest.raises(OwnExchangeError, match=words):
            exchange.command("restart", *arguments, timeout_s=TIMEOUT_S)


@pytest.mark.parametrize(
    ("name", "words"),
    [("gatway", "There are: gateway, engine-0"), ("redis", "`exchange down`, `exchange up`")],
)
def test_what_cannot_be_restarted_is_an_error_that_says_what_can(
    exchange: RunningExchange, name: str, words: str
) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "cli.main", "restart", name],
        env=exchange.environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert result.returncode == 1
    assert words in " ".join(result.stderr.replace("│", " ").split())
