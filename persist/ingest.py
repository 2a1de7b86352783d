"""Ingests one shard's events into the database, each exactly once.

A batch is one transaction: lock the shard's row in `ingest`, read `ev:{k}` after `last_id`, COPY, advance
`last_id`, commit. It may run repeatedly, concurrently, or again after a crash: the row stores the progress,
and the lock serializes the batches.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import prometheus_client
import psycopg
import structlog
from psycopg import sql

from persist.aggregates import LATE_MS, refreshes
from persist.archive import LostTailError
from persist.candles import CANDLES, candle_rows
from persist.compiled_rows import CompiledRows, RowCompiler
from persist.markets import KnownMarkets
from persist.migrate import Flavour
from persist.rows import (
    FILLS,
    LEDGER_ENTRIES,
    ORDERS,
    PREVENTED_MATCHES,
    TRADES,
    TRANSFERS,
    EventBatch,
    OrderRow,
    Rows,
    Table,
    TradeGapError,
    last_trade_ids,
    rows_of,
)
from protocol.codec import (
    LaterFormatError,
    UnreadItem,
    decode_event_items,
    decode_events,
    events_put_aside,
    format_of,
    only_events,
    raw_events,
)
from protocol.events import TradeExecuted
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import EVENTS_FIELD, EventReader, events
from protocol.units import AMOUNT_UNITS_MAX
from protocol.violations import MarketsUnknownError, UnknownMarketError
from runtime.tracing import Tracer, trace_events
from stream_log.interface import Entry, StreamLog

BATCH_BYTES_MAX = 2_000_000
"""Maximum of event frames in a batch, about 20,000 events: enough to make the cost of a transaction small.

It bounds the memory of a batch.
"""
ENTRIES_PER_READ = 100
REASON_LENGTH_MAX = 500

_SESSION = """
-- a worker that was paused must not keep the lock from the others
SET idle_in_transaction_session_timeout = '10s';
SET client_connection_check_interval = '1s';
SET synchronous_commit = on;
CREATE TEMPORARY TABLE batch_orders (LIKE orders) ON COMMIT DELETE ROWS;
CREATE TEMPORARY TABLE batch_transfers (LIKE transfers) ON COMMIT DELETE ROWS;
CREATE TEMPORARY TABLE batch_prevented (LIKE prevented_matches) ON COMMIT DELETE ROWS;
"""
# An id that came again after the shard had forgotten it moved money again: the ledger has both, this table
# only the first.
_INSERT_TRANSFERS = "INSERT INTO transfers SELECT * FROM batch_transfers ON CONFLICT DO NOTHING"
# After a restore that lost the log's end an id may come again: as with trades, the first row stays.
_INSERT_PREVENTED = "INSERT INTO prevented_matches SELECT * FROM batch_prevented ON CONFLICT DO NOTHING"
# Of two states of an order the one with the larger version is later. Before format 2 there were no versions;
# then statuses are compared, whose numbers increase during an order's life and are final from FILLED (3) on.
_UPSERT_ORDERS = """
INSERT INTO orders SELECT * FROM batch_orders
ON CONFLICT (order_id) DO UPDATE SET
    quantity = excluded.quantity, status = excluded.status, cum_quantity = excluded.cum_quantity,
    cum_quote = excluded.cum_quote, updated_time = excluded.updated_time, version = excluded.version,
    close_reason = excluded.close_reason, prevented_quantity = excluded.prevented_quantity,
    prevented_match_id = excluded.prevented_match_id
