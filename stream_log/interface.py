"""The stream log: what the shards and their readers need from Redis, as an interface.

`RedisStreamLog` (redis_log.py) is the real implementation, `MemoryStreamLog` (memory_log.py) the one for
tests and simulation; both pass the same tests.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

import msgspec

from protocol.lease import Leader, Sight, Standby
from protocol.positions import ShardPosition, StateChecksum
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import SKIPPED_ENTRY_FIELD, SKIPPED_FIELD

LETTERS_PER_ENTRY_MAX = 100
"""A frame with more undecodable items than this becomes one dead letter: it is probably not ours."""


class Entry(NamedTuple):
    """One stream entry."""

    stream: str
    stream_id: StreamId
    fields: dict[bytes, bytes]


class DeadLetter(NamedTuple):
    """Undecodable data."""

    source: str
    stream_id: StreamId | str
    """For a job, which is not a stream entry, the id that its queue assigned."""
    reason: str
    payload: bytes
    """For an entry of `in:{k}` or `query:{k}`: its fields in msgpack; for one of `ev:{k}`: its frame.

    For an item of a frame: the item's own bytes.
    """
    item: int | None = None
    """The item's index in the frame if only the item is undecodable; None: the whole entry."""

    def fields(self) -> dict[bytes, bytes]:
        """Return the fields of the dead letter's entry in `dead:{k}`."""
        fields = {
            b"source": self.source.encode(),
            b"id": str(self.stream_id).encode(),
            b"reason": self.reason.encode(errors="replace"),
            b"payload": self.payload,
        }
        return fields if self.item is None else fields | {b"item": b"%d" % self.item}


class Skip(NamedTuple):
    """An entry of a shard's input that is skipped on an operator's instruction."""

    stream_id: StreamId
    frame: bytes
    """The instruction: see `decode_skip` of protocol/codec.py."""


def as_skipped(entry: Entry, frame: bytes) -> Entry:
    """Return an entry of `in:{k}` as it must be applied: wrapped in the instruction to skip it."""
    return entry._replace(
        fields={SKIPPED_FIELD: frame, SKIPPED_ENTRY_FIELD: msgspec.msgpack.encode(entry.fields)}
    )


def with_skips(entries: Sequence[Entry], skips: Mapping[StreamId, bytes]) -> list[Entry]:
    """Return entries of `in:{k}` as they were applied or skipped.

    `skips` must be the result of `StreamLog.skips`, read after the entries.
    """
    if not skips:
        return list(entries)
    return [
        as_skipped(entry, skips[entry.stream_id]) if entry.stream_id in skips else entry for entry in entries
    ]


class Commit(NamedTuple):
    """One batch of a shard, written atomically."""

    shard: int
    expected: ShardPosition
    """The value that `pos` must have now."""
    stream_id: StreamId
    """The id that `pos` has afterwards, with the same epoch.

    It is also the id of the entries that the commit writes to `ev` and `out`.
    """
    events: bytes = b""
    """An event frame; empty: no events."""
    outbox: Mapping[int, bytes] = MappingProxyType({})
    """Target shard -> message frame."""
    dead_letters: Sequence[DeadLetter] = ()
    checksum: str = ""
    """The checksum of the state after this batch; empty: none."""
    skip: Skip | None = None
    """The skipped entry of the batch; its instruction moves from `skip:{k}` to `skips:{k}`."""


class Outgoing(NamedTuple):
    """Message frames of one commit on their way to other shards."""

    stream_id: StreamId
    frames: Mapping[int, bytes]


class Committed(NamedTuple):
    """The result of one look at a shard's committed input."""

    entries: list[Entry]
    """Entries after the reader's position, none of them beyond the shard's position.

    Skipped entries are marked (`as_skipped`).
    """
    position: ShardPosition
    trimmed_to: StreamId
    """Entries before this one may be gone.

    It is read after the entries, so entries from here on have no gap.
    """
    checksum: StateChecksum | None = None
    """The checksum of the last commit that had one; never of an entry beyond the position."""


