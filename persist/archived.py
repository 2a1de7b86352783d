"""Reads the archive: snapshots and the input log of a shard, as far back as they go."""

import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import psycopg

from persist.segments import ArchiveDamagedError, unpack
from protocol import streams
from protocol.stream_id import STREAM_START, StreamId
from stream_log.interface import Entry


class SnapshotHeading(NamedTuple):
    """One archived snapshot, without its bytes."""

    stream_id: StreamId
    time: int
    sequences: dict[str, int]


class SegmentHeading(NamedTuple):
    """One segment, without its bytes."""

    after_id: StreamId
    last_id: StreamId
    entries: int


class ShardArchive:
    """The archive of one shard, on a connection of the caller's."""

    def __init__(self, connection: psycopg.Connection[Any], shard: int) -> None:
        self._connection = connection
        self.shard = shard

    def last_id(self) -> StreamId:
        """Return the position up to which the input log is archived."""
        row = self._connection.execute(
            "SELECT last_id FROM archive WHERE shard = %s", (self.shard,)
        ).fetchone()
        return StreamId.parse(row[0]) if row else STREAM_START

    def snapshots(self) -> list[SnapshotHeading]:
        """Return all snapshots, newest first."""
        rows = self._connection.execute(
            "SELECT stream_id, time, sequences FROM shard_snapshots WHERE shard = %s", (self.shard,)
        ).fetchall()
        headings = (SnapshotHeading(StreamId.parse(stream_id), *others) for stream_id, *others in rows)
        return sorted(headings, key=lambda heading: heading.stream_id, reverse=True)

    def snapshot(self, stream_id: StreamId) -> bytes:
        """Return the bytes of a snapshot, as the shard wrote them.

        Raises:
            ArchiveDamagedError: it is not there, or cannot be read.
        """
        row = self._connection.execute(
            "SELECT payload FROM shard_snapshots WHERE shard = %s AND stream_id = %s",
            (self.shard, str(stream_id)),
        ).fetchone()
        try:
            if row is not None:
                return zlib.decompress(row[0])
        except zlib.error as error:
            raise ArchiveDamagedError(
                f"shard {self.shard}: the snapshot of {stream_id} cannot be read: {error}"
            ) from error
        raise ArchiveDamagedError(
            f"shard {self.shard}: the snapshot of {stream_id} is not in the archive any more"
        )

    def oldest_id(self) -> StreamId | None:
        """Return the oldest position whose state can be rebuilt; None: nothing is archived."""
        segments, snapshots = self.segments(STREAM_START), self.snapshots()
        if segments and segments[0].after_id == STREAM_START:
            return STREAM_START
        if snapshots:
            return snapshots[-1].stream_id
        return STREAM_START if self._nothing_ever_happened() else None

    def _nothing_ever_happened(self) -> bool:
        """Return whether the shard is followed and has neither input nor events yet."""
        row = self._connection.execute(
            "SELECT 1 FROM archive JOIN ingest USING (shard) WHERE shard = %s AND archive.last_id = %s AND "
            "ingest.last_id = %s",
            (self.shard, str(STREAM_START), str(STREAM_START)),
        ).fetchone()
        return row is not None

    def segments(self, after: StreamId) -> list[SegmentHeading]:
        """Return the segments with entries after `after`, oldest first."""
        rows = self._connection.execute(
            "SELECT after_id, last_id, entries FROM log_segments WHERE shard = %s AND last_time >= %s",
            (self.shard, after.ms),
        ).fetchall()
        headings = (SegmentHeading(StreamId.parse(row[0]), StreamId.parse(row[1]), row[2]) for row in rows)
        return sorted(
            (heading for heading in headings if heading.last_id > after), key=lambda heading: heading.last_id
        )

    def count_after(self, after: StreamId) -> int:
        """Return about how many entries are archived after `after`."""
        return sum(segment.entries for segment in self.segments(after))

    def entries(self, after: StreamId) -> Iterator[Entry]:
        """Yield the archived entries after `after` (a snapshot's position or the start), oldest first.

        Raises:
            ArchiveDamagedError: the log has a gap, or cannot be read.
        """
        reached = after
        for segment in self.segments(after):
            if segment.after_id > reached:
                raise ArchiveDamagedError(
                    f"shard {self.shard}: the archive has nothing between {reached} and {segment.after_id}"
                )
            for stream_id, fields in self._unpacked(segment.last_id):
                if stream_id > after:
                    yield Entry(streams.commands(self.shard), stream_id, fields)
            reached = segment.last_id

    def _unpacked(self, last_id: StreamId) -> list[tuple[StreamId, dict[bytes, bytes]]]:
        row = self._connection.execute(
            "SELECT payload FROM log_segments WHERE shard = %s AND last_id = %s", (self.shard, str(last_id))
        ).fetchone()
        if row is None:  # it has just been merged into a larger one
            row = self._connection.execute(
                "SELECT payload FROM log_segments WHERE shard = %s AND last_time >= %s ORDER BY last_time "
                "LIMIT 1",
                (self.shard, last_id.ms),
            ).fetchone()
        if row is None:
            raise ArchiveDamagedError(
                f"shard {self.shard}: a segment up to {last_id} is not in the archive any more"
            )
        return unpack(row[0])
