"""SHIB, PEPE, rupiah, yen and bitcoin trade in one exchange, each counted in units of its own."""

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.support.api import Api, new_account
from tests.support.currencies import CURRENCIES_FILE
from tests.support.eventually import eventually
from tests.support.exchange_command import run
from tests.support.running_exchange import RunningExchange, running_exchange

OTHER_RUPIAH = """
[[assets]]
symbol = "SHIB"
scale = 2

[[assets]]
symbol = "IDR"
scale = 3

[[markets]]
symbol = "SHIBIDR"
base = "SHIB"
quote = "IDR"
tick_size = "0.001"
lot_size = "1"
price_max = "1000"
quantity_min = "1"
quantity_max = "90000000"
notional_min = "5"
"""


def refusal(exchange: RunningExchange, *arguments: str) -> str:
    """Run a command that has to fail, and return what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        env=exchange.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode, done.stdout
    return " ".join((done.stdout + done.stderr).split())


def balance(api: Api, asset: str) -> str:
    (text,) = [
        each["free"] for each in api.signed("GET", "/api/v3/account")["balances"] if each["asset"] == asset
    ]
    return str(text)


# Takes long: an exchange with markets of its own, traded on every market, and commands that start
# processes.
@pytest.mark.parametrize("shard_count", ["3"])
def test_five_markets_of_assets_with_different_scales(
    data_dir: Path, tmp_path: Path, shard_count: str
) -> None:
    file = tmp_path / "markets.toml"
    text = CURRENCIES_FILE.read_text("utf-8")
    file.write_text(text)
    settings = {"mm_enabled": "false", "markets_file": str(file), "shard_count": shard_count}
    with running_exchange(data_dir, **settings) as exchange:
        public, ws_url = Api(exchange.url), exchange.settings.ws_url()
        buyer = new_account(exchange.url, USDT="1000000", IDR="9000000.75", JPY="1000000")
        seller = new_account(exchange.url, SHIB="5000000.25", PEPE="5000000", BTC="1.00000001")
        listen_key = buyer.http.post("/api/v3/userDataStream").json()["listenKey"]
        with connect(f"{ws_url}/ws/{listen_key}") as own, connect(f"{ws_url}/ws/btcidr@miniTicker") as ticker:
            for symbol, price, quantity, quote in (
                ("SHIBUSDT", "0.00001234", "1000000", "12.34000000"),
                ("PEPEUSDT", "0.00000987", "1000000", "9.87000000"),
                ("BTCIDR", "1600001000", "0.00101", "1616001.01000000"),
                ("BTCJPY", "15123000", "0.007", "105861.00000000"),
                ("BTCUSDT", "64250.01", "0.001", "64.25001000"),
            ):
                seller.order(symbol, "SELL", "LIMIT", quantity=quantity, price=price)
                bought = buyer.order(symbol, "BUY", "LIMIT", quantity=quantity, price=price)
                assert (bought["status"], bought["cummulativeQuoteQty"]) == ("FILLED", quote), symbol
            # A fee is 0.1 % of what is received, rounded up to the asset's unit: 1,616.01 of 1,616,001.01
            # IDR, 106 of 105,861 JPY, and 0.01234 + 0.00987 + 0.06425001 of 86.46001 USDT.
            for account, asset, free in (
                (buyer, "IDR", "7383999.74000000"),
                (seller, "IDR", "1614385.00000000"),
                (buyer, "JPY", "894139.00000000"),
                (seller, "JPY", "105755.00000000"),
                (buyer, "USDT", "999913.53999000"),
                (seller, "USDT", "86.37354999"),
                (buyer, "SHIB", "999000.00000000"),
                (seller, "SHIB", "4000000.25000000"),
                (buyer, "PEPE", "999000.00000000"),
                (buyer, "BTC", "0.00900099"),
            ):
                eventually(f"{free} {asset}", lambda a=account, s=asset, f=free: balance(a, s) == f)  # type: ignore[misc]

            told: dict[str, str] = {}
            fills: list[tuple[str, ...]] = []
            while told.get("BTC") != "0.00900099" or len(fills) < 5:
                heard = json.loads(own.recv(timeout=60))
                if heard["e"] == "outboundAccountPosition":
                    told |= {each["a"]: each["f"] for each in heard["B"]}
                elif heard["e"] == "executionReport" and heard["x"] == "TRADE":
                    fills.append((heard["s"], heard["Y"], heard["N"], heard["n"]))
            assert (told["IDR"], told["JPY"]) == ("7383999.74000000", "894139.00000000")
            assert ("BTCIDR", "1616001.01000000", "BTC", "0.00000101") in fills
            assert ("SHIBUSDT", "12.34000000", "SHIB", "1000.00000000") in fills
            mini = json.loads(ticker.recv(timeout=60))
            assert (mini["q"], mini["v"]) == ("1616001.01000000", "0.00101000")

        assert public.get("/api/v3/ticker/24hr", symbol="BTCIDR")["weightedAvgPrice"] == "1600001000.00000000"
        (candle,) = public.get("/api/v3/klines", symbol="BTCIDR", interval="1d", limit=1)
        assert (candle[5], candle[7]) == ("0.00101000", "1616001.01000000")
        (fill,) = eventually("the fill is stored", lambda: seller.my_trades("BTCIDR"))
        received = (fill["quoteQty"], fill["commission"], fill["commissionAsset"])
        assert received == ("1616001.01000000", "1616.01000000", "IDR")

        audit = exchange.command("audit")
        assert audit["problems"] == []
        assert audit["audit"]["scales"] == {"BTC": 8, "IDR": 2, "JPY": 0, "PEPE": 0, "SHIB": 2, "USDT": 8}
        assert {each["asset"]: each["fees"] for each in audit["audit"]["assets"]}["IDR"] == 161_601
        for command in ("audit", "shards"):
            assert "1616.01" in run(exchange, command).replace(",", "")

        number = str(buyer.signed("GET", "/api/v3/account")["uid"])
        credit = ("treasury", "deposit", number)
        assert "7384000.24000000 IDR available" in run(exchange, *credit, "IDR", "0.50", "--id", "one")
        assert "IDR: more than 2 decimals" in refusal(exchange, *credit, "IDR", "0.505", "--id", "two")
        assert "there is no asset GOLD" in refusal(exchange, *credit, "GOLD", "1", "--id", "two")
        # A shard admits its share of all the bitcoin there are.
        assert "amount_out_of_range" in refusal(exchange, *credit, "BTC", "21000000", "--id", "three")
        assert "IDR: 7384000.24000000 available" in run(exchange, "accounts", "show", number)

        past = exchange.command("account", "--account", number)
        assert {each["asset"]: each["available"] for each in past["balances"]}["IDR"] == "7384000.24000000"
        story = json.dumps(exchange.command("why", "--order", str(fill["orderId"])))
        assert '"fee": "1616.01000000"' in story
        assert '"quote": "1616001.01000000"' in story

        # Another scale is impossible, in a listed market and in a new one; another supply is not.
        file.write_text(text.replace('symbol = "JPY"\nscale = 0', 'symbol = "JPY"\nscale = 1'))
        assert "BTCJPY quote_scale from 0 to 1" in refusal(exchange, "markets", "plan")
        file.write_text(OTHER_RUPIAH)
        assert "IDR has 2 decimals in the markets that are listed" in refusal(exchange, "markets", "apply")
        file.write_text(text.replace('"21000000"', '"22000000"'))
        run(exchange, "markets", "apply")
        rest = 22_000_000 // int(shard_count) - 2
        run(exchange, *credit, "BTC", str(rest), "--id", "four")
        assert Decimal(balance(buyer, "BTC")) == rest + Decimal("0.00900099")
        assert len(public.get("/api/v3/exchangeInfo")["symbols"]) == 5
        assert exchange.command("audit")["problems"] == []
