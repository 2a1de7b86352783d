"""The database in memory, and the real ingest on it.

What `persist.ingest` says to PostgreSQL is little: lock the shard's row, look at the last trades, write rows,
move on. The twin does that and keeps PostgreSQL's promises: a transaction is all or nothing, a savepoint can
be undone, a unique key is unique, a row lock keeps others out, and who sleeps on a lock loses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
import redis
from typing_extensions import override

from lab.simulation.faulty_log import FaultyLog
from lab.simulation.next_release import Program, news_of
from lab.simulation.process import Process, Surroundings
from lab.simulation.schedule import Action
from lab.simulation.witness import Witness
from persist.candles import CandleKey, candle_parts
from persist.ingest import IngestStoppedError, ShardIngest
from persist.rows import EventBatch, OrderRow, Row, Rows, TradeGapError
from protocol.orders import OrderState
from protocol.stream_id import STREAM_START, StreamId
from protocol.trade_sums import TradeSum
from stream_log.interface import Entry
from stream_log.memory_log import MemoryStreamLog

LOCK_MS_MAX = 10_000
"""`idle_in_transaction_session_timeout` of the ingest's sessions."""


News = tuple[int, StreamId, int, tuple[str, str | int]]
"""(shard, entry, event, what) of something that only the next release knows of."""


class Tables:
    """The relations of the database in memory. Candles are those that plain PostgreSQL keeps."""

    def __init__(self) -> None:
        self.orders: dict[int, OrderState] = {}
        self.trades: dict[tuple[str, int], Row] = {}
        self.fills: dict[tuple[int, int, int], Row] = {}
        self.ledger_entries: list[OrderRow] = []
        self.candles: dict[CandleKey, TradeSum] = {}
        self.last_ids: dict[int, StreamId] = {}
        self.last_trade_ids: dict[str, int] = {}
        self.news: list[News] = []
        """What only the next release knows of; its ingest stores it."""
        self.dead_events: dict[tuple[int, StreamId], str] = {}
        self.locks: dict[int, tuple[MemoryConnection, int]] = {}
        """Shard -> who holds its row in `ingest`, and since when."""


class BlockedError(psycopg.OperationalError):
    """Another transaction holds the row; the caller waits."""


class MemoryConnection:
    """The part of a psycopg connection that the ingest uses."""

    def __init__(self, tables: Tables, process: Process, shard: int) -> None:
        self._tables = tables
        self._process = process
        self._shard = shard
        self._depth = 0
        self._staged: list[tuple[str, Any]] = []
        self.is_broken = False

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run a transaction, or a savepoint within one."""
        staged = len(self._staged)
        self._depth += 1
        try:
            yield
            if self._depth == 1:
                self._process.call("database commit", self._commit)
        except BaseException:
            del self._staged[staged:]
            raise
        finally:
            self._depth -= 1
            if not self._depth:
                self.unlock()

    def lock(self) -> StreamId:
        """Lock the shard's row of `ingest`, and return its `last_id`.

        Raises:
            BlockedError: another connection has held the row for less than `LOCK_MS_MAX`.
        """
        holder, since = self._tables.locks.get(self._shard, (None, 0))
        now = self._process.surroundings.now
        if holder is not None and holder is not self:
            if now - since < LOCK_MS_MAX:
                raise BlockedError("the row is locked")
            holder.is_broken = True
        self._tables.locks[self._shard] = (self, now)
        return self._tables.last_ids.get(self._shard, STREAM_START)

    def unlock(self) -> None:
        """Release the row, if this connection holds it."""
        if self._tables.locks.get(self._shard, (None, 0))[0] is self:
            del self._tables.locks[self._shard]

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> MemoryConnection:
        """Stage one of the ingest's statements; others have no effect."""
        words = statement.split()
        match words[0], words[1] if len(words) > 1 else "", words[2] if len(words) > 2 else "":
            case "UPDATE", "ingest", _ if "last_id" in statement:
                self._staged.append(("last_id", parameters[0]))
            case "INSERT", "INTO", "dead_events":
                self._staged.append(("dead", parameters))
            case _:
                pass
        return self

    def fetchall(self) -> list[tuple[str, int]]:
        """Return what the only query of many rows asks for: `ingest_markets`."""
        return list(self._tables.last_trade_ids.items())

    @contextmanager
    def cursor(self) -> Iterator[MemoryConnection]:
        """Yield this connection, which has `executemany`."""
        yield self

    def executemany(self, statement: str, parameters: Sequence[tuple[str, int]]) -> None:
        """Stage the markets' last trade ids."""
        self._staged.append(("last_trade_ids", parameters))

    def write(self, rows: Rows, news: Sequence[News]) -> None:
        """Write the rows of some entries, refusing what is there already."""
        trades = {(str(row[1]), int(row[2])): row for row in rows.trade_rows()}
        fills = {(int(row[1]), int(row[3]), int(row[4])): row for row in rows.fills}
        if trades.keys() & self._tables.trades.keys() or fills.keys() & self._tables.fills.keys():
            raise psycopg.errors.UniqueViolation("duplicate key value violates unique constraint")
        self._staged.append(
            ("rows", (trades, fills, rows.ledger_entries, dict(rows.orders), candle_parts(rows.trades)))
        )
        self._staged.append(("news", news))

    def _commit(self) -> None:
        if self.is_broken:
            raise psycopg.OperationalError("terminating connection due to idle-in-transaction timeout")
        tables = self._tables
        for kind, value in self._staged:
            match kind:
                case "last_id":
                    tables.last_ids[self._shard] = StreamId.parse(value)
                case "last_trade_ids":
                    tables.last_trade_ids.update(value)
                case "dead":
                    tables.dead_events[value[0], StreamId.parse(value[1])] = value[2]
                case "rows":
                    self._write_rows(*value)
                case "news":
                    tables.news += value
        self._staged.clear()
        self.unlock()

    def _write_rows(
        self,
        trades: dict[tuple[str, int], Row],
        fills: dict[tuple[int, int, int], Row],
        ledger_entries: list[OrderRow],
        orders: dict[int, OrderState],
        candles: dict[CandleKey, TradeSum],
    ) -> None:
        tables = self._tables
        tables.trades.update(trades)
        tables.fills.update(fills)
        tables.ledger_entries += ledger_entries
        for order_id, order in orders.items():
            stored = tables.orders.get(order_id)
            if stored is None or order.version > stored.version:
                tables.orders[order_id] = order
        for key, part in candles.items():
            candle = tables.candles.get(key)
            if candle is None:
                tables.candles[key] = part
            else:
                candle.merge(part)

    def close(self) -> None:
        """Roll back, and release the row."""
        self._staged.clear()
        self.unlock()


