"""A market is listed while everything runs: no process starts anew, and all that have to do with markets take
it from its shard."""

import importlib.resources
import json
import os
import signal
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

from cli.local.own_exchange import OwnExchangeError
from tests.support.api import Api, RefusedError, new_account, refused
from tests.support.eventually import eventually
from tests.support.exchange_command import run
from tests.support.running_exchange import RunningExchange, running_exchange

SYMBOL = "ADAUSDT"
MARKET = """
[[markets]]
symbol = "ADAUSDT"
base = "ADA"
quote = "USDT"
tick_size = "0.0001"
lot_size = "0.1"
price_max = "1000"
quantity_min = "0.1"
quantity_max = "90000"
notional_min = "5"
"""
ELSEWHERE = """
[[markets]]
symbol = "XRPUSDT"
base = "XRP"
quote = "USDT"
tick_size = "0.0001"
lot_size = "0.1"
price_max = "1000"
quantity_min = "0.1"
quantity_max = "90000"
notional_min = "5"
"""
TIMEOUT_S = 60


class Socket:
    """A connection to streams, and everything that it has heard."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self.heard: list[Any] = []

    def subscribe(self, *names: str) -> Any:
        """Subscribe, and return the answer."""
        self._connection.send(json.dumps({"method": "SUBSCRIBE", "params": names, "id": 1}))
        return self.until(lambda message: isinstance(message, dict) and message.get("id") == 1)

    def until(self, is_it: Any) -> Any:
        """Return the first message of that kind, among those heard before and those to come."""
        deadline = time.monotonic() + TIMEOUT_S
        position = 0
        while True:
            for message in self.heard[position:]:
                if is_it(message):
                    return message
            position = len(self.heard)
            assert time.monotonic() < deadline, f"not heard; the last were {self.heard[-3:]}"
            self.heard.append(json.loads(self._connection.recv(timeout=TIMEOUT_S)))


def of_kind(kind: str) -> Any:
    return lambda message: (
        isinstance(message, dict) and (message.get("e"), message.get("s")) == (kind, SYMBOL)
    )


def statuses(api: Api) -> dict[str, str]:
    return {each["symbol"]: each["status"] for each in api.get("/api/v3/exchangeInfo")["symbols"]}


def pids(exchange: RunningExchange) -> dict[str, int]:
    return {each.name: each.pid for each in exchange.processes()}


def trade(seller: Api, buyer: Api, price: str) -> None:
    seller.order(SYMBOL, "SELL", "LIMIT", quantity="100", price=price)
    assert buyer.order(SYMBOL, "BUY", "LIMIT", quantity="100", price=price)["status"] == "FILLED"


def is_known_to_edge(url: str) -> bool:
    """Whether the edge's own API has the market by now: what is traded earlier, its streams do not say."""
    with connect(f"{url}/ws-api/v3") as connection:
        connection.send(json.dumps({"id": 1, "method": "exchangeInfo", "params": {"symbol": SYMBOL}}))
        return bool(json.loads(connection.recv(timeout=TIMEOUT_S))["status"] == 200)


