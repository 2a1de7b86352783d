"""Drops old history: trades, fills, closed orders, candles of a second.

Larger candles, the ledger and open orders stay forever. TimescaleDB drops whole chunks, plain PostgreSQL
deletes rows; orders are an ordinary table in both, and are deleted (decision 30). Ages count from the event
up to which every shard has been stored, not from the clock: events still to be stored therefore fall into
times of which nothing has been dropped.
"""

from typing import Any, Final, NamedTuple

import psycopg
import structlog
from psycopg import sql

from persist.backfill import ORDERS_BY_AGE, undone_backfills
from persist.ingest import REFRESH, SESSION_TIMESCALEDB
from persist.migrate import Flavour
from protocol.orders import OrderStatus
from protocol.stream_id import StreamId
from runtime.settings import Settings

_LOCK: Final = 0x65786369
"""The advisory lock of the process that drops."""
_ROWS_PER_DELETE: Final = 10_000

_log = structlog.get_logger()


class HistoryRetention(NamedTuple):
    """How many days of history are kept; 0: all."""

    trades: int = 0
    fills: int = 0
    seconds: int = 0
    """Candles of a second."""
    orders: int = 0
    """Closed orders, from the day they were closed."""

    @classmethod
    def of(cls, settings: Settings) -> "HistoryRetention":
        """Return the retention of the settings."""
        return cls(settings.trades_days, settings.fills_days, settings.candles_1s_days, settings.orders_days)


def drop_history(database_url: str, retention: HistoryRetention) -> dict[str, int]:
    """Drop old history and return how much of each relation: chunks or rows.

    If another process is doing it, nothing is done.

    Raises:
        psycopg.Error: the database is unreachable; what was dropped is dropped.
    """
    if not any(retention):
        return {}
    with psycopg.connect(
        database_url, autocommit=True, connect_timeout=5, application_name="retention"
    ) as connection:
        row = connection.execute(
            "SELECT pg_try_advisory_lock(%s), (SELECT flavour FROM schema_migrations LIMIT 1)", (_LOCK,)
        ).fetchone()
        assert row is not None
        stored_ids = [
            StreamId.parse(last_id) for (last_id,) in connection.execute("SELECT last_id FROM ingest")
        ]
        if not row[0] or not stored_ids:
            return {}
        # Days are counted back from the stored events, not from today: a lagging database keeps what it still
        # needs.
        stored_ms = min(stream_id.ms for stream_id in stored_ids)
        drop = _delete_rows
        if row[1] == Flavour.TIMESCALEDB:
            drop = _drop_chunks
            connection.execute(SESSION_TIMESCALEDB)
        dropped: dict[str, int] = {}
        for relation, days in (
            ("trades", retention.trades),
            ("fills", retention.fills),
            ("candles_1s", retention.seconds),
        ):
            if days and (count := drop(connection, relation, stored_ms - days * 86_400_000)):
                dropped[relation] = count
                _log.info("history dropped", relation=relation, days=days, count=count)
        if retention.orders and (
            count := _delete_orders(connection, stored_ms - retention.orders * 86_400_000)
        ):
            dropped["orders"] = count
            _delete_rows(connection, "prevented_matches", stored_ms - retention.orders * 86_400_000)
            _log.info("history dropped", relation="orders", days=retention.orders, count=count)
        return dropped


# Before a relation is dropped, the aggregate built from it must be up to date, including late data.
_BUILT_FROM: Final = {"trades": "candles_1s", "candles_1s": "candles_1m"}
_CHUNKS: Final = """
SELECT chunk.range_start, chunk.range_end FROM timescaledb_information.chunks AS chunk
LEFT JOIN timescaledb_information.continuous_aggregates AS aggregate
    ON aggregate.materialization_hypertable_schema = chunk.hypertable_schema
    AND aggregate.materialization_hypertable_name = chunk.hypertable_name
WHERE coalesce(aggregate.view_name, chunk.hypertable_name) = %s
    AND chunk.range_end <= to_timestamp(%s / 1000.0)
ORDER BY chunk.range_start
"""


def _drop_chunks(connection: psycopg.Connection[Any], relation: str, before_ms: int) -> int:
    chunks = connection.execute(_CHUNKS, (relation, before_ms)).fetchall()
    for start, end in chunks:
        if relation in _BUILT_FROM:
            # Never for times whose chunks are gone already: that would empty the aggregate.
            connection.execute(REFRESH, (f'"{_BUILT_FROM[relation]}"', start, end))
        connection.execute(
            "SELECT drop_chunks(%s::regclass, older_than => %s::timestamptz, newer_than => %s::timestamptz)",
            (f'"{relation}"', end, start),
        )
    return len(chunks)


_TIMES: Final = {
    "trades": ("trades", "time", ""),
    "fills": ("fills", "time", ""),
    "candles_1s": ("candles", "open_time", "interval = '1s' AND "),
    "prevented_matches": ("prevented_matches", "time", ""),
}


def _delete_rows(connection: psycopg.Connection[Any], relation: str, before_ms: int) -> int:
    table, column, condition = _TIMES[relation]
    statement = sql.SQL(
        "DELETE FROM {0} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {0} WHERE {1} {2} < to_timestamp(%s / "
        "1000.0) LIMIT %s))"
    ).format(sql.Identifier(table), sql.SQL(condition), sql.Identifier(column))
    deleted = 0
    while count := connection.execute(statement, (before_ms, _ROWS_PER_DELETE)).rowcount:
        deleted += count
    return deleted


# A window may have more than _ROWS_PER_DELETE rows by those that share its last millisecond.
_WINDOW_END: Final = """
SELECT accepted_time FROM orders WHERE accepted_time > %(after)s
    AND accepted_time < to_timestamp(%(before_ms)s / 1000.0)
ORDER BY accepted_time OFFSET %(rows)s LIMIT 1
"""
_DELETE_ORDERS: Final = """
DELETE FROM orders WHERE accepted_time > %(after)s AND accepted_time <= least(%(end)s,
    to_timestamp(%(before_ms)s / 1000.0))
AND updated_time < to_timestamp(%(before_ms)s / 1000.0) AND status = ANY (%(closed)s)
"""


def _delete_orders(connection: psycopg.Connection[Any], before_ms: int) -> int:
    """Delete orders closed before a time, going through all accepted before it, oldest first."""
    if ORDERS_BY_AGE.name in undone_backfills(connection):
        _log.info("orders are not dropped before their index is built", index=ORDERS_BY_AGE.name)
        return 0
    # Forces an index scan: most of a large table may be due after `orders_days` was set for the first time.
    connection.execute("SET enable_seqscan = off")
    closed = [int(status) for status in OrderStatus if not status.is_open]
    after, deleted = "-infinity", 0
    while True:
        window: dict[str, Any] = {"after": after, "before_ms": before_ms, "rows": _ROWS_PER_DELETE - 1}
        row = connection.execute(_WINDOW_END, window).fetchone()
        end = "infinity" if row is None else row[0]
        deleted += connection.execute(_DELETE_ORDERS, {**window, "end": end, "closed": closed}).rowcount
        if row is None:
            return deleted
        after = end
