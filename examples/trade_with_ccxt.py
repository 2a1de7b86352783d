"""Trade with ccxt as it is: only the addresses change.

With the exchange running (`make up`):

    make setup    # ccxt is one of the development tools
    .venv/bin/python examples/trade_with_ccxt.py

Without a key the script asks `exchange demo-account --json` for a funded account. `--url`, `--key` and
`--secret`, or API_URL, API_KEY and API_SECRET, name another exchange and account.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import ccxt


def connect(url: str, key: str, secret: str) -> ccxt.binance:
    """Return ccxt's Binance client, talking to the exchange at `url` instead."""
    client = ccxt.binance({"apiKey": key, "secret": secret})
    client.urls["api"] = {name: url + urlsplit(address).path for name, address in client.urls["api"].items()}
    return client


def trade(client: ccxt.binance, symbol: str) -> None:
    """Show market and balance, place and cancel a limit order, buy at the market, and show the result."""
    markets = client.load_markets()
    print("markets  ", ", ".join(sorted(markets)))
    print("balance  ", client.fetch_balance()["total"])

    book = client.fetch_order_book(symbol, limit=5)
    for price, quantity in reversed(book["asks"]):
        print(f"ask       {price:>12} {quantity:>12}")
    for price, quantity in book["bids"]:
        print(f"bid       {price:>12} {quantity:>12}")

    best_bid, best_ask = book["bids"][0][0], book["asks"][0][0]
    resting = client.create_order(symbol, "limit", "buy", 20 / best_bid, best_bid * 0.9)
    print("placed   ", resting["id"], resting["status"], resting["amount"], "at", resting["price"])
    print("open     ", [order["id"] for order in client.fetch_open_orders(symbol)])
    print("canceled ", client.cancel_order(resting["id"], symbol)["status"])
    print("now      ", client.fetch_order(resting["id"], symbol)["status"])

    bought = client.create_order(symbol, "market", "buy", 50 / best_ask)
    print("bought   ", bought["filled"], "for", bought["cost"], "at", bought["average"])
    for mine in client.fetch_my_trades(symbol, limit=3):
        print(
            "my trade ",
            mine["datetime"],
            mine["side"],
            mine["amount"],
            "at",
            mine["price"],
            "fee",
            mine["fee"],
        )
    for time, *prices, volume in client.fetch_ohlcv(symbol, "1m", limit=3):
        print("candle   ", client.iso8601(time), *prices, volume)
    print("balance  ", client.fetch_balance()["total"])


def main() -> None:
    """Read the arguments, find a key, and trade."""
    parser = argparse.ArgumentParser(description="Trade with ccxt on this exchange.")
    parser.add_argument("--url", default=os.environ.get("API_URL", "http://127.0.0.1:8000"))
    parser.add_argument("--key", default=os.environ.get("API_KEY", ""))
    parser.add_argument("--secret", default=os.environ.get("API_SECRET", ""))
    parser.add_argument("--symbol", default="BTC/USDT")
    arguments = parser.parse_args()
    key, secret = arguments.key, arguments.secret
    if not key:
        command = [str(Path(sys.executable).with_name("exchange")), "demo-account", "--json"]
        account = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        key, secret = account["apiKey"], account["secret"]
    trade(connect(arguments.url, key, secret), arguments.symbol)


if __name__ == "__main__":
    main()
