"""Archives the shards' input logs and snapshots in the database, from which an exchange can be rebuilt.

A step is one transaction: lock the shards' rows in `archive`, read all positions at one moment, store what
each shard has committed up to there, advance `last_id`, commit. All shards are archived together, because a
received message must not be in the archive without the command that sent it. The ingest calls `cover` before
it stores events, so the database never has an order or a trade without the commands that caused it, and a
rebuilt exchange has everything that the database has.
"""

import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import prometheus_client
import psycopg
import structlog

from persist.lost_tail_rules import Found, Stored, lost_tail
from persist.segments import (
    FINAL_LEVEL,
    MERGED_AT_ONCE,
    SMALL,
    Fields,
    Segment,
    merged,
    pack,
    portions,
    snapshot_info,
)
from protocol import streams
from protocol.positions import ShardPosition
from protocol.stream_id import NOTHING_NEEDED, STREAM_START, StreamId
from protocol.streams import ARCHIVE_READER, TRIMMED
from stream_log.interface import StreamLog, with_skips

ENTRIES_PER_READ = 500
SEGMENT_BYTES_MAX = 1_000_000
"""Maximum size of a segment before compression; it bounds the memory of a step."""
MS_PER_DAY = 86_400_000

_SESSION = """
-- a worker that was paused must not keep the lock from the others
SET idle_in_transaction_session_timeout = '10s';
SET client_connection_check_interval = '1s';
SET synchronous_commit = on;
"""

_log = structlog.get_logger()

_entries_archived = prometheus_client.Counter("persist_entries_archived", "Input entries archived", ["shard"])
_bytes_archived = prometheus_client.Counter(
    "persist_bytes_archived", "Bytes of input archived, compressed", ["shard"]
)


class LostTailError(Exception):
    """The log lacks entries that were archived."""


class Retention(NamedTuple):
    """How much of the past the archive keeps."""

    snapshot_interval_s: int
    snapshots_max: int
    days: int


class _Row(NamedTuple):
    last_id: StreamId
    epoch: int
    may_restart: bool


