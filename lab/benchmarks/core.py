"""`core` and `shard`: the book alone, and a whole shard with accounts, holds, fees and framing.

In memory, one process.
"""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from engine_worker.core.book import Book
from engine_worker.cores import CORES
from engine_worker.first_configuration import first_configuration
from engine_worker.frame_core import FrameCore
from lab.benchmarks.garbage import uncollected
from lab.benchmarks.report import Result
from lab.benchmarks.workload import (
    LIVE_ORDERS,
    MID_PRICE,
    ROOMY_CONFIG,
    Operation,
    commands,
    deposits,
    operations,
    roomy_market_map,
)
from protocol.codec import decode_commands, encode_commands
from protocol.commands import LoggedCommand
from protocol.market import MATCHES_MAX
from protocol.orders import SelfTradePrevention, Side
from protocol.stream_id import StreamId
from protocol.streams import COMMANDS_FIELD
from protocol.units import AccountId, OrderId, PriceTicks, QuantityLots

FRAME_COMMANDS = 64
_WRITTEN_US = 10**15
"""Later than all entries."""


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
    """Measure frames of commands in, frames of events and replies out: the mix of `core`, and orders only.

    On every core that there is.
    """
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
    for (core_name, cores), (mix, start, steps) in itertools.product(CORES.items(), mixes):
        shard_core = cores.new(0, 1)
        shard_core.apply_frame(StreamId(1, 0), _entry(first_configuration(0, market_map, ROOMY_CONFIG)))
        shard_core.apply_frame(StreamId(1, 1), _entry(start))
        shard_core.take()
        entries = [_entry(steps[at : at + FRAME_COMMANDS]) for at in range(0, count, FRAME_COMMANDS)]
        measured = rate(count, partial(_run_shard, shard_core, entries))
        results.append(
            Result(
                bench="shard",
                what=f"core {core_name}: {count:,} commands ({mix}), frames of {FRAME_COMMANDS}",
                unit="commands/s",
                runs=[measured],
                reference="decoding and encoding the same frames",
                reference_runs=[rate(count, partial(_run_codec, entries))],
                notes=f"{shard_core.market_counts()[market.symbol].trades / count:.2f} trades per command",
            )
        )
        shard_core.let_go()
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


def _entry(steps: Sequence[LoggedCommand]) -> dict[bytes, bytes]:
    return {COMMANDS_FIELD: encode_commands(steps, _WRITTEN_US)}


def _run_shard(shard_core: FrameCore, entries: Sequence[Mapping[bytes, bytes]]) -> None:
    for number, entry in enumerate(entries, 2):
        shard_core.apply_frame(StreamId(number, 0), entry)
        output = shard_core.take()
        # Both are bytes only when they have been asked for.
        _ = output.frame, output.replies()


def _run_codec(entries: Sequence[Mapping[bytes, bytes]]) -> None:
    for entry in entries:
        encode_commands(decode_commands(entry[COMMANDS_FIELD]), _WRITTEN_US)


def rate(count: int, run: Callable[[], object]) -> float:
    """Run once, without garbage collection, and return how many of `count` that is per second."""
    with uncollected():
        began = time.perf_counter()
        run()
        return count / (time.perf_counter() - began)
