"""Watch with ccxt.pro as it is: only the addresses change.

With the exchange running (`make up`):

    make setup    # ccxt is one of the development tools
    .venv/bin/python examples/watch_with_ccxt_pro.py

Without a key the script asks `exchange demo-account --json` for a funded account.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import ccxt.pro


def connect(rest_url: str, ws_url: str, key: str = "", secret: str = "") -> ccxt.pro.binance:
    """Return ccxt.pro's Binance client, talking to the exchange at `rest_url` and `ws_url` instead."""
    client = ccxt.pro.binance({"apiKey": key, "secret": secret})
    api = client.urls["api"]
    sockets = {**api["ws"], "spot": f"{ws_url}/ws"}
    sockets["ws-api"] = {**sockets["ws-api"], "spot": f"{ws_url}/ws-api/v3"}
    rest = {
        name: rest_url + urlsplit(address).path for name, address in api.items() if isinstance(address, str)
    }
    client.urls["api"] = {**rest, "ws": sockets}
    return client


async def watch(client: ccxt.pro.binance, symbol: str) -> None:
    """Show book, trades, ticker and candles once, then an own order from its placement to the new balance."""
    try:
        book = await client.watch_order_book(symbol)
        print("book     ", book["bids"][0], book["asks"][0])
        own_orders = asyncio.ensure_future(client.watch_orders(symbol))
        own_trades = asyncio.ensure_future(client.watch_my_trades(symbol))
        balance = asyncio.ensure_future(client.watch_balance())
        await asyncio.sleep(0.5)  # long enough for the subscription to stand
        trades = asyncio.ensure_future(client.watch_trades(symbol))
        await client.create_order(symbol, "market", "buy", 50 / book["asks"][0][0])
        for order in await own_orders:
            print("my order ", order["id"], order["status"], order["filled"])
        for trade in await own_trades:
            print("my trade ", trade["side"], trade["amount"], "at", trade["price"], "fee", trade["fee"])
        print("balance  ", (await balance)["total"])
        print("trades   ", [(each["side"], each["amount"], each["price"]) for each in (await trades)[-3:]])
        print("ticker   ", (await client.watch_ticker(symbol))["last"])
        print("candle   ", (await client.watch_ohlcv(symbol, "1m"))[-1])
    finally:
        await client.close()


def main() -> None:
    """Read the arguments, find a key, and watch."""
    parser = argparse.ArgumentParser(description="Watch this exchange with ccxt.pro.")
    parser.add_argument("--rest", default=os.environ.get("API_URL", "http://127.0.0.1:8000"))
    parser.add_argument("--ws", default=os.environ.get("WS_URL", "ws://127.0.0.1:8001"))
    parser.add_argument("--key", default=os.environ.get("API_KEY", ""))
    parser.add_argument("--secret", default=os.environ.get("API_SECRET", ""))
    parser.add_argument("--symbol", default="BTC/USDT")
    arguments = parser.parse_args()
    key, secret = arguments.key, arguments.secret
    if not key:
        command = [str(Path(sys.executable).with_name("exchange")), "demo-account", "--json"]
        account = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        key, secret = account["apiKey"], account["secret"]
    asyncio.run(watch(connect(arguments.rest, arguments.ws, key, secret), arguments.symbol))


if __name__ == "__main__":
    main()
