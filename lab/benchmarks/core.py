"""`core` and `shard`: the book alone, and a whole shard with accounts, holds, fees and framing.

In memory, one process.
"""

import time
from collections.abc import Callable
from functools import partial

from engine_worker.core.book import Book
from engine_worker.core.shard import Shard
from lab.benchmarks.garbage import uncollected
from lab.benchmarks.report import Result
from lab.benchmarks.workload import (
    LIVE_ORDERS,
    MID_PRICE,
    Operation,
    commands,
    deposits,
    operations,
    roomy_market_map,
)
from protocol.codec import decode_commands, encode_frame
from protocol.market import MATCHES_MAX
from protocol.orders import SelfTradePrevention, Side
from protocol.units import AccountId, OrderId, PriceTicks, QuantityLots, TimeMs

FRAME_COMMANDS = 64


def core(count: int, live_orders: int = LIVE_ORDERS) -> list[Result]:
    """Measure the order book alone: `count` mixed operations on `live_orders` resting orders."""
    prefill, mixed = operations(count, live_orders)
    book = Book(10)
    for step in prefill:
        book.add(step.order_id, AccountId(0), step.side, step.price, step.quantity)
    measured = rate(count, partial(_run_book, book, mixed))
    reference = rate(count, partial(_run_nothing, mixed))
    return [
        Result(
            bench="core",
            what=f"{count:,} operations (60 % add, 30 % cancel, 10 % take), {live_orders:,} resting",
            unit="operations/s",
            runs=[measured],
            reference="a loop over the same operations",
            reference_runs=[reference],
        )
    ]


def _run_book(book: Book, mixed: list[Operation]) -> None:
    prevention, taker = SelfTradePrevention.NONE, AccountId(1)
    for kind, order_id, side, price, quantity in mixed:
        if kind == "add":
            book.add(order_id, AccountId(0), side, price, quantity)
        elif kind == "cancel":
            book.cancel(order_id)
        else:
            book.match(side, price, quantity, taker, prevention, MATCHES_MAX)


def _run_nothing(mixed: list[Operation]) -> None:
    counts = [0, 0, 0]
    for kind, _order_id, _side, _price, _quantity in mixed:
        if kind == "add":
            counts[0] += 1
        elif kind == "cancel":
            counts[1] += 1
        else:
            counts[2] += 1


def shard(count: int) -> list[Result]:
    """Measure frames of commands in, frames of events and replies out: the mix of `core`, and orders only."""
    market_map = roomy_market_map()
    market = market_map.markets[0]
    prefill, mixed = operations(count)
    filled = [*deposits(market_map), *commands(prefill, market)]
    mixes = (
        (
            "60 % add, 30 % cancel, 10 % take 3 makers each",
            filled,
            list(commands(prefill + mixed, market))[len(prefill) :],
        ),
        ("51 % add, 49 % take one maker", deposits(market_map), list(commands(pairs(count), market))),
    )
    results = []
    for mix, start, steps in mixes:
        engine_shard = Shard(0, market_map)
        for command in start:
            engine_shard.apply(command, TimeMs(1))
        engine_shard.take()
        frames = [encode_frame(steps[at : at + FRAME_COMMANDS]) for at in range(0, count, FRAME_COMMANDS)]
        measured = rate(count, partial(_run_shard, engine_shard, frames))
        results.append(
            Result(
                bench="shard",
                what=f"{count:,} commands ({mix}), frames of {FRAME_COMMANDS}",
                unit="commands/s",
                runs=[measured],
                reference="decoding and encoding the same frames",
                reference_runs=[rate(count, partial(_run_codec, frames))],
                notes=f"{engine_shard.state.markets[market.symbol].trade_id / count:.2f} trades per command",
            )
        )
    return results


def pairs(count: int) -> list[Operation]:
    """Return orders that rest and orders that take one of them, in turn, as the `http` bench places them."""
    price, quantity = PriceTicks(MID_PRICE), QuantityLots(1_000)
    return [
        Operation("add", OrderId(number), Side.SELL, price, quantity)
        if number % 2 or number % 100 == 0
        else Operation("take", OrderId(number), Side.BUY, price, quantity)
        for number in range(1, count + 1)
    ]


def _run_shard(state: Shard, frames: list[bytes]) -> None:
    # `take` encodes the events.
    now = TimeMs(1)
    apply = state.apply
    for frame in frames:
        for command in decode_commands(frame):
            apply(command, now)
        output = state.take()
        encode_frame([reply for _, reply in output.replies])


def _run_codec(frames: list[bytes]) -> None:
    for frame in frames:
        encode_frame(decode_commands(frame))


def rate(count: int, run: Callable[[], object]) -> float:
    """Run once, without garbage collection, and return how many of `count` that is per second."""
    with uncollected():
        began = time.perf_counter()
        run()
        return count / (time.perf_counter() - began)