WHERE excluded.version > coalesce(orders.version, 0) OR (
    excluded.version = 0 AND coalesce(orders.version, 0) = 0 AND orders.status < 3
    AND (excluded.status, excluded.cum_quantity) > (orders.status, orders.cum_quantity)
)
"""
_SESSION_CANDLES = """
CREATE TEMPORARY TABLE batch_candles (
    market text, interval text, open_time timestamptz, open bigint, high bigint, low bigint, close bigint,
    volume numeric,
    quote_volume numeric, trade_count bigint, taker_buy_volume numeric, taker_buy_quote numeric,
    first_trade_id bigint,
    last_trade_id bigint
) ON COMMIT DELETE ROWS;
"""
# Late trades, and refreshes of their candles, may reach far into the columnstore; by default, large changes
# there are an error.
SESSION_TIMESCALEDB = "SET timescaledb.max_tuples_decompressed_per_dml_transaction = 0"
_UPSERT_CANDLES = """
INSERT INTO candles SELECT * FROM batch_candles
ON CONFLICT (market, interval, open_time) DO UPDATE SET
    open = CASE WHEN excluded.first_trade_id < candles.first_trade_id THEN excluded.open
    ELSE candles.open END,
    high = greatest(candles.high, excluded.high), low = least(candles.low, excluded.low),
    close = CASE WHEN excluded.last_trade_id > candles.last_trade_id THEN excluded.close
    ELSE candles.close END,
    volume = candles.volume + excluded.volume, quote_volume = candles.quote_volume + excluded.quote_volume,
    trade_count = candles.trade_count + excluded.trade_count,
    taker_buy_volume = candles.taker_buy_volume + excluded.taker_buy_volume,
    taker_buy_quote = candles.taker_buy_quote + excluded.taker_buy_quote,
    first_trade_id = least(candles.first_trade_id, excluded.first_trade_id),
    last_trade_id = greatest(candles.last_trade_id, excluded.last_trade_id)
