"""A local order book with plain `websockets`: a snapshot, then every change, without a gap.

With the exchange running (`make up`):

    .venv/bin/python examples/watch_with_websockets.py
"""

import argparse
import asyncio
import json
from decimal import Decimal
from typing import Any
from urllib.request import urlopen

from websockets.asyncio.client import connect


class Gap(Exception):  # noqa: N818 - not an error: begin again with a new snapshot
    """A change does not follow on the one before."""


class Book:
    """One market's book: price -> quantity by side."""

    def __init__(self, snapshot: dict[str, Any]) -> None:
        self.update_id: int = snapshot["lastUpdateId"]
        self.bids = {Decimal(price): Decimal(quantity) for price, quantity in snapshot["bids"]}
        self.asks = {Decimal(price): Decimal(quantity) for price, quantity in snapshot["asks"]}

    def apply(self, update: dict[str, Any]) -> None:
        """Apply one @depth event.

        Raises:
            Gap: events are missing in between.
        """
        if update["u"] <= self.update_id:
            return
        if update["U"] > self.update_id + 1:
            raise Gap
        for levels, changes in ((self.bids, update["b"]), (self.asks, update["a"])):
            for price, quantity in changes:
                levels[Decimal(price)] = Decimal(quantity)
                if not levels[Decimal(price)]:
                    del levels[Decimal(price)]
        self.update_id = update["u"]


def snapshot(rest_url: str, symbol: str) -> dict[str, Any]:
    """Return the book as it is now."""
    with urlopen(f"{rest_url}/api/v3/depth?symbol={symbol}&limit=5000") as response:
        answer: dict[str, Any] = json.load(response)
        return answer


async def watch(rest_url: str, ws_url: str, symbol: str, updates: int) -> Book:
    """Print trades and the best prices until `updates` changes of the book were seen; return the book."""
    names = f"{symbol.lower()}@depth@100ms/{symbol.lower()}@trade"
    book: Book | None = None
    async with connect(f"{ws_url}/stream?streams={names}") as socket:
        async for message in socket:
            event = json.loads(message)["data"]
            if event["e"] == "trade":
                print("trade", event["t"], "sell" if event["m"] else "buy ", event["q"], "at", event["p"])
                continue
            # The snapshot is taken after the first event, so that the events reach back before it.
            while book is None or book.update_id < event["U"] - 1:
                book = Book(await asyncio.to_thread(snapshot, rest_url, symbol))
            book.apply(event)
            if book.bids and book.asks:
                print("book ", book.update_id, "bid", max(book.bids), "ask", min(book.asks))
            updates -= 1
            if not updates:
                return book
    raise Gap


def main() -> None:
    """Read the arguments and watch."""
    parser = argparse.ArgumentParser(description="Keep a local order book.")
    parser.add_argument("--rest", default="http://127.0.0.1:8000")
    parser.add_argument("--ws", default="ws://127.0.0.1:8001")
    parser.add_argument("--symbol", default="BTCUSDT")
    parser.add_argument("--updates", type=int, default=20)
    arguments = parser.parse_args()
    asyncio.run(watch(arguments.rest, arguments.ws, arguments.symbol, arguments.updates))


if __name__ == "__main__":
    main()
