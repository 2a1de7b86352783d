"""Backfills: data that a migration leaves to be filled in, in short transactions, while the exchange trades.

A migration creates an empty table, arranges that new rows are added to it, and adds a row to
`schema_backfills`. A backfill then goes through the old rows by their time, one window per transaction. The
transaction that fills a window also advances `position`, so a killed run is continued where it was. The row's
lock makes concurrent runs take turns. It is run by `migrate`, and by a persist worker that finds an
unfinished backfill.

An index on a large table is built here, too, without blocking writers (CREATE INDEX CONCURRENTLY).
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Final, LiteralString, NamedTuple

import psycopg
import structlog
from psycopg import sql

Tell = Callable[[str], None]

BATCH_ROWS: Final = 10_000
"""Expected number of rows in the first window."""
BATCH_S: Final = 0.25
"""Target duration of a batch; later windows are adapted to it."""
BATCH_S_MAX: Final = 2.0
"""A batch that takes longer is canceled and retried with a shorter window."""
FEW_ROWS: Final = 1_000
"""A batch with fewer rows is not made smaller: its time is spent on finding the rows."""
WINDOW_MIN: Final = timedelta(milliseconds=1)
WINDOW_MAX: Final = timedelta(days=365)
TELL_EVERY_S: Final = 5.0
INDEX_LOCK: Final = 0x6578636A
"""The advisory lock of the run that builds an index."""
LOCK_POLL_S: Final = 0.5

_log = structlog.get_logger()


class Backfill(NamedTuple):
    """The statements of one backfill.

    `survey` returns the first and the last time of the rows to fill in, and their number. `fill` fills in the
    rows of `start` <= time < `end` and returns how many it read; run again it changes nothing. `prepare` runs
    once, before `survey`.
    """

    name: str
    prepare: LiteralString | None
    survey: LiteralString
    fill: LiteralString


# `lost`: a restore could not recover it, so the transfer did not happen (history/restore.py). Of transfers
# with one id the first counts.
_TRANSFERS = Backfill(
    "transfers",
    # Every batch would read pages that are not summarized yet. Hypertables have their chunks.
    "SELECT brin_summarize_new_values('ledger_entries_by_time') WHERE EXISTS "
    "(SELECT 1 FROM schema_migrations WHERE flavour = 'plain')",
    "SELECT min(time), max(time), count(*) FROM ledger_entries WHERE kind IN ('deposit', 'withdrawal') AND "
    "account_id > 0",
    """
    WITH entries AS MATERIALIZED (
        SELECT * FROM ledger_entries WHERE time >= %(start)s AND time < %(end)s
        AND (kind IN ('deposit', 'withdrawal') AND account_id > 0 OR kind = 'loss')
    ), filled AS (
        INSERT INTO transfers (account_id, kind, transfer_id, asset, amount, time)
        SELECT DISTINCT ON (account_id, kind, reference) account_id, kind, reference, asset, abs(amount), time
        FROM entries AS moved WHERE kind <> 'loss' AND NOT EXISTS (
            SELECT 1 FROM entries AS lost WHERE lost.kind = 'loss' AND lost.time = moved.time
            AND (lost.shard, lost.stream_id, lost.event) = (moved.shard, moved.stream_id, moved.event)
        )
        ORDER BY account_id, kind, reference, time, stream_id, event
        ON CONFLICT (account_id, kind, transfer_id) DO UPDATE
        SET asset = excluded.asset, amount = excluded.amount, time = excluded.time
        WHERE excluded.time < transfers.time
    )
    SELECT count(*) FROM entries WHERE kind <> 'loss'
    """,
)
BACKFILLS: Final = (_TRANSFERS,)


class IndexBuild(NamedTuple):
    """An index to build; `name` is that of the index and of its row in `schema_backfills`.

    Hypertables do not support CONCURRENTLY: `create_by_chunk` blocks writers of one chunk at a time. None:
    the table is not a hypertable.
    """

    name: str
    table: str
    create: LiteralString
    create_by_chunk: LiteralString | None = None


ORDERS_BY_AGE: Final = IndexBuild(
    "orders_by_age", "orders", "CREATE INDEX CONCURRENTLY orders_by_age ON orders (accepted_time)"
)
# Only for users' accounts: the exchange's own, which have negative numbers, have more than half of the
# entries.
LEDGER_BY_ACCOUNT: Final = IndexBuild(
    "ledger_entries_by_account",
    "ledger_entries",
    "CREATE INDEX CONCURRENTLY ledger_entries_by_account ON ledger_entries (account_id, asset, time) WHERE "
    "account_id > 0",
    "CREATE INDEX ledger_entries_by_account ON ledger_entries (account_id, asset, time) "
    "WITH (timescaledb.transaction_per_chunk) WHERE account_id > 0",
)
INDEX_BUILDS: Final = (ORDERS_BY_AGE, LEDGER_BY_ACCOUNT)
_IS_HYPERTABLE: Final = "SELECT EXISTS (SELECT 1 FROM schema_migrations WHERE flavour = 'timescaledb')"


class _Batch(NamedTuple):
    rows: int
    is_last: bool
    rows_done: int
    rows_total: int


class _State(NamedTuple):
    """A row of `schema_backfills`; all of it but `rows_done` is null before the backfill has begun."""

    position: datetime
    last_time: datetime
    rows_done: int
    rows_total: int


def undone_backfills(connection: psycopg.Connection[Any]) -> list[str]:
    """Return the names of the unfinished backfills, also in a database without their table."""
    exists = connection.execute("SELECT to_regclass('schema_backfills') IS NOT NULL").fetchone()
    if exists != (True,):
        return []
    rows = connection.execute(
        "SELECT name FROM schema_backfills WHERE done_time IS NULL ORDER BY name"
    ).fetchall()
    return [name for (name,) in rows]


def run_backfills(
    connection: psycopg.Connection[Any],
    tell: Tell,
    stopping: threading.Event | None = None,
    *,
    batch_rows: int = BATCH_ROWS,
    after_batch: Callable[[], None] = lambda: None,
) -> int:
    """Run unfinished backfills to their end or until `stopping` is set. Return the number of batches.

    `connection` is in autocommit mode.

    Raises:
        psycopg.Error: the database is unreachable, or refuses; the completed batches are kept.
    """
    undone, batches = undone_backfills(connection), 0
    for backfill in BACKFILLS:
        if backfill.name in undone:
            batches += _run(
                connection, backfill, tell, stopping or threading.Event(), batch_rows, after_batch
            )
    for index in INDEX_BUILDS:
        if index.name in undone:
            _build(connection, index, tell, stopping or threading.Event())
    return batches


def _build(
    connection: psycopg.Connection[Any], index: IndexBuild, tell: Tell, stopping: threading.Event
) -> None:
    """Build an index, unless another run builds it; return when it exists or `stopping` is set."""
    while not stopping.is_set():
        # Never wait inside a statement: the build waits for every statement older than one of its phases.
        if connection.execute("SELECT pg_try_advisory_lock(%s)", (INDEX_LOCK,)).fetchone() != (True,):
            stopping.wait(LOCK_POLL_S)
            continue
        try:
            if index.name not in undone_backfills(connection) or _try_to_build(connection, index, tell):
                return
        finally:
            if not connection.closed:
                connection.execute("SELECT pg_advisory_unlock(%s)", (INDEX_LOCK,))
        stopping.wait(LOCK_POLL_S)


def _try_to_build(connection: psycopg.Connection[Any], index: IndexBuild, tell: Tell) -> bool:
    row = connection.execute(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", (index.name,)
    ).fetchone()
    by_chunk = index.create_by_chunk if connection.execute(_IS_HYPERTABLE).fetchone() == (True,) else None
    if row == (False,):  # left by an interrupted build
        tell(f"index {index.name}: removing what an interrupted build has left")
        drop = sql.SQL("DROP INDEX {}" if by_chunk else "DROP INDEX CONCURRENTLY {}")
        connection.execute(drop.format(sql.Identifier(index.name)))
    if row != (True,):
        tell(f"index {index.name}: building it on {index.table}, beside whoever writes there")
        began_s = time.monotonic()
        try:
            with _telling_progress(connection, index, tell):
                connection.execute(by_chunk or index.create)
        except psycopg.errors.DeadlockDetected as error:
            tell(f"index {index.name}: once more, after a deadlock: {error}")
            return False
        tell(f"index {index.name}: done in {time.monotonic() - began_s:.1f} s")
    connection.execute("UPDATE schema_backfills SET done_time = now() WHERE name = %s", (index.name,))
    return True


@contextmanager
def _telling_progress(connection: psycopg.Connection[Any], index: IndexBuild, tell: Tell) -> Iterator[None]:
    """Report the progress of the build on `connection` every few seconds, from a separate connection."""
    ended, builder = threading.Event(), connection.info.backend_pid
    parameters: dict[str, Any] = {**connection.info.get_parameters(), "password": connection.info.password}

    def look() -> None:
        try:
            while not ended.wait(TELL_EVERY_S):
                with psycopg.connect(**parameters, autocommit=True) as monitor:
                    row = monitor.execute(_BUILD_PROGRESS, (builder,)).fetchone()
                if row is not None:
                    tell(
                        f"index {index.name}: "
                        f"{row[0]}{f' ({row[1]} %)' if row[1] is not None else ''}{row[2]}"
                    )
        except psycopg.Error as error:
            _log.info("the progress of an index is not known", index=index.name, reason=str(error).strip())

    thread = threading.Thread(target=look, name="index progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


# Waiting for old transactions usually takes longest, so their owner is named.
_BUILD_PROGRESS: Final = """
SELECT phase, CASE WHEN blocks_total > 0 THEN blocks_done * 100 / blocks_total END,
    CASE WHEN current_locker_pid > 0 THEN ', for process ' || current_locker_pid ELSE '' END