class MemoryIngest(ShardIngest):
    """The real ingest, with the database in memory."""

    def __init__(
        self,
        shard: int,
        log: MemoryStreamLog,
        tables: Tables,
        process: Process,
        shard_count: int,
        entries_max: int,
    ) -> None:
        super().__init__(shard, log, "", shard_count, entries_max)
        self._keeps_candles = True
        self._tables = tables
        self._process = process
        self._memory: MemoryConnection | None = None
        self._news: list[News] = []

    @override
    def close(self) -> None:
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    def _connected(self) -> Any:
        if self._memory is None:
            self._memory = MemoryConnection(self._tables, self._process, self._shard)
        return self._memory

    def _locked_last_id(self, connection: Any) -> StreamId:
        locked: MemoryConnection = connection
        return self._process.call("database lock", locked.lock)

    def _readable(self, entries: list[Entry]) -> tuple[list[Entry], bool]:
        readable, held = super()._readable(entries)
        if held:
            self._process.surroundings.inject("held (ingest)")
        return readable, held

    def _rows_of(self, batches: Sequence[EventBatch]) -> Rows:
        if self._process.program is Program.NEXT:
            self._news = [
                (self._shard, batch.stream_id, number, news)
                for batch in batches
                for number, event in batch.numbered()
                if (news := news_of(event)) is not None
            ]
        return super()._rows_of(batches)

    def _store_compiled(self, *_arguments: Any) -> None:
        """Leave everything to the rows that the tables in memory take."""

    def _write(self, connection: Any, rows: Rows) -> None:  # type: ignore[override]
        self._process.call("database write", lambda: connection.write(rows, self._news))


class IngestProcess(Process):
    """One of the two ingests of a shard."""

    kind = "ingest"

    def __init__(
        self,
        surroundings: Surroundings,
        log: MemoryStreamLog,
        tables: Tables,
        witness: Witness,
        shard: int,
        slot: int,
        entries_max: int,
    ) -> None:
        super().__init__(surroundings, f"ingest {shard}{'ab'[slot]}")
        self._log = FaultyLog(log, self, witness)
        self._make: Callable[[], MemoryIngest] = lambda: MemoryIngest(
            shard, self._log, tables, self, witness.market_map.shard_count, entries_max
        )
        self._ingest: MemoryIngest | None = None

    def step(self, action: Action) -> None:
        """Store one batch, unless the other ingest holds the row."""
        if self._ingest is None:
            self._ingest = self._make()
        try:
            self._ingest.step()
        except BlockedError:
            self.surroundings.inject("lock held by another (ingest)")
        except (redis.RedisError, psycopg.OperationalError):
            return
        except IngestStoppedError as error:
            raise TradeGapError(str(error)) from None

    def end(self) -> None:
        """Forget the connection; the database undoes what was under way."""
        if self._ingest is not None:
            self._ingest.close()
            self._ingest = None