class SavedSnapshot(NamedTuple):
    """A description of a kept snapshot without its contents."""

    stream_id: StreamId
    """The last input entry in it; "0-0" if the writer did not say."""
    age_ms: int
    """The time since it was saved."""
    name: str = ""
    """The name of the key with its bytes."""


class Fenced(Exception):  # noqa: N818 - not an error of this process: another one has taken over
    """Another writer has taken over the shard; this one must stop."""


class Rewound(Fenced):
    """Redis has lost data that this writer read or wrote; it must start again from the remaining data."""


class Streams(Protocol):
    """Streams of entries, named by the functions of protocol/streams.py."""

    def append(self, stream: str, fields: Mapping[bytes, bytes]) -> StreamId:
        """Append one entry and return its id."""
        ...

    def read(self, after: Mapping[str, StreamId], count: int, block_ms: int) -> list[Entry]:
        """Return up to `count` entries of each stream after the given id, oldest first.

        Wait up to `block_ms` for one.
        """
        ...

    def last_id(self, stream: str) -> StreamId:
        """Return the id of the newest entry ever appended, "0-0" if there was none."""
        ...

    def trim(self, stream: str, before: StreamId) -> None:
        """Remove the entries older than `before`."""
        ...


class CommitLog(Protocol):
    """The input and the output of shards: a shard has one writer at a time, which commits batch by batch."""

    def position(self, shard: int) -> ShardPosition:
        """Return the shard's position; (0, "0-0") for a new shard."""
        ...

    def positions(self, shards: Sequence[int]) -> dict[int, ShardPosition]:
        """Return the positions of several shards at one moment."""
        ...

    def checksum(self, shard: int) -> StateChecksum | None:
        """Return the checksum of the last commit; None: it had none.

        A commit of an older program leaves the checksum of an earlier commit in place.
        """
        ...

    def take_over(
        self, shard: int, candidate: Leader | None = None, over: Leader | None = None
    ) -> ShardPosition:
        """Make the caller the shard's only writer, by raising the epoch; it receives the queries from now on.

        A `candidate` takes the lease in the same step, unless a worker other than `over` holds it, and also
        receives the queries of the last two lease periods: nobody has answered them.

        Raises:
            Fenced: another worker holds the lease; nothing was changed.
        """
        ...

    def fruitless_takeovers(self, shard: int) -> int:
        """Return how many workers in a row have taken over at the present position without a commit."""
        ...

    def read_inputs(
        self,
        shard: int,
        position: ShardPosition,
        count: int,
        block_ms: int,
        publish: Sequence[tuple[str, bytes]] = (),
        *,
        answers: Sequence[tuple[str, bytes]] = (),
        renew: Leader | None = None,
    ) -> list[Entry]:
        """Return up to `count` commands after `position`, then as many new queries.

        Wait up to `block_ms` for one.

        Before that, in the same round trip: publish the (channel, payload) pairs, those of `answers` only if
        `pos` still equals `position`, and renew the lease of `renew` if its epoch is still current.

        Raises:
            Fenced: the shard was taken over in the meantime.
        """
        ...

    def read_committed(self, shard: int, after: StreamId, count: int) -> Committed:
        """Return up to `count` committed entries of the input after the given id; never waits."""
        ...

    def begin_commit(self, commit: Commit, publish: Sequence[tuple[str, bytes]] = ()) -> None:
        """Publish the (channel, payload) pairs, and start writing the batch if `pos` is still as expected.

        `finish_commit` returns the outcome. Until then nothing but `renew_lease` may be called.
        """
        ...

    def finish_commit(self) -> None:
        """Wait until the batch of `begin_commit` is written, even if the connection is lost.

        Raises:
            Fenced: `pos` was not as expected; nothing was written.
        """
        ...

    def commit(self, commit: Commit) -> None:
        """Write the batch if `pos` is still as expected: `begin_commit` and `finish_commit`.

        Raises:
            Fenced: it is not; nothing was written.
        """
        ...

    def undelivered(self, shard: int) -> list[Outgoing]:
        """Return the remaining frames in the shard's outbox, oldest first."""
        ...

    def deliver(self, shard: int, outgoing: Outgoing) -> None:
        """Append message frames to their targets' inputs, then remove their entry from the outbox.

        Without frames, the outbox entry with this id is removed whatever its contents.
        """
        ...

    def is_halted(self, shard: int) -> bool:
        """Return whether the shard is halted.

        That is so after a worker has halted with a reason and before another has got past that place.
        """
        ...

    def mark_passed(self, shard: int, reader: str, stream_id: StreamId) -> None:
        """Record that `reader` needs no events of the shard up to `stream_id` any more."""
        ...

    def passed(self, shard: int) -> dict[str, StreamId]:
        """Return the positions that the readers have passed."""
        ...


