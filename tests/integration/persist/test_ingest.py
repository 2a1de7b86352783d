import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import msgspec
import psycopg
import pytest

from persist import ingest as ingest_module
from persist.actors import IngestRunner
from persist.candles import STORED_INTERVALS
from persist.ingest import IngestStoppedError, NotPutAsideError, Progress, ShardIngest
from persist.rows import Rows, TradeGapError
from protocol.codec import FORMAT, UnreadItem, decode_event_items, encode_events, encode_frame, raw_events
from protocol.configuration import MarketConfig
from protocol.events import Event, MarketConfigured, OrderFilled, TradeExecuted
from protocol.market import MarketMap
from protocol.orders import Side
from protocol.stream_id import StreamId
from protocol.streams import EVENTS_FIELD, EventReader, events
from protocol.units import TimeMs
from stream_log.memory_log import MemoryStreamLog
from tests.integration.persist.stored import assert_candles, assert_stored, query
from tests.support.databases import as_persist
from tests.support.market_log import BTC, START_MS, MarketLog, deposit, frame, market_map, publish_markets
from tests.support.shard_log import ShardLog


@pytest.fixture
def log() -> MemoryStreamLog:
    return MemoryStreamLog(lambda: START_MS)


@contextmanager
def ingest_of(
    log: MemoryStreamLog, database_url: str, markets: MarketMap, shard: int = 0, entries_max: int = 2_000
) -> Iterator[ShardIngest]:
    publish_markets(log, markets)
    ingest = ShardIngest(shard, log, as_persist(database_url), markets.shard_count, entries_max)
    yield ingest
    ingest.close()


def run(log: MemoryStreamLog, database_url: str, markets: MarketMap, entries_max: int = 2_000) -> None:
    for shard in range(markets.shard_count):
        with ingest_of(log, database_url, markets, shard, entries_max) as ingest:
            while ingest.step() is Progress.MORE:
                pass


@pytest.mark.parametrize("shard_count", [1, 3])
def test_everything_that_happened_is_stored(
    database_url: str, log: MemoryStreamLog, shard_count: int
) -> None:
    markets = market_map(shard_count)
    trading = ShardLog(1, markets, START_MS)
    trading.trade(600, batch=3, gap_ms=400)
    trading.append_to(log)
    run(log, database_url, markets)
    assert_stored(database_url, trading.events(), markets)
    for shard in range(shard_count):
        last = log.last_id(events(shard))
        assert log.passed(shard) == {EventReader.PERSIST: last}
        assert query(database_url, "SELECT shard, last_id FROM ingest ORDER BY 1")[shard] == (
            shard,
            str(last),
        )


def test_small_batches_and_restarts_change_nothing(database_url: str, log: MemoryStreamLog) -> None:
    markets, dice = market_map(), random.Random(2)
    trading = ShardLog(2, markets, START_MS)
    trading.trade(400, batch=2, gap_ms=400)
    for payload in trading.frames(0):
        log.append(events(0), {EVENTS_FIELD: payload})
        if dice.random() < 0.1:
            run(log, database_url, markets, entries_max=7)
    run(log, database_url, markets)
    run(log, database_url, markets)
    assert_stored(database_url, trading.events(), markets)


def test_many_at_once_store_everything_once(database_url: str, log: MemoryStreamLog) -> None:
    markets = market_map()
    trading = ShardLog(3, markets, START_MS)
    trading.trade(600)
    trading.append_to(log)
    runners = [
        IngestRunner({0: ShardIngest(0, log, as_persist(database_url), 1, 20)}, threading.Event())
        for _ in range(4)
    ]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda runner: runner.run(0), runners * 2))
    for runner in runners:
        runner.close()
    assert_stored(database_url, trading.events(), markets)


