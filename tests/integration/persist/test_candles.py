"""The database's candles are those of the feeds, whichever way it makes them, and however late trades are
stored."""

import os
import random
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence

import msgspec
import prometheus_client
import psycopg
import pytest
from psycopg import sql

from adapters.candles import PostgresCandles
from adapters.database import PostgresDatabase
from feeds.candles import Candles
from feeds.frames import Trade
from functions.market_data.get_klines import grid_offset, window_of
from functions.market_data.klines import KlineRow, Window, bucket_start, filled, next_bucket
from protocol.events import TradeExecuted
from protocol.intervals import INTERVALS
from protocol.market import Market, MarketMap
from protocol.market_data import Candle
from protocol.orders import Side
from protocol.streams import EVENTS_FIELD, events
from protocol.trade_sums import fold
from protocol.units import AMOUNT_UNITS_MAX, PriceTicks, QuantityLots, TimeMs
from stream_log.memory_log import MemoryStreamLog
from tests.integration.persist.stored import ingest_all, is_timescaledb, moment, query, run_policies
from tests.support.market_log import (
    BTC,
    ETH,
    START_MS,
    MarketLog,
    accepted,
    candles_of,
    frame,
    interval_of,
    market_map,
)

TRADES = int(os.environ.get("TEST_CANDLE_TRADES", "20000"))
"""In all markets together; 1000000 takes some minutes."""
DAYS = 130
DAY_MS = 86_400_000
FRAME_TRADES = 50