class Archiver:
    """Archives all shards, on its own connection, which is opened when needed.

    Thread-safe: one thread at a time.
    """

    def __init__(
        self, log: StreamLog, shards: Sequence[int], database_url: str, retention: Retention
    ) -> None:
        self._streams = log
        self._shards = list(shards)
        self._database_url = database_url
        self._retention = retention
        self._connection: psycopg.Connection[Any] | None = None
        self._covered = dict.fromkeys(self._shards, STREAM_START)
        for shard in shards:
            _entries_archived.labels(shard)
            _bytes_archived.labels(shard)
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def cover(self, shard: int, stream_id: StreamId) -> None:
        """Return when everything that `shard` has committed up to `stream_id` is archived.

        Raises: as `step`.
        """
        if self._covered[shard] < stream_id:
            self.step()

    def step(self) -> None:
        """Archive what the shards have committed, and a snapshot of each when one is due.

        Raises:
            LostTailError: a log does not hold what was archived of it; nothing was stored.
            psycopg.OperationalError: the database is away; what was under way was not stored.
            redis.RedisError: as that for Redis; the step may have been stored already.
        """
        with self._lock:
            try:
                connection = self._connected()
                with connection.transaction():
                    rows = self._locked_rows(connection)
                    positions = self._streams.positions(self._shards)
                    archived = {
                        shard: self._archive(connection, shard, rows[shard], positions[shard])
                        for shard in self._shards
                    }
            except BaseException:
                # The connection may be in any state; a new one is safer.
                self.close()
                raise
            for shard, last_id in archived.items():
                # Never before the commit.
                self._streams.mark_passed(shard, ARCHIVE_READER, last_id)
            self._covered = archived

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            connection = psycopg.connect(self._database_url, application_name="archive")
            try:
                connection.execute(_SESSION)
                connection.cursor().executemany(
                    "INSERT INTO archive (shard, last_id) VALUES (%s, %s) ON CONFLICT DO NOTHING",
                    [(shard, str(STREAM_START)) for shard in self._shards],
                )
                connection.commit()
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _locked_rows(self, connection: psycopg.Connection[Any]) -> dict[int, _Row]:
        rows = connection.execute(
            "SELECT shard, last_id, epoch, may_restart FROM archive WHERE shard = ANY(%s) ORDER BY shard FOR "
            "UPDATE",
            (self._shards,),
        ).fetchall()
        return {
            shard: _Row(StreamId.parse(last_id), epoch, may_restart)
            for shard, last_id, epoch, may_restart in rows
        }

    def _archive(
        self, connection: psycopg.Connection[Any], shard: int, row: _Row, position: ShardPosition
    ) -> StreamId:
        """Archive one shard up to `position`, and return the position up to which it is archived."""
        last_id = row.last_id
        if position == (row.epoch, last_id):
            self._archive_snapshot(connection, shard, last_id)
            return last_id
        has_archived = has_entry(self._streams, shard, last_id)
        reason = lost_tail(
            shard,
            Stored(last_id, row.epoch, row.may_restart),
            Found(position, position.stream_id, NOTHING_NEEDED, has_archived),
        )
        if reason:
            raise LostTailError(reason)
        if not has_archived:
            # The entries in between were trimmed while there was no archive, or were never in the log; a
            # snapshot includes them.
            last_id = self._begin_at_snapshot(connection, shard, last_id)
        after = last_id
        for portion in portions(self._entries(shard, after, position.stream_id), SEGMENT_BYTES_MAX):
            _insert(connection, shard, last_id, segment := pack(portion))
            last_id = segment.last_id
            _entries_archived.labels(shard).inc(segment.entries)
            _bytes_archived.labels(shard).inc(len(segment.payload))
        if (last_id, position.epoch, not has_archived) != row:
            connection.execute(
                "UPDATE archive SET last_id = %s, epoch = %s, may_restart = %s WHERE shard = %s",
                (str(last_id), position.epoch, not has_archived, shard),
            )
        for level in range(FINAL_LEVEL):
            _merge(connection, shard, level)
        self._archive_snapshot(connection, shard, last_id)
        return last_id

    def _entries(self, shard: int, after: StreamId, goal: StreamId) -> Iterator[tuple[StreamId, Fields]]:
        stream = streams.commands(shard)
        while True:
            page = self._streams.read({stream: after}, ENTRIES_PER_READ, 0)
            # Read after the positions, so that it includes all entries skipped up to there.
            for entry in with_skips(page, self._streams.skips(shard)) if page else ():
                if entry.stream_id > goal:
                    return
                yield entry.stream_id, entry.fields
            if len(page) < ENTRIES_PER_READ:
                return
            after = page[-1].stream_id

    def _begin_at_snapshot(
        self, connection: psycopg.Connection[Any], shard: int, last_id: StreamId
    ) -> StreamId:
        """Return the position from which the log can be followed: the shard's oldest snapshot, or the start.

        The snapshot is archived.
        """
        for snapshot in reversed(self._streams.snapshots(shard)):
            info = snapshot_info(snapshot)
            if info is not None and info.stream_id >= last_id:
                _log.info(
                    "the archive begins at a snapshot",
                    shard=shard,
                    snapshot=str(info.stream_id),
                    archived=str(last_id),
                )
                insert_snapshot(connection, shard, info.stream_id, info.sequences, snapshot)
                return info.stream_id
        return last_id

    def _archive_snapshot(self, connection: psycopg.Connection[Any], shard: int, last_id: StreamId) -> None:
        """Archive the shard's newest snapshot if one is due, and drop what need not be kept any longer."""
        due = connection.execute(
            "SELECT coalesce(bool_and(stored_at < now() - make_interval(secs => %s)), true) "
            "FROM (SELECT max(stored_at) AS stored_at FROM shard_snapshots WHERE shard = %s) AS newest",
            (self._retention.snapshot_interval_s, shard),
        ).fetchone()
        if not due or not due[0]:
            return
        for saved in self._streams.saved_snapshots(shard):
            if saved.stream_id > last_id:
                continue
            snapshot = self._streams.read_snapshot(shard, saved)
            info = snapshot_info(snapshot)
            if info is None:
                continue
            insert_snapshot(connection, shard, info.stream_id, info.sequences, snapshot)
            drop_old(connection, shard, self._retention, _now_ms())
            return


def has_entry(log: StreamLog, shard: int, stream_id: StreamId) -> bool:
    """Return whether the input of `shard` still has this entry.

    The start is there until the input is trimmed.
    """
    if stream_id == STREAM_START:
        return log.passed(shard).get(TRIMMED, STREAM_START) == STREAM_START
    entries = log.read({streams.commands(shard): stream_id.preceding()}, 1, 0)
    return bool(entries) and entries[0].stream_id == stream_id


