"""Feeds with the compiled reader of event frames come to the same state and outputs as feeds without it."""

import random
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_worker.cores import CORES
from feeds import fast
from feeds.state import Outputs, ShardFeeds
from feeds.trades import PACKED, UnmergedTrades, UnpackedTrade
from protocol.codec import FORMAT, LaterFormatError, decode_events, encode_events, encode_frame
from protocol.events import (
    AccountClosed,
    EntrySkipped,
    Event,
    FeesWithdrawn,
    MarketConfigured,
    StateHashed,
    TimePassed,
)
from protocol.market import Market, MarketMap
from protocol.stream_id import StreamId
from protocol.trade_sums import fold
from protocol.units import AMOUNT_UNITS_MAX, AccountId, AssetUnits, PriceTicks, QuantityLots, TimeMs, TradeId
from protocol.violations import InvariantBroken, UnknownMarketError
from runtime.extensions import FEEDS_HEADS, sources_hash
from tests.properties.compiled_twins import Exchange, Program, mutilated
from tests.support.feed_readers import needs_extension, objects_only
from tests.support.market_log import BTC, ETH, START_MS, MarketLog, accepted, deposit, market_map
from tests.support.shard_log import ShardLog

pytestmark = needs_extension

Entry = tuple[StreamId, bytes]

ERRORS = (msgspec.MsgspecError, LaterFormatError, UnknownMarketError, InvariantBroken)


def read(frame: bytes) -> Any:
    """Return what the compiled reader makes of a frame."""
    assert fast.read is not None
    return fast.read(frame)


def numbered(*events: Event) -> bytes:
    return encode_events(encode_frame(events), START_MS * 1_000)


def contents(outputs: Outputs) -> list[object]:
    """Return everything in outputs, in its order."""
    return [
        list(outputs.values.items()),
        outputs.removed,
        [(key, [bytes(trade) for trade in trades]) for key, trades in outputs.trades.items()],
        [(key, list(candles.items())) for key, candles in outputs.candles.items()],
        list(outputs.diffs.items()),
        list(outputs.closed_candles.items()),
        list(outputs.forgiven.items()),
        outputs.messages,
    ]


class Twins:
    """The feeds of one shard twice: with the compiled reader, and without it."""

    def __init__(self, shard: int, markets: Iterable[Market]) -> None:
        self.shard, self.markets = shard, tuple(markets)
        self.feeds = [ShardFeeds(shard, self.markets) for _ in range(2)]
        self.chunks: dict[str, bytes] = {}

    def both(self, act: Any) -> Any:
        """Do the same with both, compare everything, and return the result."""
        results = []
        for feeds, is_compiled in zip(self.feeds, (True, False), strict=True):
            with nullcontext() if is_compiled else objects_only():
                results.append((act(feeds), feeds.unread, feeds.position, feeds.time, feeds._event_time))
        assert results[0] == results[1]
        return results[0][0]

    def apply(self, entry: Entry, *, are_markets_known: bool = False) -> object:
        """Apply an entry; return the number of its events, or the text of the error."""

        def act(feeds: ShardFeeds) -> object:
            try:
                return feeds.apply(*entry, are_markets_known=are_markets_known)
            except ERRORS as error:
                return f"{type(error).__name__}: {error}"

        return self.both(act)

    def take(self, now: int) -> None:
        self.both(lambda feeds: contents(feeds.take_outputs(now)))

    def save(self) -> bytes:
        saved = self.both(lambda feeds: feeds.save())
        kept = self.chunks | saved.chunks
        self.chunks = {name: chunk for name, chunk in kept.items() if name not in saved.expired}
        return bytes(saved.state)

    def restart(self, state: bytes) -> None:
        self.feeds = [ShardFeeds.decode(self.shard, self.markets, state, self.chunks) for _ in range(2)]