def test_candles_of_all_intervals_over_weeks_and_months(database_url: str, log: MemoryStreamLog) -> None:
    markets, market_log, dice, time = market_map(), MarketLog(), random.Random(4), START_MS
    gaps_ms = (0, 1, 700, 50_000, 3_500_000, 40_000_000, 3 * 86_400_000)
    for _ in range(300):
        time += dice.randint(0, dice.choice(gaps_ms))
        market = dice.choice(markets.markets).symbol
        trade = market_log.trade(
            time, dice.randint(1, 99), dice.randint(1, 99), dice.choice(list(Side)), market
        )
        log.append(events(0), {EVENTS_FIELD: frame(trade)})
    run(log, database_url, markets, entries_max=31)
    trades = [trade for each in market_log.trades.values() for trade in each]
    assert time - START_MS > 60 * 86_400_000
    assert_candles(database_url, trades, markets)


def test_garbage_is_put_aside_and_the_rest_goes_on(database_url: str, log: MemoryStreamLog) -> None:
    markets, dice = market_map(), random.Random(5)
    trading = ShardLog(5, markets, START_MS)
    trading.trade(500)
    garbage: dict[str, bytes] = {}
    for number, payload in enumerate(trading.frames(0)):
        if number % 50 == 0:
            junk = dice.choice(
                [
                    dice.randbytes(30),
                    b"",
                    payload[:-1],
                    encode_frame([[99, 1]]),
                    encode_frame({"no": "frame"}),
                ]
            )
            garbage[str(log.append(events(0), {EVENTS_FIELD: junk}))] = junk
        log.append(events(0), {EVENTS_FIELD: payload})
    nameless = str(log.append(events(0), {b"x": b"y"}))
    run(log, database_url, markets)
    assert_stored(database_url, trading.events(), markets)
    dead = query(database_url, "SELECT stream_id, payload, reason FROM dead_events")
    assert {stream_id: payload for stream_id, payload, _ in dead if stream_id != nameless} == garbage
    assert [reason for stream_id, _, reason in dead if stream_id == nameless] == ["no event frame in it"]
    assert all(reason for *_, reason in dead)


def poisons(market_log: MarketLog) -> list[Event]:
    """Events that can be read, but not stored."""
    trade = market_log.trade(START_MS, 2, 2)
    return [
        msgspec.structs.replace(trade, time=TimeMs(1 << 61)),
        deposit(START_MS, 1 << 63),
        deposit(-(1 << 60), 1001),
        msgspec.structs.replace(deposit(START_MS, 1001), asset="US\0DT"),
        MarketLog().trade(START_MS, 1, 1, market="DOGEUSDT"),
    ]  # fmt: skip


def test_a_refused_row_is_found_and_put_aside_with_its_entry(database_url: str, log: MemoryStreamLog) -> None:
    markets, market_log, happened = market_map(), MarketLog(), list[Event]()
    poisoned = list[str]()
    for number in range(200):
        event = (
            market_log.trade(START_MS + number * 100, 10 + number, 1, Side.BUY)
            if number % 2
            else deposit(START_MS + number, 1001)
        )
        happened.append(event)
        log.append(events(0), {EVENTS_FIELD: frame(event)})
        if number == 120:
            poisoned = [
                str(log.append(events(0), {EVENTS_FIELD: frame(each)})) for each in poisons(market_log)
            ]
    run(log, database_url, markets)
    dead = query(database_url, "SELECT stream_id, reason FROM dead_events ORDER BY 1")
    assert [stream_id for stream_id, _ in dead] == poisoned, dead
    stored = query(database_url, "SELECT trade_id FROM trades ORDER BY 1")
    trades = [event for event in happened if isinstance(event, TradeExecuted)]
    assert [trade_id for (trade_id,) in stored] == [trade.trade_id for trade in trades]
    assert_candles(database_url, trades, markets)
    assert query(database_url, "SELECT count(*) FROM ledger_entries") == [(200,)]
    assert log.passed(0)[EventReader.PERSIST] == log.last_id(events(0))


UNKNOWN = encode_frame([99, 1, "what"])


def with_unknown(payload: bytes, at: int) -> bytes:
    """Return a frame with an event of a later release among the others."""
    items = raw_events(payload)
    return encode_frame([msgspec.Raw(each) for each in (*items[:at], UNKNOWN, *items[at:])])