def withdraw(log: StreamLog, database_url: str, shards: Sequence[int]) -> None:
    """Record that nobody archives: the input is trimmed freely, and archiving may resume at a snapshot."""
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE archive SET may_restart = true WHERE shard = ANY(%s)", (list(shards),))
    for shard in shards:
        if ARCHIVE_READER in log.passed(shard):
            log.mark_passed(shard, ARCHIVE_READER, NOTHING_NEEDED)


def drop_old(connection: psycopg.Connection[Any], shard: int, retention: Retention, now_ms: int) -> None:
    """Drop excess or old snapshots, never the newest, and the log before the oldest kept one."""
    rows = connection.execute("SELECT stream_id FROM shard_snapshots WHERE shard = %s", (shard,)).fetchall()
    newest_first = sorted((StreamId.parse(stream_id) for (stream_id,) in rows), reverse=True)
    oldest_ms = now_ms - retention.days * MS_PER_DAY
    kept = [
        stream_id
        for number, stream_id in enumerate(newest_first)
        if number == 0 or (number < retention.snapshots_max and stream_id.ms >= oldest_ms)
    ]
    if not kept:
        return
    dropped = newest_first[len(kept) :]
    connection.execute(
        "DELETE FROM shard_snapshots WHERE shard = %s AND stream_id = ANY(%s)", (shard, [*map(str, dropped)])
    )
    first = kept[-1]
    # Before the first drop the log from the very beginning needs no snapshot.
    if not dropped and first.ms >= oldest_ms and len(kept) < retention.snapshots_max:
        return
    old = connection.execute(
        "SELECT last_id FROM log_segments WHERE shard = %s AND last_time <= %s", (shard, first.ms)
    ).fetchall()
    connection.execute(
        "DELETE FROM log_segments WHERE shard = %s AND last_id = ANY(%s)",
        (shard, [last_id for (last_id,) in old if StreamId.parse(last_id) <= first]),
    )


def _insert(connection: psycopg.Connection[Any], shard: int, after_id: StreamId, segment: Segment) -> None:
    connection.execute(
        "INSERT INTO log_segments (shard, after_id, first_id, last_id, last_time, entries, raw_bytes, level, "
        "payload) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %b)",
        (
            shard,
            str(after_id),
            str(segment.first_id),
            str(segment.last_id),
            segment.last_id.ms,
            segment.entries,
            segment.raw_bytes,
            segment.level,
            segment.payload,
        ),
    )


def insert_snapshot(
    connection: psycopg.Connection[Any],
    shard: int,
    stream_id: StreamId,
    sequences: dict[str, int],
    snapshot: bytes,
) -> None:
    """Store a snapshot; one of the same position is replaced."""
    connection.execute(
        "INSERT INTO shard_snapshots (shard, stream_id, time, sequences, payload) VALUES (%s, %s, %s, %s, "
        "%b) ON CONFLICT (shard, stream_id) DO UPDATE SET sequences = excluded.sequences, payload = "
        "excluded.payload, stored_at = now()",
        (
            shard,
            str(stream_id),
            stream_id.ms,
            msgspec.json.encode(sequences).decode(),
            zlib.compress(snapshot, SMALL),
        ),
    )


def _merge(connection: psycopg.Connection[Any], shard: int, level: int) -> None:
    """Merge consecutive segments of `level` once there are enough of them."""
    segments = connection.execute(
        "SELECT after_id, last_id FROM log_segments WHERE shard = %s AND level = %s", (shard, level)
    ).fetchall()
    if len(segments) < MERGED_AT_ONCE:
        return
    run: list[str] = []
    for after_id, last_id in sorted(segments, key=lambda row: StreamId.parse(row[1])):
        run = [*run, last_id] if run and run[-1] == after_id else [last_id]
        if len(run) == MERGED_AT_ONCE:
            rows = connection.execute(
                "DELETE FROM log_segments WHERE shard = %s AND last_id = ANY(%s) RETURNING last_id, "
                "after_id, payload",
                (shard, run),
            ).fetchall()
            rows.sort(key=lambda row: StreamId.parse(row[0]))
            _insert(
                connection,
                shard,
                StreamId.parse(rows[0][1]),
                merged((payload for _, _, payload in rows), level + 1),
            )
            run = []


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
