"""Seeded streams of operations, the same in every run.

Every tenth operation takes, three cancel, six add; a taker is sized to consume about three makers, so that
the number of resting orders stays where it began.
"""

import random
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from engine_worker.core.book import Book
from protocol.commands import CancelOrder, Command, Deposit, PlaceOrder
from protocol.configuration import ShardConfig
from protocol.market import MATCHES_MAX, Market, MarketMap
from protocol.orders import OrderType, SelfTradePrevention, Side, TimeInForce
from protocol.units import AMOUNT_UNITS_MAX, AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots
from runtime.settings import Settings

MID_PRICE = 10_000_000
"""100,000 USDT in ticks of 0.01."""
LEVELS = 500
ACCOUNTS = 100
LIVE_ORDERS = 10_000
QUANTITY = 1_000
OPEN_ORDERS_MAX = 10**9


class Operation(NamedTuple):
    """One step against a book: an `add`, a `cancel` (by `order_id`), or a `take`."""

    kind: str
    order_id: OrderId
    side: Side
    price: PriceTicks
    quantity: QuantityLots


def operations(
    count: int, live_orders: int = LIVE_ORDERS, seed: int = 1
) -> tuple[list[Operation], list[Operation]]:
    """Return the adds that fill the book with `live_orders`, and `count` mixed operations on it."""
    dice = random.Random(seed)
    book = Book(1)
    live: list[OrderId] = []
    place: dict[OrderId, int] = {}
    numbers = iter(range(1, 2**62))

    def forget(order_id: OrderId) -> None:
        index = place.pop(order_id)
        last = live.pop()
        # The last one takes the free place: removing costs the same however many orders live.
        if last != order_id:
            live[index] = last
            place[last] = index

    def add() -> Operation:
        side = dice.choice((Side.BUY, Side.SELL))
        offset = 1 + int(dice.random() ** 2 * LEVELS)
        price = PriceTicks(MID_PRICE + (offset if side is Side.SELL else -offset))
        operation = Operation("add", OrderId(next(numbers)), side, price, QuantityLots(QUANTITY))
        book.add(operation.order_id, AccountId(0), side, price, operation.quantity)
        place[operation.order_id] = len(live)
        live.append(operation.order_id)
        return operation

    def cancel() -> Operation:
        order_id = live[dice.randrange(len(live))]
        forget(order_id)
        book.cancel(order_id)
        return Operation("cancel", order_id, Side.BUY, PriceTicks(1), QuantityLots(1))

    def take() -> Operation:
        side = dice.choice((Side.BUY, Side.SELL))
        price = PriceTicks(MID_PRICE + (LEVELS if side is Side.BUY else -LEVELS))
        quantity = QuantityLots(QUANTITY * dice.randrange(1, 6))
        for match in book.match(
            side, price, quantity, AccountId(1), SelfTradePrevention.NONE, MATCHES_MAX
        ).matches:
            if match.order_id not in book.orders:
                forget(match.order_id)
        return Operation("take", OrderId(next(numbers)), side, price, quantity)

    prefill = [add() for _ in range(live_orders)]
    mixed = []
    for _ in range(count):
        drawn = dice.random()
        mixed.append(add() if drawn < 0.6 or not live else cancel() if drawn < 0.9 else take())
    return prefill, mixed


def commands(steps: list[Operation], market: Market) -> Iterator[Command]:
    """Yield the steps as commands of `ACCOUNTS` accounts, dealt in turn."""
    owners: dict[OrderId, AccountId] = {}
    for number, step in enumerate(steps):
        if step.kind == "cancel":
            yield CancelOrder(
                number, "bench", owners.pop(step.order_id), market.symbol, OrderId(0), f"b{step.order_id}"
            )
            continue
        account_id = owners[step.order_id] = AccountId(1 + step.order_id % ACCOUNTS)
        yield PlaceOrder(
            number,
            "bench",
            account_id,
            f"b{step.order_id}",
            market.symbol,
            step.side,
            OrderType.LIMIT,
            TimeInForce.GTC if step.kind == "add" else TimeInForce.IOC,
            step.price,
            step.quantity,
            self_trade_prevention=SelfTradePrevention.NONE,
        )


def deposits(market_map: MarketMap) -> list[Command]:
    """Return deposits of every asset to every account; together half of the largest amount."""
    return [
        Deposit(
            0,
            "bench",
            AccountId(account_id),
            asset,
            AssetUnits(AMOUNT_UNITS_MAX // (2 * ACCOUNTS)),
            f"bench {asset}",
        )
        for account_id in range(1, ACCOUNTS + 1)
        for asset in market_map.assets
    ]


ROOMY_CONFIG: Final = ShardConfig(open_orders_max=OPEN_ORDERS_MAX)
"""Of a shard whose accounts may have any number of open orders in all markets together."""


def roomy_market_map() -> MarketMap:
    """Return the exchange's markets, on one shard, with room for any number of open orders."""
    markets = Settings().market_map().markets
    return MarketMap.of(
        [msgspec.structs.replace(market, open_orders_max=OPEN_ORDERS_MAX) for market in markets], 1
    )


def roomy_markets_file(folder: Path) -> Path:
    """Write the same markets to a file in `folder`, for EXCHANGE_MARKETS_FILE, and return it."""
    shipped = resources.files("protocol").joinpath("markets.toml").read_text("utf-8")
    file = folder / "markets.toml"
    file.write_text(
        shipped.replace("[[markets]]", f"[[markets]]\nopen_orders_max = {OPEN_ORDERS_MAX}"), "utf-8"
    )
    return file
