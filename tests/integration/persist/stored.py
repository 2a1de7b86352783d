"""What the database must hold after an event log, worked out the obvious way, and what it does hold."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from persist.ingest import Progress, ShardIngest
from persist.migrate import Flavour
from protocol.events import (
    Event,
    FundsDeposited,
    FundsWithdrawn,
    MatchPrevented,
    OrderAccepted,
    OrderClosed,
    OrderFilled,
    TradeExecuted,
)
from protocol.intervals import INTERVALS
from protocol.market import MarketMap
from stream_log.interface import StreamLog
from tests.support.databases import as_persist
from tests.support.market_log import candles_of, publish_markets

FAR_FUTURE_MS = 1 << 50


def ingest_all(
    log: StreamLog,
    database_url: str,
    markets: MarketMap,
    shards: Iterable[int] = (0,),
    entries_max: int = 2_000,
) -> None:
    """Store everything that these shards have said."""
    publish_markets(log, markets)
    for shard in shards:
        ingest = ShardIngest(shard, log, as_persist(database_url), markets.shard_count, entries_max)
        while ingest.step() is Progress.MORE:
            pass
        ingest.close()


def query(database_url: str, statement: LiteralString | sql.Composed) -> list[tuple[Any, ...]]:
    with psycopg.connect(database_url) as connection:
        return connection.execute(statement).fetchall()


def assert_stored(database_url: str, happened: Iterable[Event], markets: MarketMap) -> None:
    """Every relation holds exactly what happened: nothing twice, nothing missing, all sums right."""
    happened = list(happened)
    trades = [event for event in happened if isinstance(event, TradeExecuted)]
    fills = [event for event in happened if isinstance(event, OrderFilled)]
    assert query(database_url, "SELECT market, trade_id, aggregate_id, sequence, price, quantity, quote, "
                               "taker_side, "
                 "maker_order_id, taker_order_id, maker_account_id, taker_account_id, time FROM trades "
                     "ORDER BY 1, 2") == sorted(
        (
            each.market, each.trade_id, each.aggregate_id, each.sequence, each.price, each.quantity,
            markets.by_symbol[each.market].notional(each.price, each.quantity), each.taker_side,
            each.maker_order_id,
            each.taker_order_id, each.maker_account_id, each.taker_account_id, moment(each.time),
        )
        for each in trades
    )  # fmt: skip
    assert query(database_url, "SELECT market, trade_id, account_id, order_id, side, price, quantity, "
                               "quote, liquidity, fee, "
                 "fee_asset, time FROM fills ORDER BY 1, 2, 3, 4") == sorted(
        (
            each.order.market, each.trade_id, each.order.account_id, each.order.order_id, each.order.side,
            each.price,
            each.quantity, each.quote, each.liquidity, each.fee, each.fee_asset, moment(each.time),
        )
        for each in fills
    )  # fmt: skip
    orders = {
        event.order.order_id: event.order
        for event in happened
        if isinstance(event, OrderAccepted | OrderFilled | OrderClosed)
    }
    assert query(database_url, "SELECT order_id, account_id, client_order_id, market, side, order_type, "
                               "time_in_force, price, "
                 "quantity, quote_quantity, self_trade_prevention, status, cum_quantity, cum_quote, "
                     "accepted_time, updated_time, "
                 "version, close_reason, strategy_id, strategy_type, prevented_quantity, prevented_match_id "
                 "FROM orders ORDER BY 1") == sorted(
        (
            each.order_id, each.account_id, each.client_order_id, each.market, each.side, each.order_type,
            each.time_in_force,
            each.price, each.quantity, each.quote_quantity, each.self_trade_prevention, each.status,
            each.cum_quantity,
            each.cum_quote, moment(each.accepted_time), moment(each.updated_time), each.version,
            each.close_reason or 0,
            *((each.terms.strategy_id, each.terms.strategy_type) if each.terms else (None, None)),
            *((each.course.prevented_quantity, each.course.prevented_match_id) if each.course else (None,
                None)),
        )
        for each in orders.values()
    )  # fmt: skip
    assert query(database_url, "SELECT market, match_id, account_id, maker_order_id, taker_order_id, price, "
                               "maker_quantity, "
                 "taker_quantity, mode, time FROM prevented_matches ORDER BY 1, 2") == sorted(
        (
            each.market, each.match_id, each.account_id, each.maker_order_id, each.taker_order_id, each.price,
            each.maker_quantity, each.taker_quantity, each.mode, moment(each.time),
        )
        for each in happened
        if isinstance(each, MatchPrevented)
    )  # fmt: skip
    assert_ledger(database_url, happened)
    assert_candles(database_url, trades, markets)


def assert_ledger(database_url: str, happened: Iterable[Event]) -> None:
    """Every event balances, and every account has what its last event says that it has."""
    assert query(
        database_url,
        "SELECT shard, stream_id, event, asset FROM ledger_entries GROUP BY 1, 2, 3, 4 HAVING sum(amount) <> "
        "0",
    ) == []  # fmt: skip
    moved = [event for event in happened if isinstance(event, FundsDeposited | FundsWithdrawn)]
    assert query(
        database_url,
        "SELECT account_id, kind, transfer_id, asset, amount, time FROM transfers ORDER BY 1, 2, 3",
    ) == sorted(
        (
            event.account_id,
            "deposit" if isinstance(event, FundsDeposited) else "withdrawal",
            event.transfer_id,
            event.asset,
            event.amount,
            moment(event.time),
        )
        for event in moved
    )
    balances: defaultdict[tuple[int, str], int] = defaultdict(int)
    for event in happened:
        if isinstance(event, FundsDeposited | FundsWithdrawn):
            account_id = event.account_id
        elif isinstance(event, OrderAccepted | OrderFilled | OrderClosed):
            account_id = event.order.account_id
        else:
            continue
        for balance in event.balances:
            balances[account_id, balance.asset] = balance.available + balance.held
    stored = query(
        database_url,
        "SELECT account_id, asset, sum(amount) FROM ledger_entries WHERE account_id > 0 GROUP BY 1, 2",
    )
    assert {(account, asset): int(amount) for account, asset, amount in stored} == dict(balances)
    # What a restore has taken back, and the entries against it, have none.
    assert query(
        database_url,
        "SELECT * FROM (SELECT *, sum(amount) OVER (PARTITION BY account_id, asset "
        "ORDER BY time, shard, split_part(stream_id, '-', 1)::bigint, split_part(stream_id, '-', "
        "2)::numeric, event, entry) AS running FROM ledger_entries WHERE account_id > 0) AS entries WHERE "
        "CASE WHEN balance IS NULL THEN NOT EXISTS (SELECT 1 FROM ledger_entries AS lost WHERE lost.kind = "
        "'loss' AND (lost.shard, lost.stream_id, lost.event) = (entries.shard, entries.stream_id, "
        "entries.event)) ELSE running <> balance END",
    ) == [], "what an account has after each entry"  # fmt: skip


def assert_candles(database_url: str, trades: Iterable[TradeExecuted], markets: MarketMap) -> None:
    """The candles of every interval are what the trades say."""
    trades = list(trades)
    for interval in INTERVALS:
        expected = [
            (
                each.market, moment(each.open_time), each.open, each.high, each.low, each.close, each.volume,
                each.quote_volume,
                each.trade_count, each.taker_buy_volume, each.taker_buy_quote, each.first_trade_id,
                each.last_trade_id,
            )
            for market in markets.markets
            for each in candles_of(
                market, interval, [trade for trade in trades if trade.market == market.symbol], FAR_FUTURE_MS
            )
        ]  # fmt: skip
        statement = sql.SQL(
            "SELECT market, open_time, open, high, low, close, volume, quote_volume, trade_count, "
            "taker_buy_volume, taker_buy_quote, first_trade_id, last_trade_id FROM {} ORDER BY 1, 2"
        )
        assert query(database_url, statement.format(sql.Identifier(f"candles_{interval}"))) == sorted(
            expected
        ), interval


def moment(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms // 1000, UTC).replace(microsecond=time_ms % 1000 * 1000)


def is_timescaledb(database_url: str) -> bool:
    return query(database_url, "SELECT flavour FROM schema_migrations LIMIT 1") == [(Flavour.TIMESCALEDB,)]


def run_policies(database_url: str, kind: LiteralString) -> None:
    """Do at once what policies (`policy_compression`, `policy_refresh_continuous_aggregate`) do in time, in
    the order of intervals."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        jobs = connection.execute(
            "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = %s ORDER BY hypertable_name",
            (kind,),
        )
        for (job,) in jobs.fetchall():
            connection.execute("CALL run_job(%s)", (job,))
