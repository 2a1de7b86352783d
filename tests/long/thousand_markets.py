"""A thousand markets on one shard: everything starts, trades, shows every market, and starts again.

Run by `make test-long`; not part of `make test`, which does not collect files of such names. Prints how long
each start took.
"""

import time
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.support.api import Api, new_account
from tests.support.eventually import eventually
from tests.support.running_exchange import RunningExchange, running_exchange

MARKETS = 1_000
READY_S = 60
"""Beside whatever else two cores do; measured alone it is a third."""
SYMBOLS = [f"A{number:03}USDT" for number in range(MARKETS)]
MARKET = """[[markets]]
symbol = "{symbol}"
base = "{base}"
quote = "USDT"
tick_size = "0.01"
lot_size = "0.001"
price_max = "100000"
quantity_min = "0.001"
quantity_max = "9000"
notional_min = "5"
"""


def test_a_thousand_markets_trade_and_start_again(data_dir: Path, tmp_path: Path) -> None:
    markets_file = tmp_path / "markets.toml"
    markets_file.write_text("\n".join(MARKET.format(symbol=each, base=base_of(each)) for each in SYMBOLS))
    settings = {
        "markets_file": str(markets_file),
        "mm_enabled": "false",
        "standbys": "1",
        "snapshot_interval_s": "2",
        "rate_limits_enabled": "false",
    }
    began = time.monotonic()
    with running_exchange(data_dir, **settings) as exchange:
        said("everything is ready", began)
        public = Api(exchange.url)
        assert [each["symbol"] for each in public.get("/api/v3/exchangeInfo")["symbols"]] == SYMBOLS
        seller = new_account(exchange.url, **{base_of(symbol): "10" for symbol in SYMBOLS})
        buyer = new_account(exchange.url, USDT="10000000")
        trade_everywhere(seller, buyer, "100")
        shown = tickers(public, 1)
        for name in ("feeds", "engine-0", "gateway", "ws-edge"):
            restart(exchange, name)
        assert tickers(public, 1) == shown
        trade_everywhere(seller, buyer, "101")
        tickers(public, 2)
        exchange.command("audit")

    began = time.monotonic()
    with running_exchange(data_dir, **settings) as exchange:
        said("everything is ready again", began)
        public = Api(exchange.url)
        trade_everywhere(
            Api(exchange.url, seller.key, seller.secret), Api(exchange.url, buyer.key, buyer.secret), "102"
        )
        tickers(public, 3)
        balances = Api(exchange.url, seller.key, seller.secret).balances()
        assert balances[base_of(SYMBOLS[-1])] == (Decimal(7), Decimal(0))
        exchange.command("audit")


def base_of(symbol: str) -> str:
    return symbol.removesuffix("USDT")


def trade_everywhere(seller: Api, buyer: Api, price: str) -> None:
    for symbol in SYMBOLS:
        seller.order(symbol, "SELL", "LIMIT", quantity="1", price=price)
        assert buyer.order(symbol, "BUY", "LIMIT", quantity="1", price=price)["status"] == "FILLED"


def tickers(public: Api, count: int) -> list[tuple[str, str]]:
    """Return (symbol, last price) of all markets once each has had so many trades."""

    def all_told() -> list[Any] | None:
        found: list[Any] = public.get("/api/v3/ticker/24hr")
        return found if all(each["count"] == count for each in found) else None

    found = eventually("every market's trades in its ticker", all_told)
    assert [each["symbol"] for each in found] == SYMBOLS
    return [(each["symbol"], each["lastPrice"]) for each in found]


def restart(exchange: RunningExchange, name: str) -> None:
    began = time.monotonic()
    exchange.command("restart", name)
    said(f"{name} has been restarted", began)


def said(what: str, began: float) -> None:
    took_s = time.monotonic() - began
    print(f"{what} after {took_s:.1f} s")  # noqa: T201 - what the long tests measure is their output
    assert took_s < READY_S, what