def test_an_unknown_event_does_not_take_the_trade_beside_it_away(
    database_url: str, log: MemoryStreamLog
) -> None:
    markets = market_map()
    trading = ShardLog(8, markets, START_MS)
    trading.trade(300)
    mixed: dict[str, tuple[int, int]] = {}
    for number, payload in enumerate(trading.frames(0)):
        if number % 3:
            log.append(events(0), {EVENTS_FIELD: payload})
            continue
        count = len(raw_events(payload))
        at = number % (count + 1)
        frame_in = with_unknown(payload, at)
        if number % 2:
            frame_in = encode_events(frame_in, START_MS * 1_000)
        mixed[str(log.append(events(0), {EVENTS_FIELD: frame_in}))] = (at, count + 1)
    run(log, database_url, markets)
    assert_stored(database_url, trading.events(), markets)
    dead = query(database_url, "SELECT stream_id, payload, reason FROM dead_events")
    assert {stream_id for stream_id, *_ in dead} == mixed.keys()
    for stream_id, payload, reason in dead:
        at, count = mixed[stream_id]
        assert raw_events(payload) == [UNKNOWN if number == at else b"\xc0" for number in range(count)]
        assert reason.startswith(f"event {at} of {count}: Invalid value 99")


def test_a_refused_event_does_not_take_the_others_of_its_entry_with_it(
    database_url: str, log: MemoryStreamLog
) -> None:
    market_log = MarketLog()
    poison = msgspec.structs.replace(deposit(START_MS, 1001), asset="US\0DT")
    strange = MarketLog().trade(START_MS, 1, 1, market="DOGEUSDT")
    trades = [market_log.trade(START_MS + number, 10, 1) for number in range(3)]
    mixed: list[Event] = [trades[0], poison, deposit(START_MS, 1001), trades[1], strange, trades[2]]
    stream_id = log.append(events(0), {EVENTS_FIELD: with_unknown(frame(*mixed), 0)})
    run(log, database_url, market_map())
    assert query(database_url, "SELECT trade_id FROM trades ORDER BY 1") == [(1,), (2,), (3,)]
    # Each has the number that it has in the log.
    assert {number for (number,) in query(database_url, "SELECT event FROM ledger_entries")} == {3}
    ((where, reason, payload),) = query(database_url, "SELECT stream_id, reason, payload FROM dead_events")
    assert where == str(stream_id)
    assert reason.startswith("event 0 of 7: Invalid value 99")
    assert reason.endswith("(3 such events)")
    nil = b"\xc0"
    assert raw_events(payload) == [UNKNOWN, nil, encode_frame(poison), nil, nil, encode_frame(strange), nil]


def not_understanding(monkeypatch: pytest.MonkeyPatch, *unknown: Event) -> None:
    """Let the ingest be an older program, which does not know these events."""
    known_items = decode_event_items

    def items(payload: bytes) -> list[Event | UnreadItem]:
        raw = raw_events(payload)
        return [
            UnreadItem(number, raw[number], "too new") if item in unknown else item
            for number, item in enumerate(known_items(payload))
        ]

    def whole(payload: bytes) -> list[Event]:
        read = items(payload)
        if any(isinstance(item, UnreadItem) for item in read):
            raise msgspec.ValidationError("too new")
        return [item for item in read if not isinstance(item, UnreadItem)]

    monkeypatch.setattr(ingest_module, "decode_event_items", items)
    monkeypatch.setattr(ingest_module, "decode_events", whole)


