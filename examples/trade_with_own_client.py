"""Rest an order, look at it, and cancel it, with the client that the market maker uses.

.venv/bin/exchange demo-account --json
.venv/bin/python examples/trade_with_own_client.py KEY SECRET
"""

import argparse
import asyncio
from decimal import Decimal

from client.rest import ApiError, Client, Keys

SYMBOL = "BTCUSDT"


async def trade(url: str, keys: Keys) -> None:
    """Place an order one percent below the best bid, and cancel it."""
    async with Client(url) as client:
        await client.synchronize_clock()
        best = await client.get("/api/v3/ticker/bookTicker", symbol=SYMBOL)
        price = Decimal(best["bidPrice"]) * 99 // 100
        order = {"symbol": SYMBOL, "side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "quantity": "0.001"}
        placed = await client.signed(keys, "POST", "/api/v3/order", **order, price=str(price))
        print("placed  ", placed["orderId"], placed["status"], "at", placed["price"])
        asked = await client.signed(keys, "GET", "/api/v3/order", symbol=SYMBOL, orderId=placed["orderId"])
        print("open    ", asked["status"], asked["executedQty"], "of", asked["origQty"])
        canceled = await client.signed(
            keys, "DELETE", "/api/v3/order", symbol=SYMBOL, orderId=placed["orderId"]
        )
        print("canceled", canceled["status"])
        try:
            await client.signed(keys, "DELETE", "/api/v3/order", symbol=SYMBOL, orderId=placed["orderId"])
        except ApiError as refusal:
            print("refused ", refusal)


def main() -> None:
    """Trade with the key that the command line names."""
    parser = argparse.ArgumentParser(description="Trade with the exchange's own client.")
    parser.add_argument("key")
    parser.add_argument("secret")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    arguments = parser.parse_args()
    asyncio.run(trade(arguments.url, Keys(arguments.key, arguments.secret)))


if __name__ == "__main__":
    main()