"""

# In one step: the default of ten buckets at a time takes minutes for the seconds of a day.
REFRESH = """CALL refresh_continuous_aggregate(%s, %s, %s, options => '{"buckets_per_batch": 0}')"""

_log = structlog.get_logger()

_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_batch_seconds = prometheus_client.Histogram(
    "persist_batch_seconds",
    "How long a batch took, from its first question to its commit",
    ["shard"],
    buckets=_BUCKETS,
)
_commit_seconds = prometheus_client.Histogram(
    "persist_commit_seconds", "How long the database took to commit a batch", ["shard"], buckets=_BUCKETS
)
_batch_events = prometheus_client.Histogram(
    "persist_batch_events",
    "Events in one batch",
    ["shard"],
    buckets=(1, 5, 10, 50, 100, 500, 1_000, 5_000, 10_000, 50_000),
)
_delay_seconds = prometheus_client.Histogram(
    "persist_delay_seconds",
    "From an order's arrival in its shard's input until what came of it is stored, of the oldest of a batch",
    ["shard"],
    buckets=_BUCKETS,
)

_events_stored = prometheus_client.Counter(
    "persist_events_stored", "Events committed to the database", ["shard"]
)
_batches_stored = prometheus_client.Counter(
    "persist_batches_stored", "Batches committed to the database", ["shard"]
)
_dead_entries = prometheus_client.Counter(
    "persist_dead_entries", "Stream entries put aside in dead_events", ["shard"]
)
_refused_candle_trades = prometheus_client.Counter(
    "persist_refused_candle_trades",
    "Trades that are stored, and whose candles the database refused",
    ["shard"],
)
_stopped = prometheus_client.Gauge(
    "persist_stopped", "1 while a shard's ingest stands still on an error", ["shard"]
)
_held = prometheus_client.Gauge(
    "persist_held_format",
    "The format of an entry that this process cannot read and waits with; 0: there is none",
    ["shard"],
)
_BY_SHARD = (
    _batch_seconds,
    _commit_seconds,
    _batch_events,
    _delay_seconds,
    _events_stored,
    _batches_stored,
    _dead_entries,
    _refused_candle_trades,
    _stopped,
    _held,
)


class IngestStoppedError(Exception):
    """The log contradicts the database; nothing of this shard is stored until an operator has examined it."""


class NotPutAsideError(Exception):
    """`dead_events` has nothing to store for this entry."""


class _CandlesRefusedError(Exception):
    """The database refuses the candles of a batch, and accepted everything else."""


class Progress(Enum):
    """The result of one batch."""

    MORE = "there may be more"
    CAUGHT_UP = "everything that was there when the batch began is stored"


class DeadEntry(NamedTuple):
    """A stream entry that cannot be stored, or not completely."""

    stream_id: StreamId
    reason: str
    payload: bytes
    """Its frame, with nil in place of the stored events."""
    reasons: Mapping[int, str] = MappingProxyType({})
    """Event index -> why it is undecodable; empty: the entry is not a frame."""


_Refusal = (psycopg.DataError, psycopg.IntegrityError, OverflowError, ValueError)
"""The errors that mean that a row is at fault: the database refuses it, or it cannot be sent."""


class ShardIngest:
    """The ingest of one shard, on its own connection, which is opened when needed.

    Not thread-safe.
    """

    def __init__(
        self,
        shard: int,
        log: StreamLog,
        database_url: str,
        shard_count: int,
        entries_max: int,
        cover: Callable[[int, StreamId], None] | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """Create the ingest of `shard`, in an exchange of `shard_count` shards.

        `entries_max` bounds the stream entries of one batch; `cover` archives the shard's input up to an
        entry of its events.
        """
        self._shard = shard
        self._log = log
        self._database_url = database_url
        self._markets = KnownMarkets(log, shard_count)
        self._compiler = RowCompiler(shard)
        self._entries_max = entries_max
        self._cover = cover
        self._tracer = tracer
        for metric in _BY_SHARD:
            metric.labels(shard)  # at 0, so that the first one is visible as an increase
        self._connection: psycopg.Connection[Any] | None = None
        self._keeps_candles = False
        self._late: tuple[int, int] | None = None
        """The first and last time of trades that were stored late, until their candles are refreshed."""

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def step(self) -> Progress:
        """Store one batch.

        Raises:
            IngestStoppedError: the batch does not follow the stored events.
            psycopg.OperationalError: the database is unreachable; the batch was not stored.
            redis.RedisError: Redis is unreachable; the batch may have been stored already.
        """
        try:
            connection = self._connected()
            began = time.perf_counter()
            covered = self._covered()
            with connection.transaction():
                last_id = self._locked_last_id(connection)
                entries, is_end = self._read(last_id)
                if covered is not None and entries and entries[-1].stream_id > covered:
                    entries = [entry for entry in entries if entry.stream_id <= covered]
                    # What came meanwhile is the next nudge's: to go on at once would make a transaction for
                    # each order under light load, which takes more time than to match it.
                    is_end = True
                entries, held = self._readable(entries)
                is_end = is_end or held
                if entries:
                    last_id = entries[-1].stream_id
                    event_count, dead_count = self._store(connection, entries)
                    connection.execute(
                        "UPDATE ingest SET last_id = %s, error = '' WHERE shard = %s",
                        (str(last_id), self._shard),
                    )
                stored = time.perf_counter()
        except (TradeGapError, LostTailError, MarketsUnknownError) as error:
            self._stop(str(error))
            raise IngestStoppedError(f"shard {self._shard}: {error}") from error
        except BaseException:
            # The connection may be in any state; a new one is safer.
            self.close()
            raise
        if entries:
            _events_stored.labels(self._shard).inc(event_count)
            _dead_entries.labels(self._shard).inc(dead_count)
            _batches_stored.labels(self._shard).inc()
            committed = time.perf_counter()
            _batch_seconds.labels(self._shard).observe(committed - began)
            _commit_seconds.labels(self._shard).observe(committed - stored)
            _batch_events.labels(self._shard).observe(event_count)
            arrived_s = entries[0].stream_id.ms / 1_000
            _delay_seconds.labels(self._shard).observe(max(0.0, time.time() - arrived_s))
            if self._tracer is not None:
                frames = (entry.fields.get(EVENTS_FIELD, b"") for entry in entries)
                trace_events(self._tracer, "store", frames, committed - began, shard=self._shard)
            _stopped.labels(self._shard).set(0)
        # Never before the commit; repeated when there is nothing new, in case it was lost after a commit.
        self._log.mark_passed(self._shard, EventReader.PERSIST, last_id)
        if not is_end:
            return Progress.MORE
        if self._late is not None:
            self._refresh_candles(connection, *self._late)
        return Progress.CAUGHT_UP

    def requeue(self, stream_id: StreamId) -> int:
        """Store the events of an entry that were put aside and are decodable now; return their number.

        One transaction with the removal from `dead_events`: it is stored once, however often this is tried.

        Raises:
            NotPutAsideError: no event of such an entry is put aside (any more).
            msgspec.MsgspecError, UnknownMarketError: it is still undecodable.
            TradeGapError: a trade before one of it is not stored, either; that comes first.
            psycopg.Error: the database still refuses it, or is unreachable.
        """
        try:
            connection = self._connected()
            with connection.transaction():
                # The lock of the ingest's row keeps its batches out, so the last trades stay what is read
                # below.
                self._locked_last_id(connection)
                row = connection.execute(
                    "DELETE FROM dead_events WHERE shard = %s AND stream_id = %s RETURNING payload",
                    (self._shard, str(stream_id)),
                ).fetchone()
                if row is None:
                    raise NotPutAsideError(
                        f"nothing of entry {stream_id} of shard {self._shard} is put aside"
                    )
                put_aside = events_put_aside(bytes(row[0]))
                batch = EventBatch(
                    stream_id, [event for _, event in put_aside], [number for number, _ in put_aside]
                )
                rows = self._rows_of([batch])
                trade_ids_before = self._last_trades(connection)
                # A trade that the database refused was counted then, so that later ones leave no gap.
                new = [
                    trade
                    for trade, _ in rows.trades
                    if trade.trade_id > trade_ids_before.get(trade.market, 0)
                ]
                last = last_trade_ids(new, trade_ids_before)
                self._write(connection, rows)
                self._move_last_trades(connection, trade_ids_before, last)
            if self._late is not None:
                self._refresh_candles(connection, *self._late)
        # The connection may be in the middle of the transaction: the next call opens another.
        except BaseException:
            self.close()
            raise
        return len(put_aside)

    def _covered(self) -> StreamId | None:
        """Archive the input of the shard's events, and return the last covered event; None: no archive."""
        if self._cover is None:
            return None
        last_id = self._log.last_id(events(self._shard))
        self._cover(self._shard, last_id)
        return last_id

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            connection = psycopg.connect(self._database_url, application_name=f"ingest {self._shard}")
            try:
                row = connection.execute("SELECT flavour FROM schema_migrations LIMIT 1").fetchone()
                self._keeps_candles = row is not None and row[0] == Flavour.PLAIN
                connection.execute(_SESSION)
                connection.execute(_SESSION_CANDLES if self._keeps_candles else SESSION_TIMESCALEDB)
                connection.execute(
                    "INSERT INTO ingest (shard, last_id) VALUES (%s, %s) ON CONFLICT DO NOTHING",
                    (self._shard, str(STREAM_START)),
                )
                connection.commit()
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _locked_last_id(self, connection: psycopg.Connection[Any]) -> StreamId:
        row = connection.execute(
            "SELECT last_id FROM ingest WHERE shard = %s FOR UPDATE", (self._shard,)
        ).fetchone()
        assert row is not None, "made when the connection was"
        return StreamId.parse(row[0])

    def _read(self, last_id: StreamId) -> tuple[list[Entry], bool]:
        """Return the entries of one batch, and whether there are no more."""
        stream, entries, size = events(self._shard), list[Entry](), 0
        while len(entries) < self._entries_max and size < BATCH_BYTES_MAX:
            page = self._log.read({stream: last_id}, ENTRIES_PER_READ, 0)
            entries += page
            if len(page) < ENTRIES_PER_READ:
                return entries, True
            size += sum(len(entry.fields.get(EVENTS_FIELD, b"")) for entry in page)
            last_id = page[-1].stream_id
        return entries, False

    def _readable(self, entries: list[Entry]) -> tuple[list[Entry], bool]:
        """Return the entries before the first of a later format, and whether there is one."""
        for number, entry in enumerate(entries):
            try:
                format_of(entry.fields.get(EVENTS_FIELD, b""))
            except LaterFormatError as error:
                _held.labels(self._shard).set(error.number)
                _log.critical(
                    "the events are held",
                    shard=self._shard,
                    stream_id=str(entry.stream_id),
                    reason=str(error),
                )
                return entries[:number], True
        _held.labels(self._shard).set(0)
        return entries, False

    def _store(self, connection: psycopg.Connection[Any], entries: Sequence[Entry]) -> tuple[int, int]:
        """Store the entries in the open transaction.

        Return the numbers of events stored and of dead entries.
        """
        trade_ids_before = self._last_trades(connection)
        if (stored := self._store_compiled(connection, entries, trade_ids_before)) is not None:
            return stored, 0
        batches, dead = decoded(entries)
        last, refusals = self._store_or_bisect(connection, batches, trade_ids_before)
        self._move_last_trades(connection, trade_ids_before, last)
        unread = {entry.stream_id: entry.reasons for entry in dead}
        refused_ids = {stream_id for stream_id, _ in refusals}
        payloads = {
            entry.stream_id: entry.fields.get(EVENTS_FIELD, b"")
            for entry in entries
            if entry.stream_id in refused_ids
        }
        dead = [entry for entry in dead if entry.stream_id not in refused_ids]
        for stream_id in refused_ids:
            reasons = {number: reason for (where, number), reason in refusals.items() if where == stream_id}
            dead.append(_put_aside(stream_id, payloads[stream_id], {**unread.get(stream_id, {}), **reasons}))
        for stream_id, reason, payload, _ in dead:
            _log.error("event entry put aside", shard=self._shard, stream_id=str(stream_id), reason=reason)
            connection.execute(
                "INSERT INTO dead_events (shard, stream_id, reason, payload) VALUES (%s, %s, %s, %s) ON "
                "CONFLICT DO NOTHING",
                (self._shard, str(stream_id), reason, payload),
            )
        return sum(len(batch.events) for batch in batches) - len(refusals), len(dead)

    def _store_compiled(
        self,
        connection: psycopg.Connection[Any],
        entries: Sequence[Entry],
        trade_ids_before: Mapping[str, int],
    ) -> int | None:
        """Store the entries without an object for each event, if that can be done.

        Return the number of events; None: nothing is stored.

        Raises:
            TradeGapError: see `last_trade_ids`.
        """
        rows = self._compiler.rows_of(entries, self._markets.by_symbol)
        if rows is None:
            return None
        last = last_trade_ids((trade for trade, _ in rows.trades), trade_ids_before)
        try:
            with connection.transaction():
                self._write(connection, rows)
        except _Refusal:
            return None  # which event is at fault is found with objects
        self._move_last_trades(connection, trade_ids_before, last)
        return rows.event_count

    def _last_trades(self, connection: psycopg.Connection[Any]) -> dict[str, int]:
        return dict(connection.execute("SELECT market, last_trade_id FROM ingest_markets").fetchall())

    def _move_last_trades(
        self,
        connection: psycopg.Connection[Any],
        trade_ids_before: Mapping[str, int],
        last: Mapping[str, int],
    ) -> None:
        if changes := [
            (market, trade_id)
            for market, trade_id in last.items()
            if trade_ids_before.get(market) != trade_id
        ]:
            with connection.cursor() as cursor:
                cursor.executemany(
                    "INSERT INTO ingest_markets VALUES (%s, %s) "
                    "ON CONFLICT (market) DO UPDATE SET last_trade_id = excluded.last_trade_id",
                    changes,
                )

    def _store_or_bisect(
        self,
        connection: psycopg.Connection[Any],
        batches: Sequence[EventBatch],
        trade_ids_before: Mapping[str, int],
    ) -> tuple[dict[str, int], dict[tuple[StreamId, int], str]]:
        """Store all events but those with a refused row.

        `trade_ids_before` is market -> last trade before them; return the same after them, and the refused
        events of entries with the reasons.

        Raises:
            TradeGapError: see `last_trade_ids`.
            MarketsUnknownError: see `KnownMarkets.learn`.
        """
        try:
            with connection.transaction():
                rows = self._rows_of(batches)
                last = last_trade_ids((trade for trade, _ in rows.trades), trade_ids_before)
                self._write(connection, rows)
        except _Refusal as error:
            if len(batches) == 1 and len(batches[0].events) == 1:
                # Its trades are known and put aside, so later ones leave no gap. For an unknown market any
                # number will do.
                trades = [event for event in batches[0].events if isinstance(event, TradeExecuted)]
                own, foreign = (
                    [trade for trade in trades if (trade.market in self._markets.by_symbol) is is_own]
                    for is_own in (True, False)
                )
                strange = {trade.market: min(trade.trade_id, AMOUNT_UNITS_MAX) for trade in foreign}
                ((number, _),) = batches[0].numbered()
                return last_trade_ids(own, trade_ids_before) | strange, {
                    (batches[0].stream_id, number): _reason(error)
                }
        else:
            return last, {}
        parts = batches if len(batches) > 1 else batches[0].halves()
        middle = len(parts) // 2
        last, refusals = self._store_or_bisect(connection, parts[:middle], trade_ids_before)
        self._empty_batch_tables(connection)
        last, refused_later = self._store_or_bisect(connection, parts[middle:], last)
        return last, refusals | refused_later

    def _rows_of(self, batches: Sequence[EventBatch]) -> Rows:
        while True:
            try:
                return rows_of(self._shard, batches, self._markets.by_symbol)
            except UnknownMarketError:
                if not self._markets.learn(batches):
                    raise

    def _empty_batch_tables(self, connection: psycopg.Connection[Any]) -> None:
        """Empty the batch tables within a transaction; at its end they are emptied automatically."""
        connection.execute(
            "TRUNCATE batch_orders, batch_transfers, "
            f"batch_prevented{', batch_candles' if self._keeps_candles else ''}"
        )

    def _write(self, connection: psycopg.Connection[Any], rows: Rows | CompiledRows) -> None:
        """Write rows, and their candles if the database does not compute them.

        Refused candles do not prevent anything else from being stored.
        """
        if not (rows.trades and self._keeps_candles):
            self._write_rows(connection, rows, candles=False)
            return
        try:
            with connection.transaction():
                self._write_rows(connection, rows, candles=True)
        except _CandlesRefusedError:
            self._empty_batch_tables(connection)
            self._write_rows(connection, rows, candles=False)
            self._write_candles_or_bisect(connection, rows.trades)

    def _write_candles_or_bisect(
        self, connection: psycopg.Connection[Any], trades: Sequence[tuple[TradeExecuted, int]]
    ) -> None:
        """Write the candles of all trades but the refused ones, which are counted and logged."""
        try:
            with connection.transaction(), connection.cursor() as cursor:
                cursor.execute("TRUNCATE batch_candles")
                self._write_candles(cursor, trades)
        except _CandlesRefusedError as error:
            if len(trades) > 1:
                middle = len(trades) // 2
                self._write_candles_or_bisect(connection, trades[:middle])
                self._write_candles_or_bisect(connection, trades[middle:])
                return
            ((trade, _),) = trades
            _refused_candle_trades.labels(self._shard).inc()
            _log.critical(
                "a trade is in no candle",
                market=trade.market,
                trade_id=trade.trade_id,
                reason=str(error.__cause__),
            )

    def _write_candles(
        self, cursor: psycopg.Cursor[Any], trades: Sequence[tuple[TradeExecuted, int]]
    ) -> None:
        try:
            copy_rows(cursor, CANDLES, candle_rows(trades), into="batch_candles")
            cursor.execute(_UPSERT_CANDLES)
        except _Refusal as error:
            raise _CandlesRefusedError from error

    def _write_rows(
        self, connection: psycopg.Connection[Any], rows: Rows | CompiledRows, *, candles: bool
    ) -> None:
        with connection.cursor() as cursor:
            copy_rows(cursor, TRADES, rows.trade_rows())
            copy_rows(cursor, FILLS, rows.fills)
            copy_rows(cursor, LEDGER_ENTRIES, rows.ledger_entries)
            if rows.transfers:
                copy_rows(cursor, TRANSFERS, rows.transfers, into="batch_transfers")
                cursor.execute(_INSERT_TRANSFERS)
            if rows.prevented_matches:
                copy_rows(cursor, PREVENTED_MATCHES, rows.prevented_matches, into="batch_prevented")
                cursor.execute(_INSERT_PREVENTED)
            if rows.orders:
                copy_rows(cursor, ORDERS, rows.order_rows(), into="batch_orders")
                cursor.execute(_UPSERT_ORDERS)
            # Last: if they are refused, everything else was accepted.
            if candles:
                self._write_candles(cursor, rows.trades)
        if rows.trades and not self._keeps_candles:
            first, last = rows.trades[0][0].time, rows.trades[-1][0].time
            if first < _now_ms() - LATE_MS:
                self._late = (
                    (min(first, self._late[0]), max(last, self._late[1])) if self._late else (first, last)
                )

    def _refresh_candles(self, connection: psycopg.Connection[Any], first_ms: int, last_ms: int) -> None:
        try:
            connection.autocommit = True
            for name, start, end in refreshes(first_ms, last_ms, _now_ms()):
                connection.execute(REFRESH, (f'"{name}"', start, end))
            connection.autocommit = False
            self._late = None
        except psycopg.errors.LockNotAvailable as error:
            _log.info("candles are being refreshed already; the next step looks again", reason=str(error))
            self.close()
        except BaseException:
            self.close()
            raise

    def _stop(self, reason: str) -> None:
        """Report why this shard's ingest has stopped: in the log, the metrics and the database."""
        _log.critical("ingest stands still", shard=self._shard, reason=reason)
        _stopped.labels(self._shard).set(1)
        connection = self._connected()
        with connection.transaction():
            connection.execute("UPDATE ingest SET error = %s WHERE shard = %s", (reason, self._shard))