def test_what_was_put_aside_is_stored_once_it_is_understood(
    database_url: str, log: MemoryStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    markets = market_map()
    trading = ShardLog(9, markets, START_MS)
    trading.trade(200)
    happened = list(trading.events())
    fills = [event for event in happened if isinstance(event, OrderFilled)][::3]
    not_understanding(monkeypatch, *fills)
    trading.append_to(log)
    run(log, database_url, markets)
    monkeypatch.undo()
    put_aside = [
        StreamId.parse(each)
        for (each,) in query(database_url, "SELECT stream_id FROM dead_events ORDER BY 1")
    ]
    assert put_aside
    with ingest_of(log, database_url, markets) as ingest:
        assert sum(ingest.requeue(each) for each in put_aside) == len(fills)
        with pytest.raises(NotPutAsideError):
            ingest.requeue(put_aside[0])
    assert query(database_url, "SELECT * FROM dead_events") == []
    assert_stored(database_url, happened, markets)


def test_a_trade_that_was_put_aside_closes_the_gap_that_it_left(
    database_url: str, log: MemoryStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    markets, market_log = market_map(), MarketLog()
    trades = [market_log.trade(START_MS + number, 10 + number, 1) for number in range(4)]
    not_understanding(monkeypatch, *trades[1:3])

    def append(*portion: TradeExecuted) -> list[StreamId]:
        return [
            log.append(events(0), {EVENTS_FIELD: frame(deposit(START_MS, 1001), trade)}) for trade in portion
        ]

    ids = append(*trades[:3])
    run(log, database_url, markets)
    assert query(database_url, "SELECT trade_id FROM trades") == [(1,)]
    append(trades[3])
    with pytest.raises(IngestStoppedError, match="trade 2 should come next, but trade 4 does"):
        run(log, database_url, markets)
    monkeypatch.undo()
    with ingest_of(log, database_url, markets) as ingest:
        with pytest.raises(TradeGapError, match="trade 2 should come next, but trade 3 does"):
            ingest.requeue(ids[2])
        assert len(query(database_url, "SELECT * FROM dead_events")) == 2
        assert [ingest.requeue(each) for each in ids[1:3]] == [1, 1]
    run(log, database_url, markets)
    assert [trade_id for (trade_id,) in query(database_url, "SELECT trade_id FROM trades ORDER BY 1")] == [
        1,
        2,
        3,
        4,
    ]
    assert query(database_url, "SELECT count(*) FROM ledger_entries") == [(8,)]
    assert query(database_url, "SELECT error FROM ingest") == [("",)]
    assert_candles(database_url, trades, markets)


def test_a_trade_that_was_refused_and_counted_is_stored_between_the_others(
    database_url: str, log: MemoryStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its candles have the first and the last price of what happened, not of what was stored last."""
    markets, market_log = market_map(), MarketLog()
    trades = [market_log.trade(START_MS + number, price, 1) for number, price in enumerate((5, 9, 7))]
    for trade in trades:
        log.append(events(0), {EVENTS_FIELD: frame(trade)})
    write = ShardIngest._write

    def refuse(ingest: ShardIngest, connection: object, rows: Rows) -> None:
        if any(trade.trade_id in (1, 3) for trade, _ in rows.trades):
            raise psycopg.DataError("planted")
        write(ingest, connection, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(ShardIngest, "_write", refuse)
    run(log, database_url, markets)
    monkeypatch.undo()
    assert query(database_url, "SELECT last_trade_id FROM ingest_markets") == [(3,)]
    with ingest_of(log, database_url, markets) as ingest:
        for (stream_id,) in query(database_url, "SELECT stream_id FROM dead_events ORDER BY 1 DESC"):
            assert ingest.requeue(StreamId.parse(stream_id)) == 1
    assert_candles(database_url, trades, markets)


def test_what_is_still_not_understood_stays_put_aside(database_url: str, log: MemoryStreamLog) -> None:
    ids = [log.append(events(0), {EVENTS_FIELD: junk}) for junk in (encode_frame([[99, 1]]), b"garbage")]
    run(log, database_url, market_map())
    with ingest_of(log, database_url, market_map()) as ingest:
        for stream_id in ids:
            with pytest.raises(msgspec.MsgspecError):
                ingest.requeue(stream_id)
    assert len(query(database_url, "SELECT * FROM dead_events")) == 2


def test_a_missing_trade_stops_the_shard_visibly(database_url: str, log: MemoryStreamLog) -> None:
    market_log = MarketLog()
    first, _, third = (market_log.trade(START_MS, 1, 1) for _ in range(3))
    log.append(events(0), {EVENTS_FIELD: frame(first)})
    with ingest_of(log, database_url, market_map()) as ingest:
        ingest.step()
        good = log.last_id(events(0))
        log.append(events(0), {EVENTS_FIELD: frame(third)})
        for _ in range(2):
            with pytest.raises(
                IngestStoppedError, match=f"shard 0: {BTC}: trade 2 should come next, but trade 3 does"
            ):
                ingest.step()
    ((last_id, error),) = query(database_url, "SELECT last_id, error FROM ingest")
    assert (last_id, error) == (str(good), f"{BTC}: trade 2 should come next, but trade 3 does")
    assert log.passed(0)[EventReader.PERSIST] == good
    assert query(database_url, "SELECT trade_id FROM trades") == [(1,)]
    assert query(database_url, "SELECT * FROM dead_events") == []


def test_a_trade_twice_stops_the_shard(database_url: str, log: MemoryStreamLog) -> None:
    trade = MarketLog().trade(START_MS, 1, 1)
    log.append(events(0), {EVENTS_FIELD: frame(trade)})
    run(log, database_url, market_map())
    log.append(events(0), {EVENTS_FIELD: frame(trade)})
    with pytest.raises(IngestStoppedError, match="trade 2 should come next, but trade 1 does"):
        run(log, database_url, market_map())


def test_a_market_that_is_listed_while_it_runs_is_stored_by_whoever_comes(
    database_url: str, log: MemoryStreamLog
) -> None:
    """One process stores the entry that lists it, and another one the next."""
    markets, market_log = market_map(), MarketLog()
    publish_markets(log, MarketMap.placed([], 1))
    one, other = (ShardIngest(0, log, as_persist(database_url), 1, 100) for _ in range(2))
    listed = MarketConfigured(TimeMs(START_MS), MarketConfig(markets.by_symbol[BTC], 0))
    log.append(events(0), {EVENTS_FIELD: frame(listed, market_log.trade(START_MS, 100, 5))})
    assert one.step() is Progress.CAUGHT_UP
    publish_markets(log, markets)
    log.append(events(0), {EVENTS_FIELD: frame(market_log.trade(START_MS + 1, 101, 5))})
    assert other.step() is Progress.CAUGHT_UP
    log.append(events(0), {EVENTS_FIELD: frame(market_log.trade(START_MS + 2, 102, 5))})
    assert one.step() is Progress.CAUGHT_UP
    for ingest in (one, other):
        ingest.close()
    assert query(database_url, "SELECT count(*) FROM dead_events") == [(0,)]
    quote = 5 * markets.by_symbol[BTC].quote_per_tick_lot
    assert query(database_url, "SELECT price, quote FROM trades ORDER BY trade_id") == [
        (100, 100 * quote),
        (101, 101 * quote),
        (102, 102 * quote),
    ]


def test_events_wait_until_all_shards_have_said_which_markets_they_have(
    database_url: str, log: MemoryStreamLog
) -> None:
    """As after an upgrade, when the ingest is there before the leaders: putting the trade aside would lose
    it."""
    market_log = MarketLog()
    log.append(events(0), {EVENTS_FIELD: frame(market_log.trade(START_MS, 100, 5))})
    ingest = ShardIngest(0, log, as_persist(database_url), 1, 100)
    with pytest.raises(IngestStoppedError, match="not said yet which markets they have: 0"):
        ingest.step()
    assert query(database_url, "SELECT count(*) FROM dead_events") == [(0,)]
    publish_markets(log, market_map())
    assert ingest.step() is Progress.CAUGHT_UP
    ingest.close()
    assert query(database_url, "SELECT count(*) FROM trades") == [(1,)]


def test_what_comes_while_a_batch_is_made_is_left_to_the_next_nudge(
    database_url: str, log: MemoryStreamLog
) -> None:
    """Else under light load each order would be a transaction of its own."""
    market_log = MarketLog()
    publish_markets(log, market_map())

    def append() -> None:
        log.append(events(0), {EVENTS_FIELD: frame(market_log.trade(START_MS, 100, 5))})

    append()
    # Somebody trades whenever the input is archived, which is first.
    ingest = ShardIngest(0, log, as_persist(database_url), 1, 100, cover=lambda _shard, _id: append())
    for stored in (1, 2, 3):
        assert ingest.step() is Progress.CAUGHT_UP
        assert query(database_url, "SELECT count(*) FROM trades") == [(stored,)]
    ingest.close()


def test_a_lost_connection_loses_nothing(database_url: str, log: MemoryStreamLog) -> None:
    markets = market_map()
    trading = ShardLog(6, markets, START_MS)
    trading.trade(300)
    trading.append_to(log)
    with ingest_of(log, database_url, markets, entries_max=100) as ingest:
        assert ingest.step() is Progress.MORE
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND application_name = 'ingest 0'"
            )
        with pytest.raises(psycopg.OperationalError):
            ingest.step()
        while ingest.step() is Progress.MORE:
            pass
    assert_stored(database_url, trading.events(), markets)


@pytest.mark.timescaledb
def test_candles_are_right_also_where_trades_come_after_a_refresh(
    database_url: str, log: MemoryStreamLog
) -> None:
    markets, market_log, time = market_map(), MarketLog(), START_MS
    for number in range(400):
        time += number * 40_000
        log.append(events(0), {EVENTS_FIELD: frame(market_log.trade(time, 100 + number % 7, 1 + number % 3))})
        if number % 150 == 0:
            run(log, database_url, markets)
            assert_candles(database_url, market_log.trades[BTC], markets)
    run(log, database_url, markets)
    assert_candles(database_url, market_log.trades[BTC], markets)
    materialized = query(
        database_url,
        "SELECT view_name FROM timescaledb_information.continuous_aggregates WHERE "
        "_timescaledb_functions.to_timestamp(_timescaledb_functions.cagg_watermark((SELECT mat_hypertable_id "
        "FROM _timescaledb_catalog.continuous_agg WHERE user_view_name = view_name))) > '2026-01-01'",
    )
    assert len(materialized) == len(STORED_INTERVALS), (
        "what is checked must not come from the trades themselves"
    )
    assert query(
        database_url, "SELECT hypertable_name FROM timescaledb_information.hypertables ORDER BY 1"
    ) == [
        ("fills",),
        ("ledger_entries",),
        ("trades",),
    ]


def test_trades_of_a_market_that_nobody_knows_are_put_aside_whatever_their_numbers(
    database_url: str, log: MemoryStreamLog
) -> None:
    markets = market_map(1)
    trading = ShardLog(1, markets, START_MS)
    trading.trade(100)
    trade = next(event for event in trading.events() if isinstance(event, TradeExecuted))
    for trade_id in (7, 3, 2**64 - 1):
        log.append(
            events(0),
            {EVENTS_FIELD: frame(msgspec.structs.replace(trade, market="NOSUCH", trade_id=trade_id))},
        )
    trading.append_to(log)
    run(log, database_url, markets)
    assert_stored(database_url, trading.events(), markets)
    assert query(database_url, "SELECT count(*) FROM dead_events") == [(3,)]


def test_events_of_a_later_release_wait_for_it(
    database_url: str, log: MemoryStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passing them over would lose trades for good: the next trade leaves a gap that no later program can
    close."""
    markets, trading = market_map(), MarketLog()
    first, second, third = (trading.trade(START_MS + number, 5, 5) for number in range(3))
    before = log.append(events(0), {EVENTS_FIELD: encode_events(encode_frame([first]), START_MS * 1_000)})
    log.append(events(0), {EVENTS_FIELD: encode_frame((FORMAT + 1, START_MS * 1_000, [second]))})
    last = log.append(events(0), {EVENTS_FIELD: encode_events(encode_frame([third]), START_MS * 1_000)})
    for _ in range(2):
        run(log, database_url, markets)
        assert query(database_url, "SELECT trade_id FROM trades") == [(1,)]
        assert query(database_url, "SELECT count(*) FROM dead_events") == [(0,)]
        assert log.passed(0) == {EventReader.PERSIST: before}
    monkeypatch.setattr("protocol.codec.FORMAT", FORMAT + 1)
    run(log, database_url, markets)
    assert query(database_url, "SELECT trade_id FROM trades ORDER BY 1") == [(1,), (2,), (3,)]
    assert log.passed(0) == {EventReader.PERSIST: last}
