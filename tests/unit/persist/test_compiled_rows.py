"""The rows that the extension writes are those of persist/rows.py, byte by byte as COPY reads them."""

import random
import struct
from collections.abc import Iterator, Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persist import compiled_rows
from persist.candles import candle_rows
from persist.compiled_rows import CompiledRows, RowCompiler
from persist.ingest import decoded
from persist.rows import FILLS, LEDGER_ENTRIES, ORDERS, TRADES, OrderRow, Rows, Table, rows_of
from protocol.codec import FORMAT, encode_as, encode_events
from protocol.events import Event, OrderAccepted, OrderClosed, OrderFilled, TimePassed, TradeExecuted
from protocol.market import Market
from protocol.orders import OrderCourse, OrderTerms
from protocol.stream_id import StreamId
from protocol.streams import EVENTS_FIELD
from protocol.units import AMOUNT_UNITS_MAX, TimeMs
from stream_log.interface import Entry
from tests.support.market_log import BTC, START_MS, market_map
from tests.support.shard_log import ShardLog

pytestmark = pytest.mark.skipif(
    not compiled_rows.is_built, reason="THE COMPILED ROWS ARE NOT TESTED: their extension is not built"
)

SHARD = 1
MARKETS = market_map().by_symbol
SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
END = b"\xff\xff"


def entry_of(happened: Sequence[Event], number: int = 1) -> Entry:
    frame = encode_events(encode_as(FORMAT, list(happened)), START_MS * 1_000, FORMAT)
    return Entry("ev", StreamId(START_MS, number), {EVENTS_FIELD: frame})


def copied(data: bytes, table: Table) -> list[OrderRow]:
    """Return the rows in data of COPY BINARY, as PostgreSQL's documentation describes it."""
    if not data:
        return []
    assert data.startswith(SIGNATURE)
    assert data.endswith(END)
    rows, at, end = list[OrderRow](), len(SIGNATURE), len(data) - len(END)
    while at < end:
        (count,) = struct.unpack_from(">h", data, at)
        assert count == len(table.columns)
        at += 2
        row: list[int | str | None] = []
        for kind in table.columns.values():
            (length,) = struct.unpack_from(">i", data, at)
            at += 4
            if length < 0:
                row.append(None)
                continue
            value = data[at : at + length]
            at += length
            if kind == "text":
                row.append(value.decode())
            else:
                assert length == int(kind[3:])
                row.append(int.from_bytes(value, "big", signed=True))
        rows.append(tuple(row))
    assert at == end
    return rows


def numbers(rows: Sequence[OrderRow]) -> list[OrderRow]:
    """Return rows with plain numbers in place of members of enums."""
    return [tuple(int(item) if isinstance(item, int) else item for item in row) for row in rows]


def compiled(entries: Sequence[Entry], markets: dict[str, Market] = MARKETS) -> CompiledRows | None:
    return RowCompiler(SHARD).rows_of(entries, markets)


def check_same(entries: Sequence[Entry], fast: CompiledRows) -> Rows:
    batches, dead = decoded(entries)
    assert not dead
    slow = rows_of(SHARD, batches, MARKETS)
    assert copied(fast.trade_rows(), TRADES) == numbers(slow.trade_rows())
    assert copied(fast.fills, FILLS) == numbers(slow.fills)
    assert copied(fast.ledger_entries, LEDGER_ENTRIES) == numbers(slow.ledger_entries)
    assert copied(fast.order_rows(), ORDERS) == numbers(slow.order_rows())
    assert fast.trades == slow.trades
    assert candle_rows(fast.trades) == candle_rows(slow.trades)
    assert (fast.event_count, bool(fast.orders)) == (slow.event_count, bool(slow.orders))
    assert not slow.transfers
    assert not slow.prevented_matches
    return slow


def batches_of(seed: int, commands: int) -> Iterator[list[Entry]]:
    """Yield batches of entries of random trading, of several markets and kinds of orders."""
    log, dice = ShardLog(seed, market_map(), START_MS, accounts=4), random.Random(seed)
    log.trade(commands, batch=3, gap_ms=400)
    entries = [entry_of(happened, number) for number, (_, _, happened) in enumerate(log.entries) if happened]
    while entries:
        size = dice.randint(1, 40)
        yield entries[:size]
        entries = entries[size:]


@pytest.mark.parametrize("seed", range(4))
def test_rows_of_random_trading(seed: int) -> None:
    usual = unusual = fills = 0
    batches = list(batches_of(seed, 3_000))
    # Entry by entry, too: most batches have a deposit or a prevented match, which are not the extension's.
    for entries in (*batches, *([entry] for batch in batches for entry in batch)):
        fast = compiled(entries)
        if fast is None:
            unusual += 1
            kinds = {type(event).__name__ for batch in decoded(entries)[0] for event in batch.events}
            prevented = any(
                isinstance(event, OrderClosed) and event.prevented is not None
                for batch in decoded(entries)[0]
                for event in batch.events
            )
            assert prevented or kinds & {"FundsDeposited", "FundsWithdrawn", "MatchPrevented"}, kinds
            continue
        usual += 1
        fills += len(check_same(entries, fast).fills)
    assert fills > 500
    assert usual > unusual


def sample(kind: type[Event]) -> Event:
    log = ShardLog(3, market_map(), START_MS, accounts=3)
    log.trade(600)
    return next(event for event in log.events() if type(event) is kind)