def decoded(entries: Iterable[Entry]) -> tuple[list[EventBatch], list[DeadEntry]]:
    """Return the entries' events, and the entries that are no frames or have undecodable events."""
    batches: list[EventBatch] = []
    dead: list[DeadEntry] = []
    for entry in entries:
        payload = entry.fields.get(EVENTS_FIELD)
        if payload is None:
            dead.append(
                DeadEntry(entry.stream_id, "no event frame in it", msgspec.msgpack.encode(entry.fields))
            )
            continue
        try:
            batches.append(EventBatch(entry.stream_id, decode_events(payload)))
        except msgspec.MsgspecError as error:
            try:
                items = decode_event_items(payload)
            except msgspec.MsgspecError:
                dead.append(DeadEntry(entry.stream_id, _reason(error), payload))
                continue
            read = [(number, item) for number, item in enumerate(items) if not isinstance(item, UnreadItem)]
            if read:
                numbers, events_read = zip(*read, strict=True)
                batches.append(EventBatch(entry.stream_id, events_read, numbers))
            unread = {item.number: item.reason for item in items if isinstance(item, UnreadItem)}
            dead.append(_put_aside(entry.stream_id, payload, unread))
    return batches, dead


def _put_aside(stream_id: StreamId, payload: bytes, reasons: Mapping[int, str]) -> DeadEntry:
    """Return the dead part of an entry: the events with a reason, in their places."""
    count = len(raw_events(payload))
    first = min(reasons)
    others = f" ({len(reasons)} such events)" if len(reasons) > 1 else ""
    reason = f"event {first} of {count}: {reasons[first]}{others}"[:REASON_LENGTH_MAX]
    kept = payload if len(reasons) == count else only_events(payload, reasons)
    return DeadEntry(stream_id, reason, kept, reasons)


def copy_rows(
    cursor: psycopg.Cursor[Any], table: Table, rows: Sequence[OrderRow] | bytes, into: str = ""
) -> None:
    """COPY rows, or the data of COPY BINARY, into their table, or into one of the same columns."""
    if not rows:
        return
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
        sql.Identifier(into or table.name), sql.SQL(", ").join(map(sql.Identifier, table.columns))
    )
    with cursor.copy(statement) as copy:
        if isinstance(rows, bytes):
            copy.write(rows)
            return
        copy.set_types(list(table.columns.values()))
        write_row = copy.write_row
        for row in rows:
            write_row(row)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".replace("\0", "\\0")[:REASON_LENGTH_MAX]
