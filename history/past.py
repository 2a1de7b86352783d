"""The past of the shards: from the archive, and from Redis's log for newer entries."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any, NamedTuple

import psycopg
from typing_extensions import override

from engine_worker.core.snapshot import SnapshotError
from engine_worker.entries import NotUnderstoodError, apply_entry
from engine_worker.replay import READ_ENTRIES, Replay, ReplaySource, SourceTrimmed, StreamLogSource
from persist.archived import ShardArchive
from persist.segments import ArchiveDamagedError, snapshot_info
from protocol.codec import LaterFormatError
from protocol.market import MarketMap
from protocol.stream_id import NUMBER_MAX, STREAM_START, StreamId
from protocol.units import AccountId
from stream_log.interface import Entry, StreamLog


class PastError(Exception):
    """The past cannot be looked up; the message says why, and how far back it reaches."""


class Moment(NamedTuple):
    """A state that a replay can begin at: a snapshot, or the very beginning."""

    stream_id: StreamId
    time: int
    sequences: dict[str, int]
    """Market -> its sequence then."""
    load: Callable[[], bytes | None]
    """Returns the snapshot; None at the beginning."""


Progress = Callable[[int, int], None]
"""Called now and then with how many entries are done, and about how many there are."""


def no_progress(_done: int, _total: int) -> None:
    """Ignore the progress."""


class ShardPast(ReplaySource):
    """One shard's past; a `ReplaySource`."""

    def __init__(
        self,
        shard: int,
        log: StreamLog | None,
        connection: psycopg.Connection[Any] | None,
        shard_count: int,
    ) -> None:
        """Read from `log` and the database on `connection`; None: not from there."""
        self.shard = shard
        self._streams = log
        self._live = StreamLogSource(log, shard) if log is not None else None
        self._archive = ShardArchive(connection, shard) if connection is not None else None
        self._shard_count = shard_count
        self._archived: Iterator[Entry] = iter(())
        self._archived_at: StreamId | None = None

    @override
    def snapshots(self) -> list[bytes]:
        """Return the snapshots that Redis has, newest first; the archived ones are loaded one by one."""
        return self._live.snapshots() if self._live is not None else []

    @override
    def events(self, after: StreamId, count: int) -> list[Entry]:
        """The archive keeps no events, since they follow from the input."""
        return self._live.events(after, count) if self._live is not None else []

    @override
    def entries(self, after: StreamId, count: int) -> list[Entry]:
        try:
            if self._archive is not None:
                if self._archived_at != after:
                    self._archived = self._archive.entries(after)
                entries = list(islice(self._archived, count))
                if entries:
                    self._archived_at = entries[-1].stream_id
                    return entries
        except ArchiveDamagedError as error:
            if self._live is None:
                raise SourceTrimmed(str(error)) from error
        self._archived_at = None
        return self._live.entries(after, count) if self._live is not None else []

    def end(self) -> StreamId:
        """Return the id of the last committed input entry that is known."""
        ends = [STREAM_START]
        if self._archive is not None:
            ends.append(self._archive.last_id())
        if self._streams is not None:
            ends.append(self._streams.position(self.shard).stream_id)
        return max(ends)

    def moments(self) -> list[Moment]:
        """Return every state that a replay can begin at, newest first."""
        moments: dict[StreamId, Moment] = {}
        begins = self._archive is not None and self._archive.oldest_id() == STREAM_START
        if self._live is not None and not begins:
            try:
                # The log serves as a beginning only while nothing of it was trimmed.
                self._live.entries(STREAM_START, 1)
                begins = True
            except SourceTrimmed:
                pass
        if begins:
            moments[STREAM_START] = Moment(STREAM_START, 0, {}, lambda: None)
        if self._archive is not None:
            archive = self._archive
            for heading in archive.snapshots():

                def load(stream_id: StreamId = heading.stream_id) -> bytes:
                    return archive.snapshot(stream_id)

                moments[heading.stream_id] = Moment(*heading, load)
        # Redis's snapshots replace archived ones of the same position: they are at hand already.
        for snapshot in self.snapshots():
            info = snapshot_info(snapshot)
            if info is not None:

                def kept(snapshot: bytes = snapshot) -> bytes:
                    return snapshot

                moments[info.stream_id] = Moment(info.stream_id, info.stream_id.ms, info.sequences, kept)
        return sorted(moments.values(), key=lambda moment: moment.stream_id, reverse=True)

    def replay_from(self, fits: Callable[[Moment], bool], goal: str) -> Replay:
        """Return a replay that begins at the newest moment that `fits`.

        Raises:
            PastError: none does, or none can be used.
        """
        moments = self.moments()
        reasons: list[str] = []
        for moment in moments:
            if not fits(moment):
                continue
            try:
                return Replay(self, self.shard, self._shard_count, moment.load())
            except (SnapshotError, ArchiveDamagedError) as error:
                reasons.append(f"the snapshot of {moment.stream_id} cannot be used: {error}")
        if reasons:
            raise PastError(f"shard {self.shard}: {'; '.join(reasons)}")
        if not moments:
            raise PastError(f"shard {self.shard} has neither an archive nor a log yet")
        oldest = moments[-1]
        sequences = ", ".join(f"{symbol} {sequence}" for symbol, sequence in oldest.sequences.items())
        raise PastError(
            (
                f"the archive does not reach back to {goal}; the oldest that it has of shard {self.shard} is "
                f"{time_text(oldest.time)}"
            )
            + (f", at the sequences {sequences}" if sequences else "")
        )

    def count_after(self, after: StreamId) -> int:
        """Return an estimate of the number of entries after `after`, for progress bars."""
        archived = self._archive.count_after(after) if self._archive is not None else 0
        return archived or READ_ENTRIES


