"""`depth`: what feeds spend on the depth of a market that never rests, and a gateway on showing it.

CPU time, in memory.
"""

import random
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from feeds.state import DIFFS_MAX, ShardFeeds
from lab.benchmarks.report import Result
from lab.benchmarks.workload import roomy_market_map
from protocol import streams
from protocol.codec import encode_frame
from protocol.depth import DIFFS_AFTER_BASE_MAX, book_after, diffs_after
from protocol.events import DepthChanged, LevelChange
from protocol.market_data import DepthDiff, DepthSnapshot
from protocol.orders import Side
from protocol.stream_id import StreamId
from protocol.units import PriceTicks, QuantityLots, Sequence, TimeMs

LEVELS: Final = 6_000
"""Of each side: more than readers are shown."""
BATCHES_PER_S: Final = 20
CHANGES: Final = 10
"""Levels that one batch changes, among the best 100 of each side."""
_MID: Final = 100_000
_STEP: Final = 1_000 // BATCHES_PER_S
_LIMITS: Final = (100, 5_000)


def depth(seconds: int) -> list[Result]:
    """Measure the CPU time that `seconds` of one market's changes cost feeds and gateways."""
    markets = roomy_market_map().markets_of_shard(0)
    feeds, symbol = ShardFeeds(0, markets), markets[0].symbol
    dice = random.Random(1)
    _apply(
        feeds,
        1,
        symbol,
        tuple(
            LevelChange(side, PriceTicks(_MID + sign * level), QuantityLots(dice.randint(1, 10_000_000)))
            for side, sign in ((Side.BUY, -1), (Side.SELL, 1))
            for level in range(1, LEVELS + 1)
        ),
    )
    base_key, diffs_key = streams.depth(0, symbol), streams.depth_diffs(0, symbol)
    base = feeds.take_outputs(0).values[base_key]
    diffs: list[bytes] = []
    base_bytes = diff_bytes = bases = 0
    spent_s = 0.0
    for number in range(2, seconds * BATCHES_PER_S + 2):
        _apply(feeds, number, symbol, tuple(_change(dice) for _ in range(CHANGES)))
        start_s = time.process_time()
        outputs = feeds.take_outputs(number * _STEP)
        spent_s += time.process_time() - start_s
        if base_key in outputs.values:
            base = outputs.values[base_key]
            bases, base_bytes = bases + 1, base_bytes + len(base)
        diffs = [outputs.diffs[diffs_key], *diffs][:DIFFS_MAX]
        diff_bytes += len(diffs[0])
    decoded = [msgspec.msgpack.decode(frame, type=DepthDiff) for frame in diffs]
    start_s = time.process_time()
    for diff in decoded:
        encode_frame(diff)
    reference_s = (time.process_time() - start_s) / len(decoded) * BATCHES_PER_S
    written_kb = (base_bytes + diff_bytes) / seconds / 1_000
    results = [
        Result(
            bench="depth",
            what=f"feeds, for a market of {LEVELS:,} levels a side, {BATCHES_PER_S} batches of {CHANGES} "
            "changes a second",
            unit="ms of CPU per second",
            runs=[spent_s / seconds * 1_000],
            reference="encoding the diffs alone",
            reference_runs=[reference_s * 1_000],
            notes=f"{written_kb:,.0f} kB written per second, {bases / seconds:.1f} bases",
        )
    ]
    newest = diffs[:DIFFS_AFTER_BASE_MAX]
    reference = _cpu_ms(partial(msgspec.msgpack.decode, base, type=DepthSnapshot))
    results += [
        Result(
            bench="depth",
            what=f"a gateway, decoding and putting together the best {limit:,}",
            unit="ms of CPU",
            runs=[_cpu_ms(partial(_read, base, newest, limit))],
            reference="decoding the base alone",
            reference_runs=[reference],
            notes=f"fetched: {(len(base) + sum(map(len, newest))) / 1_000:,.0f} kB",
        )
        for limit in _LIMITS
    ]
    return results


def _apply(feeds: ShardFeeds, number: int, symbol: str, changes: tuple[LevelChange, ...]) -> None:
    event = DepthChanged(TimeMs(number * _STEP), symbol, Sequence(number), changes)
    feeds.apply(StreamId(number * _STEP), encode_frame([event]))


def _change(dice: random.Random) -> LevelChange:
    side, sign = dice.choice(((Side.BUY, -1), (Side.SELL, 1)))
    price = PriceTicks(_MID + sign * dice.randint(1, 100))
    return LevelChange(side, price, QuantityLots(dice.choice((0, dice.randint(1, 10_000_000)))))


def _read(base: bytes, newest: list[bytes], limit: int) -> DepthSnapshot:
    snapshot = msgspec.msgpack.decode(base, type=DepthSnapshot)
    following = diffs_after(
        snapshot.sequence, (msgspec.msgpack.decode(frame, type=DepthDiff) for frame in newest)
    )
    assert following is not None, "the diffs do not lead back to the base"
    return book_after(snapshot, following, limit)


def _cpu_ms(run: Callable[[], object], times: int = 50) -> float:
    start_s = time.process_time()
    for _ in range(times):
        run()
    return (time.process_time() - start_s) / times * 1_000