def history(markets: MarketMap, count: int, seed: int) -> MarketLog:
    """Trades of all markets in bursts over months, and a few of the last minutes, whose candles are open."""
    market_log, dice, now = MarketLog(), random.Random(seed), time.time_ns() // 1_000_000
    for market in markets.markets:
        each = count // len(markets.markets)
        pause_rate = each * 0.3 / (DAYS * DAY_MS)
        at, price = float(START_MS), 50_000
        times = []
        for _ in range(each - each // 50):
            at += dice.random() * 300 if dice.random() < 0.7 else dice.expovariate(pause_rate)
            times.append(int(at))
        times += sorted(now - dice.randrange(180_000) for _ in range(each // 50))
        for when in times:
            price = max(1, price + dice.randint(-20, 20))
            market_log.trade(
                when, price, dice.randint(1, 5_000), dice.choice((Side.BUY, Side.SELL)), market.symbol
            )
    return market_log


def append(log: MemoryStreamLog, shard: int, trades: Sequence[TradeExecuted]) -> None:
    for number in range(0, len(trades), FRAME_TRADES):
        log.append(events(shard), {EVENTS_FIELD: frame(*trades[number : number + FRAME_TRADES])})


def candles_of_feeds(market: Market, trades: Sequence[TradeExecuted]) -> dict[str, list[Candle]]:
    """What the feeds make of a market's trades: interval -> its candles, oldest first."""
    candles = Candles(market.symbol, {})
    heads = [
        Trade(each.time, each.market, each.sequence, each.trade_id, each.aggregate_id, each.price,
            each.quantity, each.taker_side)
        for each in trades
    ]  # fmt: skip
    for second, total in fold(heads, market.notional(PriceTicks(1), QuantityLots(1)), 0):
        candles.add(second, total)
    found: dict[str, list[Candle]] = {interval: [] for interval in INTERVALS}
    for candle in [*candles.take_closed(), *candles.current()]:
        found[candle.interval].append(candle)
    return found


def assert_same(database_url: str, markets: MarketMap, market_log: MarketLog) -> None:
    statement = sql.SQL(
        "SELECT open_time, open, high, low, close, volume, quote_volume, trade_count, taker_buy_volume, "
        "taker_buy_quote, first_trade_id, last_trade_id FROM {} WHERE market = {} ORDER BY open_time"
    )
    for market in markets.markets:
        for interval, candles in candles_of_feeds(market, market_log.trades[market.symbol]).items():
            assert len(candles) > 3, "several of every interval"
            expected = [
                (
                    moment(each.open_time), each.open, each.high, each.low, each.close, each.volume,
                    each.quote_volume,
                    each.trade_count, each.taker_buy_volume, each.taker_buy_quote, each.first_trade_id,
                    each.last_trade_id,
                )
                for each in candles
            ]  # fmt: skip
            named = statement.format(sql.Identifier(f"candles_{interval}"), sql.Literal(market.symbol))
            stored = query(database_url, named)
            assert len(stored) == len(expected), (market.symbol, interval)
            assert (
                next((pair for pair in zip(stored, expected, strict=True) if pair[0] != pair[1]), None)
                is None
            ), interval


@pytest.mark.timeout(3_600)
def test_candles_are_those_of_the_feeds(database_url: str) -> None:
    """A shard after the other is stored, so that all trades but the first shard's come after what they belong
    to was made.

    The last shard's come after that became columnstore, too.
    """
    markets = market_map(3)
    market_log, log = history(markets, TRADES, seed=1), MemoryStreamLog(lambda: START_MS)
    first, second, third = (markets.markets_of_shard(shard)[0].symbol for shard in range(3))
    append(log, 0, market_log.trades[first])
    ingest_all(log, database_url, markets)
    append(log, 1, market_log.trades[second])
    ingest_all(log, database_url, markets, [1])
    half = len(market_log.trades[third]) // 2
    append(log, 2, market_log.trades[third][:half])
    ingest_all(log, database_url, markets, [2])
    if is_timescaledb(database_url):
        run_policies(database_url, "policy_compression")
        converted = query(
            database_url, "SELECT count(*) FROM timescaledb_information.chunks WHERE is_compressed"
        )
        assert converted[0][0] > 30
    append(log, 2, market_log.trades[third][half:])
    ingest_all(log, database_url, markets, [2])
    assert_same(database_url, markets, market_log)


def naive_klines(
    candles: Sequence[KlineRow], interval: str, first: int, last: int, limit: int
) -> Iterator[KlineRow]:
    """Every interval from that of the first trade on has a candle: what was traded, else flat at the last
    close before."""
    opens = [each.open_time for each in candles]
    opened = bucket_start(interval, TimeMs(max(first, opens[0])))
    while opened <= last and limit:
        if opened >= first:
            row = candles[bisect_right(opens, opened) - 1]
            yield (
                row
                if row.open_time == opened
                else KlineRow(opened, row.close, row.close, row.close, row.close)
            )
            limit -= 1
        opened = next_bucket(interval, opened)


def optional(time_ms: int | None) -> TimeMs | None:
    return None if time_ms is None else TimeMs(time_ms)


async def test_klines_are_those_candles_wherever_the_window_lies(database_url: str) -> None:
    markets, dice = market_map(1), random.Random(2)
    market_log, log = MarketLog(), MemoryStreamLog(lambda: START_MS)
    at = START_MS
    for number in range(400):
        # Also days without a trade.
        at += dice.randrange(
            dice.choice((500, 90_000, 3_600_000, 2 * DAY_MS if number % 20 == 0 else 1)) or 1
        )
        market_log.trade(at, dice.randint(1, 99), dice.randint(1, 99))
    append(log, 0, market_log.trades[BTC])
    ingest_all(log, database_url, markets)
    candles = candles_of_feeds(markets.by_symbol[BTC], market_log.trades[BTC])
    database = PostgresDatabase(database_url)
    await database.start()
    for interval in INTERVALS:
        rows = [
            KlineRow(
                each.open_time, each.open, each.high, each.low, each.close, each.volume, each.quote_volume,
                each.trade_count, each.taker_buy_volume, each.taker_buy_quote,
            )
            for each in candles[interval]
        ]  # fmt: skip
        for _ in range(12):
            limit, some = dice.choice((1, 3, 50)), rows[dice.randrange(len(rows))].open_time
            start = dice.choice(
                (
                    None,
                    0,
                    START_MS - 5 * DAY_MS,
                    START_MS,
                    some,
                    some + 1,
                    some - 1,
                    dice.randint(START_MS, at),
                )
            )
            end = dice.choice((None, some + dice.randrange(DAY_MS), at + 3 * DAY_MS))
            if start is not None and end is not None and start > end:
                continue
            window = window_of(interval, optional(start), optional(end), limit, TimeMs(at + 5 * DAY_MS))
            if window is None:
                continue
            found = list(
                filled(await PostgresCandles(database).klines(BTC, interval, window), interval, window)
            )
            first = window.first if start is not None else bucket_start(interval, window.first)
            assert found == list(naive_klines(rows, interval, first, window.last, limit)), (
                interval,
                start,
                end,
                limit,
            )
    await database.close()


def test_volumes_of_one_frame_beyond_64_bits_are_stored(database_url: str) -> None:
    markets, market_log, log = market_map(1), MarketLog(), MemoryStreamLog(lambda: START_MS)
    quantity = AMOUNT_UNITS_MAX // markets.by_symbol[BTC].quote_per_tick_lot
    trades = [market_log.trade(START_MS, 1, quantity) for _ in range(5)]
    log.append(events(0), {EVENTS_FIELD: frame(*trades)})
    ingest_all(log, database_url, markets)
    assert query(database_url, "SELECT volume, quote_volume, taker_buy_quote FROM candles_1s") == [
        (
            5 * quantity,
            *2 * (sum(markets.by_symbol[BTC].notional(each.price, each.quantity) for each in trades),),
        )
    ]
    assert query(database_url, "SELECT count(*) FROM dead_events") == [(0,)]


def test_candles_that_are_refused_keep_nothing_else_from_being_stored(database_url: str) -> None:
    """The database is told to refuse a candle: trades, orders and other markets' candles are stored all the
    same."""
    if is_timescaledb(database_url):
        pytest.skip("TimescaleDB makes candles itself, from what is stored")
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "ALTER TABLE candles ADD CONSTRAINT no_more CHECK (market <> 'BTCUSDT' OR volume < 100)"
        )
    markets, market_log, log = market_map(1), MarketLog(), MemoryStreamLog(lambda: START_MS)
    trades = [
        market_log.trade(START_MS + number * 60_000, 7, quantity)
        for number, quantity in enumerate((60, 30, 50))
    ]
    others = [market_log.trade(START_MS + number, 9, 200, market=ETH) for number in range(3)]
    log.append(events(0), {EVENTS_FIELD: frame(accepted(START_MS, 1), trades[0], others[0], trades[1])})
    log.append(events(0), {EVENTS_FIELD: frame(others[1], trades[2], others[2])})
    before = refused_candles()
    ingest_all(log, database_url, markets)
    assert query(database_url, "SELECT market, count(*) FROM trades GROUP BY 1 ORDER BY 1") == [
        (BTC, 3),
        (ETH, 3),
    ]
    assert query(database_url, "SELECT count(*) FROM orders") == [(1,)]
    assert query(database_url, "SELECT count(*) FROM dead_events") == [(0,)]
    assert query(
        database_url, "SELECT trade_count, volume FROM candles WHERE market = 'ETHUSDT' AND interval = '1d'"
    ) == [(3, 600)]
    # The third trade would make the day 140: it is in the tape, and in no candle.
    assert query(
        database_url, "SELECT trade_count, volume FROM candles WHERE market = 'BTCUSDT' AND interval = '1d'"
    ) == [(2, 90)]
    assert refused_candles() == before + 1
    more = market_log.trade(START_MS + 300_000, 9, 1, market=ETH)
    log.append(events(0), {EVENTS_FIELD: frame(more)})
    ingest_all(log, database_url, markets)
    assert query(database_url, "SELECT count(*) FROM trades") == [(7,)]


def refused_candles() -> float:
    return (
        prometheus_client.REGISTRY.get_sample_value("persist_refused_candle_trades_total", {"shard": "0"})
        or 0.0
    )


def test_three_days_of_what_an_earlier_release_has_stored(database_url: str) -> None:
    """It opened them at other days; whoever asks gets those of Binance, of all trades."""
    if is_timescaledb(database_url):
        pytest.skip("TimescaleDB made them of days already")
    first = 1_795_392_000_000  # Monday 2026-11-23: an earlier release opened three days there
    with psycopg.connect(database_url) as connection:
        row = "VALUES (%s, '{}', to_timestamp(%s / 1000.0), 5, 9, 4, 6, 10, 60, 2, 5, 30, 1, 2)"
        connection.execute(f"INSERT INTO candles {row.format('3d')}".encode(), (BTC, first))
        connection.execute(f"INSERT INTO candles {row.format('1d')}".encode(), (BTC, first))
    market_log, log = MarketLog(), MemoryStreamLog(lambda: START_MS)
    market_log.trade(first + DAY_MS, 100, 3)
    market_log.trade(first + 2 * DAY_MS, 7, 1)
    append(log, 0, market_log.trades[BTC])
    ingest_all(log, database_url, market_map())
    found = query(
        database_url,
        "SELECT extract(epoch FROM open_time)::bigint, open, high, low, close, volume, trade_count FROM "
        "candles_3d ORDER BY 1",
    )
    assert found == [(1_795_305_600, 5, 100, 4, 100, 13, 3), (1_795_564_800, 7, 7, 7, 7, 1, 1)]


@pytest.mark.parametrize("minutes", [8 * 60, 5 * 60 + 45, -(3 * 60 + 30), 14 * 60, -12 * 60])
async def test_klines_by_other_clocks(database_url: str, minutes: int) -> None:
    """Against trades that are grouped by what those clocks show."""
    offset_ms, dice = minutes * 60_000, random.Random(minutes)
    market_log, log = MarketLog(), MemoryStreamLog(lambda: START_MS)
    at = START_MS
    for _ in range(150):
        at += dice.choice((1_000, 700_000, 9_000_000, DAY_MS // 3, 40 * DAY_MS if dice.random() < 0.1 else 1))
        market_log.trade(at, dice.randint(1, 99), dice.randint(1, 99))
    append(log, 0, market_log.trades[BTC])
    ingest_all(log, database_url, market_map())
    local = [
        msgspec.structs.replace(each, time=TimeMs(each.time + offset_ms)) for each in market_log.trades[BTC]
    ]
    database = PostgresDatabase(database_url)
    await database.start()
    for interval in INTERVALS:
        shift = grid_offset(interval, offset_ms)
        rows = [
            KlineRow(
                each.open_time - offset_ms, each.open, each.high, each.low, each.close, each.volume,
                each.quote_volume,
                each.trade_count, each.taker_buy_volume, each.taker_buy_quote,
            )
            for each in candles_of(market_map().by_symbol[BTC], interval, local, at + 99 * DAY_MS)
        ]  # fmt: skip
        for _ in range(6):
            some = rows[dice.randrange(len(rows))].open_time
            start = dice.choice(
                (None, 0, some, some + 1, some - 1, START_MS - 5 * DAY_MS, dice.randint(START_MS, at))
            )
            window = window_of(
                interval, optional(start), None, dice.choice((1, 3, 40)), TimeMs(at + 2 * DAY_MS), shift
            )
            if window is None:
                continue
            found = list(
                filled(
                    await PostgresCandles(database).klines(BTC, interval, window, shift),
                    interval,
                    window,
                    shift,
                )
            )
            assert found == list(zoned_klines(rows, interval, window, offset_ms)), (interval, start)
    await database.close()


def zoned_klines(
    candles: Sequence[KlineRow], interval: str, window: Window, offset_ms: int
) -> Iterator[KlineRow]:
    """As `naive_klines`, by the calendar of other clocks."""
    opens, limit = [each.open_time for each in candles], window.limit
    opened = interval_of(interval, max(window.first, opens[0]) + offset_ms)[0] - offset_ms
    while opened <= window.last and limit:
        if opened >= window.first:
            row = candles[bisect_right(opens, opened) - 1]
            yield (
                row
                if row.open_time == opened
                else KlineRow(opened, row.close, row.close, row.close, row.close)
            )
            limit -= 1
        opened = interval_of(interval, opened + offset_ms)[1] + 1 - offset_ms