def test_orders_with_terms_and_a_course() -> None:
    accepted = sample(OrderAccepted)
    assert isinstance(accepted, OrderAccepted)
    for terms, course, is_usual in (
        (OrderTerms(strategy_id=7), None, True),
        (OrderTerms(strategy_type=1_000_000), OrderCourse(prevented_quantity=3, prevented_match_id=9), True),  # type: ignore[arg-type]
        (OrderTerms(strategy_id=0, strategy_type=AMOUNT_UNITS_MAX), OrderCourse(), True),
        (OrderTerms(stop_price=1), None, False),  # type: ignore[arg-type]
    ):
        order = msgspec.structs.replace(accepted.order, terms=terms, course=course)
        entries = [entry_of([msgspec.structs.replace(accepted, order=order)])]
        fast = compiled(entries)
        assert (fast is not None) is is_usual
        if fast is not None:
            check_same(entries, fast)


def test_the_last_state_of_an_order_counts_in_the_place_of_the_first() -> None:
    log = ShardLog(5, market_map(), START_MS, accounts=3)
    log.trade(900)
    happened = [
        event
        for event in log.events()
        if isinstance(event, OrderAccepted | OrderFilled | OrderClosed)
        and not (isinstance(event, OrderClosed) and event.prevented is not None)
    ]
    entries = [entry_of(happened)]
    fast = compiled(entries)
    assert fast is not None
    slow = check_same(entries, fast)
    assert len(slow.orders) > 512, "the table of orders has grown"


def test_texts_that_need_a_closer_look_are_left_to_the_objects() -> None:
    accepted = sample(OrderAccepted)
    assert isinstance(accepted, OrderAccepted)
    for name, is_usual in (("x" * 36, True), ("käse", False), ("a\0b", False), ("x" * 201, False)):
        order = msgspec.structs.replace(accepted.order, client_order_id=name)
        fast = compiled([entry_of([msgspec.structs.replace(accepted, order=order)])])
        assert (fast is not None) is is_usual, name


def test_unknown_markets_and_numbers_that_are_too_large_are_left_to_the_objects() -> None:
    trade, fill = sample(TradeExecuted), sample(OrderFilled)
    assert isinstance(trade, TradeExecuted)
    assert isinstance(fill, OrderFilled)
    assert compiled([entry_of([trade, fill])]) is not None
    assert compiled([entry_of([trade])], {}) is None
    assert compiled([entry_of([fill])], {}) is None
    for changed in (
        msgspec.structs.replace(trade, price=2**62),
        msgspec.structs.replace(fill, quantity=2**62),
        msgspec.structs.replace(trade, time=TimeMs(2**62)),
        msgspec.structs.replace(trade, trade_id=2**63),
        msgspec.structs.replace(fill, order=msgspec.structs.replace(fill.order, version=2**31)),
    ):
        assert compiled([entry_of([changed])]) is None, changed


def test_frames_of_other_formats_and_kinds_are_left_to_the_objects() -> None:
    usual = entry_of([TimePassed(TimeMs(START_MS))])
    assert compiled([usual]) is not None
    frame = usual.fields[EVENTS_FIELD]
    for other in (
        b"",
        msgspec.msgpack.encode([TimePassed(TimeMs(START_MS))]),  # of the releases without a number
        frame[:1] + bytes([FORMAT + 1]) + frame[2:],
        frame + b"\xc0",
        frame[:-1],
        frame.replace(b"\x92\x16", b"\x92\x63"),  # a kind that there is not
        frame.replace(b"\x92\x16", b"\x91\x16"),
    ):
        assert compiled([usual._replace(fields={EVENTS_FIELD: other})]) is None, other
    assert compiled([usual._replace(fields={})]) is None


@settings(max_examples=300)
@given(st.data())
def test_altered_frames_are_read_alike_or_left_to_the_objects(data: st.DataObject) -> None:
    entry = data.draw(st.sampled_from(ALTERED))
    frame = bytearray(entry.fields[EVENTS_FIELD])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(frame) - 1))
        frame[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del frame[data.draw(st.integers(0, len(frame))) :]
    entries = [entry._replace(fields={EVENTS_FIELD: bytes(frame)})]
    if (fast := compiled(entries)) is not None:
        check_same(entries, fast)


def _altered() -> list[Entry]:
    log = ShardLog(11, market_map(), START_MS, accounts=3)
    log.trade(400, batch=2)
    entries = [entry_of(happened) for _, _, happened in log.entries if happened]
    return [entry for entry in entries if compiled_rows.is_built and compiled([entry]) is not None][-60:]


ALTERED = _altered()


def test_a_wrong_row_would_be_noticed() -> None:
    fill = sample(OrderFilled)
    assert isinstance(fill, OrderFilled)
    entries = [entry_of([fill])]
    fast = compiled(entries)
    assert fast is not None
    check_same(entries, fast)
    at = fast.ledger_entries.index(b"trade")
    fast.ledger_entries = fast.ledger_entries[:at] + b"grade" + fast.ledger_entries[at + 5 :]
    with pytest.raises(AssertionError):
        check_same(entries, fast)


def test_markets_that_are_known_later_are_found() -> None:
    compiler, trade = RowCompiler(SHARD), sample(TradeExecuted)
    assert isinstance(trade, TradeExecuted)
    others = {symbol: market for symbol, market in MARKETS.items() if symbol != trade.market}
    assert compiler.rows_of([entry_of([trade])], others) is None
    assert compiler.rows_of([entry_of([trade])], MARKETS) is not None
    assert BTC in MARKETS