FROM pg_stat_progress_create_index WHERE pid = %s
"""


def _run(
    connection: psycopg.Connection[Any],
    backfill: Backfill,
    tell: Tell,
    stopping: threading.Event,
    batch_rows: int,
    after_batch: Callable[[], None],
) -> int:
    window = _begin(connection, backfill, tell, batch_rows)
    began_s = told_s = time.monotonic()
    batches, limit_s = 0, BATCH_S_MAX
    while not stopping.is_set():
        batch_began_s = time.monotonic()
        try:
            batch = _fill(connection, backfill, window, limit_s)
        except psycopg.errors.QueryCanceled:
            # A long transaction blocks other writers, so windows shrink. The limit grows with each failure:
            # otherwise a window that cannot shrink any more would never get done.
            window, limit_s = max(window / 4, WINDOW_MIN), limit_s * 2
            continue
        # The database has undone this transaction, so the batch is tried again as it was.
        except psycopg.errors.DeadlockDetected:
            continue
        now_s, limit_s = time.monotonic(), BATCH_S_MAX
        if batch is None:  # another run has done the rest
            return batches
        batches += 1
        after_batch()
        if batch.is_last:
            tell(
                f"backfill {backfill.name}: done, {batch.rows_done:,} rows; "
                f"{batches:,} batches in {now_s - began_s:.1f} s"
            )
            return batches
        if now_s - told_s >= TELL_EVERY_S or batches == 1:
            told_s = now_s
            percent = min(99, batch.rows_done * 100 // max(1, batch.rows_total))
            tell(
                f"backfill {backfill.name}: {batch.rows_done:,} of about {batch.rows_total:,} rows "
                f"({percent} %)"
            )
        window = _next_window(window, batch.rows, now_s - batch_began_s)
    return batches


def _next_window(window: timedelta, rows: int, seconds: float) -> timedelta:
    if seconds > 2 * BATCH_S and rows > FEW_ROWS:
        return max(window / 2, WINDOW_MIN)
    if seconds < BATCH_S / 2:
        return min(window * 2, WINDOW_MAX)
    return window


def _begin(connection: psycopg.Connection[Any], backfill: Backfill, tell: Tell, batch_rows: int) -> timedelta:
    """Record what there is to do, if not done yet, and return the length of the first window."""
    row = _state(connection, backfill)
    if row.position is None:
        tell(f"backfill {backfill.name}: counting the rows")
        if backfill.prepare is not None:
            connection.execute(backfill.prepare)
        survey = connection.execute(backfill.survey).fetchone()
        assert survey is not None
        # Nothing to do: an empty window, after which the backfill is done.
        first, last, count = survey if survey[2] else (datetime.fromtimestamp(0).astimezone(),) * 2 + (0,)
        # Another run may have begun in the meantime.
        connection.execute(
            "UPDATE schema_backfills SET position = %s, last_time = %s, rows_total = %s WHERE name = %s AND "
            "position IS NULL",
            (first, last, count, backfill.name),
        )
        row = _state(connection, backfill)
    else:
        tell(f"backfill {backfill.name}: going on after {row.rows_done:,} of about {row.rows_total:,} rows")
    share = min(1.0, batch_rows / max(1, row.rows_total - row.rows_done))
    return min(max((row.last_time - row.position) * share, WINDOW_MIN), WINDOW_MAX)


def _state(connection: psycopg.Connection[Any], backfill: Backfill) -> _State:
    row = connection.execute(
        "SELECT position, last_time, rows_done, rows_total FROM schema_backfills WHERE name = %s",
        (backfill.name,),
    ).fetchone()
    assert row is not None, "undone_backfills has found it"
    return _State(*row)


def _fill(
    connection: psycopg.Connection[Any], backfill: Backfill, window: timedelta, limit_s: float
) -> _Batch | None:
    """Fill in one window. Return None when there is nothing left to do.

    Raises:
        psycopg.errors.QueryCanceled: it took longer than `limit_s`.
    """
    with connection.transaction():
        row = connection.execute(
            "SELECT position, last_time FROM schema_backfills WHERE name = %s AND done_time IS NULL FOR "
            "UPDATE",
            (backfill.name,),
        ).fetchone()
        if row is None:
            return None
        start, last = row
        end = start + window
        # A paused process must not block other runs, or a transfer of the same id.
        connection.execute("SET LOCAL idle_in_transaction_session_timeout = '10s'")
        connection.execute(f"SET LOCAL statement_timeout = {int(limit_s * 1000)}".encode())
        filled = connection.execute(backfill.fill, {"start": start, "end": end}).fetchone()
        assert filled is not None
        is_last = end > last
        totals = connection.execute(
            "UPDATE schema_backfills SET position = %s, rows_done = rows_done + %s, "
            "done_time = CASE WHEN %s THEN now() END WHERE name = %s RETURNING rows_done, rows_total",
            (end, filled[0], is_last, backfill.name),
        ).fetchone()
        assert totals is not None
        return _Batch(filled[0], is_last, *totals)


def finish_backfills(database_url: str, stopping: threading.Event, retry_s: float = 5.0) -> None:
    """Run what `migrate` has left unfinished, until it is done or `stopping` is set.

    It waits for the database. Work that only the owner may do, such as building an index, is left unfinished.
    """
    while not stopping.is_set():
        try:
            with psycopg.connect(database_url, autocommit=True, application_name="backfill") as connection:
                run_backfills(connection, tell_log, stopping)
        except psycopg.errors.InsufficientPrivilege as error:
            _log.warning(
                "a backfill is left to `exchange migrate`, which the owner runs", reason=str(error).strip()
            )
            return
        except psycopg.Error as error:
            _log.warning("a backfill was interrupted; it goes on", reason=str(error).strip())
            stopping.wait(retry_s)
        else:
            return


def tell_log(text: str) -> None:
    """Log a line of progress."""
    _log.info(text)
