"""`counts`: what an order costs in each stage that computes, counted instead of timed.

Counts are the same on every machine, so they show what a change has added where times drown in noise.
Budgets for them are in budgets.json; `make test` compares them (tests/properties/test_budgets.py). To raise
one needs a line in a decision. `python -m lab.benchmarks.counts` records the present counts as budgets.
"""

import gc
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

import msgspec

from engine_worker.core.shard import Shard
from feeds import fast
from feeds.state import ShardFeeds
from lab.benchmarks.core import FRAME_COMMANDS, pairs
from lab.benchmarks.report import Result
from lab.benchmarks.workload import commands, deposits, operations, roomy_market_map
from persist.rows import EventBatch, rows_of
from protocol.codec import decode_commands, decode_events, encode_frame
from protocol.commands import Command
from protocol.market import MarketMap
from protocol.stream_id import StreamId
from protocol.units import TimeMs

COMMANDS: Final = 6_400
BUDGETS: Final = Path(__file__).with_name("budgets.json")


class Counts(msgspec.Struct, frozen=True):
    """What one command costs in one stage, on average."""

    calls: float
    """Calls of functions written in Python."""
    c_calls: float
    """Calls, from these, of functions written in C."""
    made: float
    """Bytes that the stage hands on; of persist: rows."""


def counts() -> dict[str, Counts]:
    """Return stage and mix of commands -> the counts per command."""
    market_map = roomy_market_map()
    market = market_map.markets[0]
    prefill, mixed = operations(COMMANDS)
    filled = [*deposits(market_map), *commands(prefill, market)]
    mixes: tuple[tuple[str, list[Command], list[Command]], ...] = (
        (
            "60 % add, 30 % cancel, 10 % take 3",
            filled,
            list(commands(prefill + mixed, market))[len(prefill) :],
        ),
        ("51 % add, 49 % take 1", deposits(market_map), list(commands(pairs(COMMANDS), market))),
    )
    return {
        f"{stage}: {name}": counted
        for name, start, placed in mixes
        for stage, counted in _stages(market_map, start, placed).items()
    }


def count_results() -> list[Result]:
    """Measure every stage once, beside its budget."""
    budgets = read_budgets()
    return [
        Result(
            bench="counts",
            what=stage,
            unit="calls of Python's functions per command",
            runs=[counted.calls],
            reference="budget",
            reference_runs=[budgets[stage].calls] if stage in budgets else [],
            notes=f"calls of C's functions: {counted.c_calls}; bytes or rows made: {counted.made}",
        )
        for stage, counted in counts().items()
    ]


def read_budgets() -> dict[str, Counts]:
    """Return what a command may cost in each stage, for this version of Python; empty: none is recorded."""
    return _all_budgets().get(_version(), {})


def write_budgets() -> None:
    """Record what commands cost now as the budgets of this version of Python."""
    budgets = dict(sorted({**_all_budgets(), _version(): counts()}.items()))
    BUDGETS.write_bytes(msgspec.json.format(msgspec.json.encode(budgets), indent=2) + b"\n")


def _all_budgets() -> dict[str, dict[str, Counts]]:
    return msgspec.json.decode(BUDGETS.read_bytes(), type=dict[str, dict[str, Counts]])


def _version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _stages(market_map: MarketMap, start: Sequence[Command], placed: Sequence[Command]) -> dict[str, Counts]:
    frames = [encode_frame(placed[at : at + FRAME_COMMANDS]) for at in range(0, len(placed), FRAME_COMMANDS)]
    shard = Shard(0, market_map)
    for command in start:
        shard.apply(command, TimeMs(1))
    feeds = ShardFeeds(0, market_map.markets_of_shard(0))
    feeds.apply(StreamId(1, 0), shard.take().frame)
    feeds.take_outputs(0)
    events: list[bytes] = []

    def match() -> int:
        size = 0
        for frame in frames:
            for command in decode_commands(frame):
                shard.apply(command, TimeMs(1))
            output = shard.take()
            events.append(output.frame)
            size += len(output.frame) + len(encode_frame([reply for _, reply in output.replies]))
        return size

    def publish() -> int:
        size = 0
        for number, frame in enumerate(events, 2):
            feeds.apply(StreamId(number, 0), frame)
            outputs = feeds.take_outputs(number)
            size += sum(len(payload) for _, payload in outputs.messages)
            size += sum(map(len, outputs.values.values()))
        return size

    def store() -> int:
        batches = (
            EventBatch(StreamId(number, 0), decode_events(frame)) for number, frame in enumerate(events, 2)
        )
        rows = rows_of(0, batches, market_map.by_symbol)
        return sum(map(len, (rows.orders, rows.trades, rows.fills, rows.ledger_entries)))

    # The compiled reader is off: what is counted must not depend on whether an extension is built.
    read, fast.read = fast.read, None
    try:
        # In this order: each works on what the one before it has made.
        return {
            name: _counted(stage, len(placed))
            for name, stage in (("shard", match), ("feeds", publish), ("persist", store))
        }
    finally:
        fast.read = read


def _counted(run: Callable[[], int], command_count: int) -> Counts:
    """Run a stage once, and return its counts per command."""
    kinds = Counter[str]()

    def note(_frame: FrameType, kind: str, _argument: Any) -> None:
        kinds[kind] += 1

    # A collection would call finalizers, at moments that depend on what ran before.
    gc.disable()
    sys.setprofile(note)
    try:
        made = run()
    finally:
        sys.setprofile(None)
        gc.enable()
    return Counts(
        round(kinds["call"] / command_count, 2),
        round(kinds["c_call"] / command_count, 2),
        round(made / command_count, 1),
    )


if __name__ == "__main__":
    write_budgets()