class Past:
    """The past of all shards, from the archive, Redis, or both."""

    def __init__(
        self,
        log: StreamLog | None,
        connection: psycopg.Connection[Any] | None,
        market_map: MarketMap,
    ) -> None:
        self.market_map = market_map
        self.shards = [
            ShardPast(shard, log, connection, market_map.shard_count)
            for shard in range(market_map.shard_count)
        ]

    def of_market(self, symbol: str) -> ShardPast:
        """Return the past of the market's shard.

        Raises:
            KeyError: there is no such market.
        """
        return self.shards[self.market_map.shard_of_market(symbol)]

    def of_account(self, account_id: int) -> ShardPast:
        """Return the past of the account's shard."""
        return self.shards[self.market_map.shard_of_account(AccountId(account_id))]


def steps(
    replay: Replay, past: ShardPast, goal: StreamId, progress: Progress = no_progress
) -> Iterator[Entry]:
    """Apply everything up to `goal`, which need not be an entry's id; yield each entry once it is applied.

    Raises:
        PastError: something on the way is gone.
    """
    total = past.count_after(replay.position)
    while True:
        try:
            entries = past.entries(replay.position, READ_ENTRIES)
        except (SourceTrimmed, ArchiveDamagedError) as error:
            raise PastError(str(error)) from error
        for entry in entries:
            if entry.stream_id > goal:
                return
            try:
                replay.dead_letters += len(apply_entry(replay.shard, entry))
            except NotUnderstoodError:
                replay.dead_letters += 1
            except LaterFormatError as error:
                raise PastError(f"entry {entry.stream_id}: {error}") from error
            replay.position = entry.stream_id
            replay.entries += 1
            yield entry
        progress(replay.entries, max(total, replay.entries))
        if not entries:
            return


def end_of(time_ms: int, end: StreamId) -> StreamId:
    """Return the last id that an entry of this millisecond can have, or `end` when that is earlier."""
    return min(StreamId(time_ms, NUMBER_MAX), end)


def time_text(time_ms: int) -> str:
    """Return a time (ms since the epoch) in ISO 8601, UTC, with milliseconds."""
    if not time_ms:
        return "the very beginning"
    return (
        datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


def parse_time(text: str) -> int:
    """Return a time in ms, from ISO 8601 (UTC by default) or a plain number of ms.

    Raises:
        PastError: the text is neither.
    """
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise PastError(
            f"{text!r} is neither a time like 2026-01-31T12:00:00 nor a number of milliseconds"
        ) from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)