@pytest.fixture
def fates(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many frames the compiled reader has read, and how many it has left to feeds/frames.py."""
    counted: Counter[str] = Counter()
    original = fast.read
    assert original is not None

    def counting(frame: bytes) -> Any:
        heads = original(frame)
        counted["left" if heads is None else "read"] += 1
        return heads

    monkeypatch.setattr(fast, "read", counting)
    return counted


def program_entries(shard_count: int, frame_size: int, seed: int, commands: int) -> list[list[Entry]]:
    """Return the events of random commands of all kinds, by shard."""
    entries: list[list[Entry]] = [[] for _ in range(shard_count)]
    enter = Exchange.enter

    def noting(exchange: Exchange, shard: int, fields: Any, *, is_taken: bool = True) -> Any:
        came = enter(exchange, shard, fields, is_taken=is_taken)
        frame = came.frame.rpartition(b"[")[0]  # the twins append the progress
        if frame:
            entries[shard].append((StreamId(exchange._now, len(entries[shard])), frame))
        return came

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Exchange, "enter", noting)
        program = Program(shard_count, frame_size, seed)
        program.run(commands)
        program.exchange.let_go()
    return entries


def traded_entries(seed: int, markets: MarketMap, commands: int, batch: int) -> list[Entry]:
    """Return the events of random trading on the first shard, in numbered frames."""
    log = ShardLog(seed, markets, START_MS)
    log.trade(commands, batch, gap_ms=400)
    return [(stream_id, numbered(*events)) for shard, stream_id, events in log.entries if shard == 0]


def run(twins: Twins, entries: Iterable[Entry], chosen: random.Random) -> None:
    """Apply all entries; take outputs, and restart, now and then."""
    now = 0
    for entry in entries:
        twins.apply(entry)
        now += chosen.choice((0, 20, 300))
        dice = chosen.random()
        if dice < 0.5:
            twins.take(now)
        if dice < 0.1:
            state = twins.save()
            if dice < 0.03:
                twins.restart(state)
    end = twins.feeds[0].time + 3_000
    twins.both(lambda feeds: feeds.advance(end))
    twins.take(now + 10_000)
    twins.save()


@pytest.mark.skipif("compiled" not in CORES, reason="the twins of the core need the compiled core")
@pytest.mark.parametrize("frame_size", [1, 7, 64])
def test_commands_of_all_kinds(frame_size: int, fates: Counter[str]) -> None:
    """Configuration in the middle, self-trade prevention, operators, and several shards included."""
    for shard, entries in enumerate(program_entries(2, frame_size, seed=frame_size, commands=3_000)):
        run(Twins(shard, ()), entries, random.Random(frame_size))
    assert fates["read"] > 4 * fates["left"]


@pytest.mark.parametrize(("shard_count", "batch"), [(1, 1), (1, 40), (2, 10)])
def test_trading(shard_count: int, batch: int, fates: Counter[str]) -> None:
    markets = market_map(shard_count)
    run(Twins(0, markets.markets), traded_entries(batch, markets, 1_500, batch), random.Random(batch))
    assert fates["read"] > 20
    assert fates["left"] == 0


def test_changed_frames_have_the_same_fate(fates: Counter[str]) -> None:
    """Bytes changed, left out, added, and cut off."""
    chosen = random.Random(7)
    markets = market_map()
    twins, outcomes = Twins(0, markets.markets), Counter[str]()
    for number, (stream_id, frame) in enumerate(traded_entries(3, markets, 250, 3)):
        if number % 4 == 0:
            twins.take(number)
            state = twins.save()
            for _ in range(24):
                outcome = twins.apply((stream_id, mutilated(frame, chosen)), are_markets_known=True)
                outcomes[outcome.partition(":")[0] if isinstance(outcome, str) else "applied"] += 1
                twins.take(number)
                twins.save()
                twins.restart(state)
        assert twins.apply((stream_id, frame)) != 0
    assert outcomes["applied"] > 100
    assert len(outcomes) > 2
    assert fates["read"] > 200
    assert fates["left"] > 200


def test_gaps_repetitions_and_unknown_markets_have_the_same_fate(fates: Counter[str]) -> None:
    chosen, markets = random.Random(13), market_map()
    twins, outcomes = Twins(0, [markets.by_symbol[BTC]]), Counter[str]()
    latest = 0
    for number, entry in enumerate(traded_entries(9, markets, 900, 4)):
        dice = chosen.random()
        are_markets_known = dice < 0.8
        for _ in range(chosen.choice((0, 2)) if dice < 0.1 else 1):
            outcome = twins.apply(entry, are_markets_known=are_markets_known)
            outcomes[outcome.partition(":")[0] if isinstance(outcome, str) else "applied"] += 1
            outcomes["unread"] += len(twins.feeds[0].unread)
            if isinstance(outcome, str):
                latest = max([latest, *(event[3] for event in msgspec.msgpack.decode(entry[1])[2]
                                        if event[0] <= 2 and event[2] == BTC)])  # fmt: skip
                twins.both(lambda feeds, sequence=latest: feeds.go_on_from({BTC: sequence}))
        if number % 3 == 0:
            twins.take(number * 50)
            twins.save()
    assert min(outcomes[name] for name in ("applied", "unread", "InvariantBroken", "UnknownMarketError")) > 5
    assert fates["read"] > 50


ODD_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**63 - 1, -(2**63), 2**63, 2**64 - 1, 1.5, "", "é", "x" * 201, b"\x00", [],
    [[[[1]]]], [[[[[[[[[[[[1]]]]]]]]]]]], {}, {"a": 1}, BTC, ETH, "NONE",
)  # fmt: skip


def with_odd_values(value: Any, chosen: random.Random, chance: float) -> Any:
    """Return a decoded event with other values, and with more or fewer of them."""
    if chosen.random() < chance:
        return chosen.choice(ODD_VALUES)
    if not isinstance(value, list):
        return value
    items = [with_odd_values(each, chosen, chance) for each in value]
    if chosen.random() < chance:
        items.append(chosen.choice(ODD_VALUES))
    if items and chosen.random() < chance:
        items.pop()
    return items


def in_odd_form(value: Any, chosen: random.Random) -> bytes:
    """Return an encoding, parts of which are longer than necessary."""
    is_long = chosen.random() < 0.2
    if isinstance(value, list):
        head = b"\xdd" + len(value).to_bytes(4, "big") if is_long else encode_frame([None] * len(value))
        head = head if is_long else head[: len(head) - len(value)]
        return head + b"".join(in_odd_form(each, chosen) for each in value)
    if is_long and type(value) is int and 0 <= value < 2**63:
        return b"\xd3" + value.to_bytes(8, "big")
    if is_long and type(value) is int and 0 <= value < 2**16:
        return b"\xcd" + value.to_bytes(2, "big")
    if is_long and isinstance(value, str):
        return b"\xdb" + len(value.encode()).to_bytes(4, "big") + value.encode()
    return encode_frame(value)


@pytest.mark.parametrize("chance", [0.0, 0.002, 0.02])
def test_odd_values_and_forms_have_the_same_fate(chance: float, fates: Counter[str]) -> None:
    chosen = random.Random(11)
    markets = market_map()
    twins = Twins(0, markets.markets)
    for number, (stream_id, frame) in enumerate(traded_entries(5, markets, 200, 5)):
        twins.take(number)
        state = twins.save()
        for are_markets_known in (True, False, False):
            decoded = msgspec.msgpack.decode(frame)
            odd = [*decoded[:2], with_odd_values(decoded[2], chosen, chance)]
            twins.apply((stream_id, in_odd_form(odd, chosen)), are_markets_known=are_markets_known)
            twins.take(number)
            twins.save()
            twins.restart(state)
        twins.apply((stream_id, frame))
    assert fates["read"] > 100
    assert chance == 0 or fates["left"] > 5


def special_frames() -> Iterator[bytes]:
    """Yield frames that ordinary logs do not contain."""
    log = MarketLog()
    trade, change = log.trade(START_MS, 5, 6), log.depth(START_MS, (1, 5, 6), (2, 7, 8), (1, 5, 0))  # type: ignore[arg-type]
    order, funds = accepted(START_MS, 7), deposit(START_MS + 5, 7)
    yield numbered()
    yield numbered(trade, change, order, funds, order)
    yield numbered(TimePassed(TimeMs(START_MS - 5_000)))
    yield encode_frame([trade])
    yield encode_frame([])
    for number in (0, 1, FORMAT, FORMAT + 1, 127, 128):
        yield encode_frame((number, START_MS * 1_000, [trade]))
        yield encode_frame((number, START_MS * 1_000, [trade], 0))
        yield encode_frame((number, START_MS * 1_000))
        yield encode_frame((number, 2**64 - 1, [trade]))
        yield encode_frame((number, "", [trade]))
    yield numbered(trade, trade)
    yield numbered(change, trade)
    yield numbered(trade) + b"\xc0"
    yield numbered(msgspec.structs.replace(trade, market="NONE"))
    yield numbered(msgspec.structs.replace(trade, market="É"), order)
    yield numbered(msgspec.structs.replace(trade, market="X" * 300), order)
    yield numbered(msgspec.structs.replace(trade, time=TimeMs(-1)))
    yield numbered(
        msgspec.structs.replace(trade, price=PriceTicks(2**62), quantity=QuantityLots(2**62)), funds
    )
    malformed: tuple[Any, ...] = (
        [99, START_MS], [1], [], None, [2, START_MS, BTC, 1, [[1, 2]]], [13, 1, []], [14, 1, [1] * 15],
    )  # fmt: skip
    for event in malformed:
        yield encode_frame((FORMAT, 1, [funds, event, order]))
    for count in (15, 16, 2**16):
        yield numbered(*[funds] * count)
    for head in (b"", b"\x93", b"\x93\x02", b"\x93\x02\x00\xdd\xff\xff\xff\xff", b"\x93\x02\x00\xdc\xff\xff"):
        yield head
        yield head + b"\xdd\xff\xff\xff\xff" * 20
    yield b"\x93\x02\x00\x91\x92\x16" + b"\x91" * 100_000
    yield b"\x93\x02\x00\x91\x93\x16\x00" + b"\x91" * 100_000 + b"\x00"


@pytest.mark.parametrize("are_markets_known", [False, True])
def test_special_frames_have_the_same_fate(are_markets_known: bool) -> None:
    for frame in special_frames():
        twins = Twins(0, market_map().markets)
        twins.apply((StreamId(START_MS), frame), are_markets_known=are_markets_known)
        twins.take(0)
        twins.save()
        twins.both(lambda feeds: feeds.go_on_from({BTC: 0}))
        twins.apply((StreamId(START_MS, 1), numbered(MarketLog().trade(START_MS, 9, 9))))
        twins.take(300)
        twins.save()


def test_every_cut_of_a_frame_is_refused() -> None:
    log = MarketLog()
    frame = numbered(log.trade(START_MS, 5, 6), accepted(START_MS, 7), deposit(START_MS, 7))
    assert read(frame) is not None
    for end in range(len(frame)):
        assert read(frame[:end]) is None


@given(st.binary(max_size=60))
def test_random_bytes_have_the_same_fate(octets: bytes) -> None:
    for head in (b"", b"\x93\x02\x00", b"\x93\x02\x00\x91", b"\x93\x02\x00\x91\x9d\x01\x00\xa7BTCUSDT\x01"):
        twins = Twins(0, market_map().markets)
        twins.apply((StreamId(1), head + octets), are_markets_known=True)
        twins.take(0)


def test_readers_may_follow_one_another_in_a_batch() -> None:
    """A frame of the older format between others; then its trades are objects."""
    log = MarketLog()
    twins = Twins(0, market_map().markets)
    for number in range(60):
        trades = [log.trade(START_MS + number * 37 + at, 50 + number % 7, 1 + at) for at in range(3)]
        funds = deposit(START_MS, 1)
        events: list[Event] = [*trades, accepted(START_MS, number % 3), funds, funds]
        frame = encode_frame(events) if number % 5 == 3 else numbered(*events)
        twins.apply((StreamId(START_MS, number), frame))
        if number % 11 == 10:
            twins.take(number * 100)
            twins.save()
    twins.take(10_000)
    twins.save()


def test_every_kind_of_event_is_read() -> None:
    """All but the configuration of a market, which is rare and changes what the next events mean."""
    time = TimeMs(START_MS)
    events: list[Event] = [
        FeesWithdrawn(time, "BTC", AssetUnits(1), "t"),
        StateHashed(time, 5, "digest"),
        TimePassed(time),
        AccountClosed(time, AccountId(1)),
        EntrySkipped(time, "1-1", "ops", "because"),
    ]
    kinds = {type(event) for event in events if read(numbered(event)) is not None}
    for entries in program_entries(2, 7, seed=3, commands=1_500) if "compiled" in CORES else ():
        for _, frame in entries:
            if read(frame) is not None:
                kinds |= set(map(type, decode_events(frame)))
    if "compiled" in CORES:
        assert kinds == set(get_args(Event)) - {MarketConfigured}


times = st.one_of(st.integers(0, 5_000), st.integers(START_MS, START_MS + 2_000), st.just(2**63 - 1))
amounts = st.one_of(
    st.integers(1, 50), st.integers(-5, 5), st.integers(1, AMOUNT_UNITS_MAX), st.integers(2**30, 2**33)
)
packed_trades = st.builds(
    UnpackedTrade, times.map(TimeMs), st.integers(1, 9).map(TradeId), amounts.map(PriceTicks),
    amounts.map(QuantityLots), st.integers(0, 3),
)  # fmt: skip


@settings(max_examples=400)
@given(st.lists(packed_trades, max_size=12), st.integers(0, 10), st.sampled_from([1, 7, 10**20]))
def test_sums_of_packed_trades(trades: list[UnpackedTrade], second_min: int, factor: int) -> None:
    expected = fold(trades, factor, second_min)
    unmerged = UnmergedTrades()
    unmerged.add_packed(b"".join(PACKED.pack(*trade) for trade in trades[:5]))
    unmerged.add_packed(b"".join(PACKED.pack(*trade) for trade in trades[5:]))
    assert unmerged.take_sums(factor, second_min) == expected
    assert not unmerged.take_sums(factor, second_min)
    for number in range(len(trades) + 1):
        for trade in trades[:number]:
            unmerged.objects.append(trade)
        unmerged.add_packed(b"".join(PACKED.pack(*trade) for trade in trades[number:]))
        assert unmerged.take_sums(factor, second_min) == expected


def test_ordinary_sums_are_compiled() -> None:
    assert fast.fold is not None
    assert fast.fold(struct.pack("=5q", START_MS, 1, 5, 6, 1), 7, 0) is not None


@pytest.mark.parametrize("fault", ["account event", "account", "trade", "change", "first fill", "time"])
def test_the_twins_notice_a_fault(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = fast.read

    def faulty(frame: bytes) -> Any:
        assert original is not None
        heads: Any = original(frame)
        if heads is None:
            return None
        count, time, markets, accounts, first_fills = heads
        match fault:
            case "account event" if accounts and accounts[0][1] > 1:
                account_id, events, _ = accounts[0]
                first = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode(frame_events(frame))[0]
                accounts = [(account_id, events - 1, bytes(first)), *accounts[1:]]
            case "account":
                accounts = accounts[1:]
            case "trade":
                for market in markets:
                    market.trade_frames[:] = market.trade_frames[1:]
            case "change":
                for market in markets:
                    market.bid_changes.popitem() if market.bid_changes else None
            case "first fill":
                first_fills = first_fills[1:]
            case "time":
                time += 1
        return count, time, markets, accounts, first_fills

    monkeypatch.setattr(fast, "read", faulty)
    markets = market_map()
    with pytest.raises(AssertionError):
        run(Twins(0, markets.markets), traded_entries(1, markets, 600, 20), random.Random(1))


def frame_events(frame: bytes) -> bytes:
    """Return the encoded array of events."""
    return bytes(msgspec.msgpack.decode(frame, type=tuple[int, int, msgspec.Raw])[2])


def test_the_hash_of_the_sources_is_that_of_the_build() -> None:
    assert fast.sources_hash() == sources_hash(FEEDS_HEADS)


def test_an_extension_of_other_sources_is_not_used() -> None:
    script = (
        "import pathlib; read = pathlib.Path.read_bytes\n"
        "pathlib.Path.read_bytes = lambda path: read(path) + b'#' * (path.name == 'heads.pyx')\n"
        "from feeds import fast\n"
        "assert fast.read is None and fast.fold is None\n"
        "import feeds.state"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