class Skips(Protocol):
    """Operators' instructions to skip an entry."""

    def order_skip(self, shard: int, frame: bytes) -> None:
        """Make the shard's leader skip an entry after its next takeover."""
        ...

    def skip(self, shard: int) -> bytes | None:
        """Return the instruction to skip an entry that the shard's leader follows next, or None."""
        ...

    def drop_skip(self, shard: int, frame: bytes) -> None:
        """Remove that instruction if it is unchanged."""
        ...

    def skips(self, shard: int) -> dict[StreamId, bytes]:
        """Return the instructions by which entries were skipped.

        A committed instruction is included before the position is beyond its entry.
        """
        ...


class Leases(Protocol):
    """The leader and the standbys of a shard."""

    def renew_lease(self, shard: int, leader: Leader) -> None:
        """Extend the lease by `lease_ms`, if the leader's epoch is still the shard's."""
        ...

    def release_lease(self, shard: int, leader: Leader) -> None:
        """Release the lease, if this leader holds it."""
        ...

    def lease(self, shard: int) -> Sight:
        """Return the leader, and whether its connection exists."""
        ...

    def announce(self, shard: int, standby: Standby) -> None:
        """Announce a standby and its progress; the announcement is valid for `STANDBY_TTL_MS`."""
        ...

    def withdraw(self, shard: int, standby: Standby) -> None:
        """Withdraw a standby's announcement."""
        ...

    def standbys(self, shard: int) -> list[Standby]:
        """Return the announced standbys."""
        ...


class SnapshotStore(Protocol):
    """The two newest snapshots of each shard."""

    def save_snapshot(
        self, shard: int, snapshot: bytes, stream_id: StreamId = STREAM_START, *, replaces: bool = False
    ) -> None:
        """Keep a snapshot of the state at `stream_id`, and the previous one.

        Nothing is kept when the newest kept snapshot is at `stream_id` (unless this one `replaces` it) or
        beyond it: a snapshot older than the others may need input that is gone.
        """
        ...

    def saved_snapshots(self, shard: int) -> list[SavedSnapshot]:
        """Return descriptions of the kept snapshots, newest first, without reading their contents."""
        ...

    def read_snapshot(self, shard: int, saved: SavedSnapshot) -> bytes:
        """Return a kept snapshot; parts that no longer exist are missing."""
        ...

    def snapshots(self, shard: int) -> list[bytes]:
        """Return the kept snapshots, newest first."""
        ...


class Bus(Protocol):
    """Messages to current listeners, and the configuration that shards publish."""

    def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Publish (channel, payload) pairs to the current listeners."""
        ...

    def publish_answers(
        self, shard: int, position: ShardPosition, answers: Sequence[tuple[str, bytes]]
    ) -> None:
        """Publish (channel, payload) pairs if `pos` still equals `position`."""
        ...

    def write_configuration(self, shard: int, position: ShardPosition, configuration: bytes) -> bool:
        """Write `configuration` to `config:{k}` if `pos` still equals `position`.

        Return whether `pos` equals it.
        """
        ...

    def configuration(self, shard: int) -> bytes | None:
        """Return the value of `config:{k}`, or None."""
        ...


class StreamLog(Streams, CommitLog, Skips, Leases, SnapshotStore, Bus, Protocol):
    """The whole interface, on one server or one cluster: `RedisStreamLog`, or `MemoryStreamLog` for tests."""