# Takes long: feeds, edges, gateways and the market maker look for new markets about once a second each.
@pytest.mark.parametrize("shard_count", ["3"])
def test_a_market_that_is_listed_while_everything_runs(
    data_dir: Path, tmp_path: Path, shard_count: str
) -> None:
    file = tmp_path / "markets.toml"
    text = importlib.resources.files("protocol").joinpath("markets.toml").read_text("utf-8")
    file.write_text(text)
    tmp_path.chmod(0o755)
    settings = {"mm_enabled": "false", "markets_file": str(file), "shard_count": shard_count}
    with running_exchange(data_dir, **settings) as exchange:
        public, ws_url = Api(exchange.url), exchange.settings.ws_url()
        buyer = new_account(exchange.url, USDT="100000")
        listen_key = buyer.http.post("/api/v3/userDataStream").json()["listenKey"]
        assert set(statuses(public)) == {"BTCUSDT", "ETHUSDT", "SOLUSDT"}
        before = pids(exchange)
        with connect(f"{ws_url}/ws/!miniTicker@arr") as one, connect(f"{ws_url}/ws/{listen_key}") as two:
            streams, own = Socket(one), Socket(two)
            # As at Binance: a stream of a market that does not exist yet is silent until it does.
            names = (f"{SYMBOL.lower()}@{kind}" for kind in ("trade", "kline_1m", "depth", "bookTicker"))
            assert streams.subscribe(*names)["result"] is None
            with refused(-1121, "Invalid symbol."):
                buyer.order(SYMBOL, "BUY", "LIMIT", quantity="100", price="0.5")

            file.write_text(text + MARKET)
            assert "ADAUSDT is trading, version 1" in run(exchange, "markets", "apply")
            eventually("it is listed", lambda: statuses(public).get(SYMBOL) == "TRADING", TIMEOUT_S)
            eventually("the edge has it", lambda: is_known_to_edge(ws_url), TIMEOUT_S)
            seller = new_account(exchange.url, ADA="1000")
            trade(seller, buyer, "0.5")

            heard = streams.until(of_kind("trade"))
            assert (Decimal(heard["p"]), Decimal(heard["q"]), heard["t"]) == (Decimal("0.5"), Decimal(100), 1)
            assert streams.until(of_kind("kline"))["k"]["n"] == 1
            assert streams.until(of_kind("depthUpdate"))["U"] >= 1
            streams.until(
                lambda message: isinstance(message, list) and any(each["s"] == SYMBOL for each in message)
            )
            reports = (
                own.until(of_kind("executionReport")),
                own.until(lambda each: each.get("x") == "TRADE"),
            )
            assert [each["x"] for each in reports] == ["NEW", "TRADE"]
            assert Decimal(reports[1]["L"]) == Decimal("0.5")

        assert [
            (Decimal(each["price"]), each["id"]) for each in public.get("/api/v3/trades", symbol=SYMBOL)
        ] == [(Decimal("0.5"), 1)]
        assert Decimal(public.get("/api/v3/ticker/24hr", symbol=SYMBOL)["volume"]) == 100
        (candle,) = public.get("/api/v3/klines", symbol=SYMBOL, interval="1d", limit=1)
        assert (Decimal(candle[4]), Decimal(candle[5]), Decimal(candle[7])) == (
            Decimal("0.5"),
            Decimal(100),
            Decimal(50),
        )
        for account, side in ((buyer, True), (seller, False)):
            ((fill,), (order,)) = (
                account.my_trades(SYMBOL),
                account.signed("GET", "/api/v3/allOrders", symbol=SYMBOL),
            )
            assert (fill["isBuyer"], Decimal(fill["quoteQty"]), order["status"]) == (
                side,
                Decimal(50),
                "FILLED",
            )
        resting = seller.order(SYMBOL, "SELL", "LIMIT", quantity="10", price="0.6")
        assert [each["orderId"] for each in seller.signed("GET", "/api/v3/openOrders")] == [
            resting["orderId"]
        ]

        run(exchange, "markets", "halt", SYMBOL)
        eventually("it is halted", lambda: statuses(public)[SYMBOL] == "HALT", TIMEOUT_S)
        halted = public.get("/api/v3/exchangeInfo", symbolStatus="HALT")["symbols"]
        assert [each["symbol"] for each in halted] == [SYMBOL]
        with refused(-1013, "Market is closed."):
            buyer.order(SYMBOL, "BUY", "LIMIT", quantity="100", price="0.5")
        run(exchange, "markets", "resume", SYMBOL)
        eventually("it trades again", lambda: statuses(public)[SYMBOL] == "TRADING", TIMEOUT_S)
        assert pids(exchange) == before, "no process has started anew"

        other = tmp_path / "other.toml"
        other.write_text(ELSEWHERE)
        assert "XRPUSDT is trading, version 1" in run(exchange, "markets", "apply", "--file", str(other))
        eventually("it is listed", lambda: statuses(public).get("XRPUSDT") == "TRADING", TIMEOUT_S)
        listed = {each["symbol"]: each["status"] for each in exchange.command("markets")}
        assert listed == dict.fromkeys(("ADAUSDT", "BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT"), "trading")

        # Another file, with which every process starts anew, changes nothing that anybody sees.
        file.write_text(ELSEWHERE.replace("XRP", "DOGE"))
        for process in exchange.processes():
            if not process.name.startswith(("redis", "postgres")):
                os.kill(process.pid, signal.SIGKILL)

        def is_back() -> bool:
            try:
                return bool(statuses(public)) and exchange.command("status")["ready"]
            except (httpx.HTTPError, RefusedError, OwnExchangeError):
                return False

        eventually("everything is back", is_back, 120)
        assert set(statuses(public)) == {"ADAUSDT", "BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT"}
        trade(seller, buyer, "0.6")  # 10 of it against what rested
        assert [each["id"] for each in public.get("/api/v3/trades", symbol=SYMBOL)] == [1, 2, 3]
        assert len(buyer.my_trades(SYMBOL)) == 3
        assert exchange.command("audit")["problems"] == []
