"""The stream log: what the shards and their readers need of Redis, as an interface with two implementations.

`RedisStreamLog` (redis_log.py) is the real one, `MemoryStreamLog` (memory_log.py) its twin for tests and
simulation; both pass the same tests.
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
"""More items of one frame than so many are one dead letter, of the whole entry: such a frame is hardly ours.
"""


class Entry(NamedTuple):
    """One stream entry."""

    stream: str
    stream_id: StreamId
    fields: dict[bytes, bytes]


class DeadLetter(NamedTuple):
    """What could not be understood."""

    source: str
    stream_id: StreamId | str
    """A job, which is no stream entry, has the id that its queue gave it."""
    reason: str
    payload: bytes
    """An entry of `in:{k}` or `query:{k}`: its fields in msgpack; one of `ev:{k}`: its frame.

    An item of a frame: its own bytes.
    """
    item: int | None = None
    """The item's place in the frame, when only that was not understood; None: the whole entry."""

    def fields(self) -> dict[bytes, bytes]:
        """Return the fields of its entry in `dead:{k}`."""
        fields = {
            b"source": self.source.encode(),
            b"id": str(self.stream_id).encode(),
            b"reason": self.reason.encode(errors="replace"),
            b"payload": self.payload,
        }
        return fields if self.item is None else fields | {b"item": b"%d" % self.item}


class Skip(NamedTuple):
    """An entry of a shard's input that is passed over, because an operator said so."""

    stream_id: StreamId
    frame: bytes
    """The instruction: see `decode_skip` of protocol/codec.py."""


def as_skipped(entry: Entry, frame: bytes) -> Entry:
    """Return an entry of `in:{k}` as whoever applies it has to read it: with the instruction to skip it
    around what is in it.
    """
    return entry._replace(
        fields={SKIPPED_FIELD: frame, SKIPPED_ENTRY_FIELD: msgspec.msgpack.encode(entry.fields)}
    )


def with_skips(entries: Sequence[Entry], skips: Mapping[StreamId, bytes]) -> list[Entry]:
    """Return entries of `in:{k}` as they were applied, or passed over.

    `skips` are those of `StreamLog.skips`, asked for afterwards.
    """
    if not skips:
        return list(entries)
    return [
        as_skipped(entry, skips[entry.stream_id]) if entry.stream_id in skips else entry for entry in entries
    ]


class Commit(NamedTuple):
    """One batch of a shard, written whole or not at all."""

    shard: int
    expected: ShardPosition
    """What `pos` must hold now."""
    stream_id: StreamId
    """What it holds afterwards, with the same epoch.

    Also the id of the entries in `ev` and `out` that this writes.
    """
    events: bytes = b""
    """An event frame; empty: nothing happened."""
    outbox: Mapping[int, bytes] = MappingProxyType({})
    """Target shard -> message frame."""
    dead_letters: Sequence[DeadLetter] = ()
    checksum: str = ""
    """Of the state after this batch; empty: nobody can compare with it."""
    skip: Skip | None = None
    """The entry of it that was passed over; the instruction moves from `skip:{k}` to `skips:{k}`."""


class Outgoing(NamedTuple):
    """Message frames of one commit on their way to other shards."""

    stream_id: StreamId
    frames: Mapping[int, bytes]


class Committed(NamedTuple):
    """What one look at a shard's committed input shows."""

    entries: list[Entry]
    """Entries after where the reader is, none of them beyond the position.

    Those that were passed over say so (`as_skipped`).
    """
    position: ShardPosition
    trimmed_to: StreamId
    """Entries before this one may be gone.

    Read after the entries, so what begins behind it is without a gap.
    """
    checksum: StateChecksum | None = None
    """Of the last commit that had one, which is never beyond the position."""


class SavedSnapshot(NamedTuple):
    """What is known of a kept snapshot without reading it."""

    stream_id: StreamId
    """Up to which input it reaches; "0-0" when whoever saved it did not say."""
    age_ms: int
    """How long ago it was saved."""
    name: str = ""
    """Where its bytes are."""


class Fenced(Exception):  # noqa: N818 - not an error of this process: another one has taken over
    """Another writer has taken the shard over; this one must stop."""


class Rewound(Fenced):
    """Redis has lost what this writer had read or written: it must start anew from what is there."""


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
        """Return the id of the newest entry ever appended, "0-0" when there was none."""
        ...

    def trim(self, stream: str, before: StreamId) -> None:
        """Remove the entries older than `before`."""
        ...


class CommitLog(Protocol):
    """The input of shards and what they made of it: a shard has one writer at a time, which commits batch by batch."""

    def position(self, shard: int) -> ShardPosition:
        """Return the shard's position; (0, "0-0") for a new shard."""
        ...

    def positions(self, shards: Sequence[int]) -> dict[int, ShardPosition]:
        """Return the positions of several shards at one moment."""
        ...

    def checksum(self, shard: int) -> StateChecksum | None:
        """Return the checksum of the last commit; None when it had none.

        An older program leaves that of an earlier commit.
        """
        ...

    def take_over(
        self, shard: int, candidate: Leader | None = None, over: Leader | None = None
    ) -> ShardPosition:
        """Make the caller the shard's only writer, by raising the epoch. It hears the queries from now on.

        A `candidate` takes the lease in the same step, unless somebody other than `over` holds it, and also
        hears the queries of the last two leases: nobody has answered them.

        Raises:
            Fenced: another worker holds the lease; nothing was changed.
        """
        ...

    def fruitless_takeovers(self, shard: int) -> int:
        """Return how many workers in turn have taken the shard over at its present position, and committed
        nothing.
        """
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

        Before that, in the same round trip: publishes the (channel, payload) pairs, those of `answers` only
        if `position` still is what `pos` holds, and renews the lease of `renew` if its epoch still does.

        Raises:
            Fenced: the shard was taken over since.
        """
        ...

    def read_committed(self, shard: int, after: StreamId, count: int) -> Committed:
        """Return up to `count` entries of the input after the given id that are committed; never waits."""
        ...

    def begin_commit(self, commit: Commit, publish: Sequence[tuple[str, bytes]] = ()) -> None:
        """Publish the (channel, payload) pairs, and have the batch written if `pos` is still as expected.

        `finish_commit` tells what became of it. Until then nothing but `renew_lease` may be called.
        """
        ...

    def finish_commit(self) -> None:
        """Wait until the batch of `begin_commit` is written, whatever becomes of the connection meanwhile.

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
        """Return what is left in the shard's outbox, oldest first."""
        ...

    def deliver(self, shard: int, outgoing: Outgoing) -> None:
        """Append message frames to their targets' inputs, then drop their entry from the outbox.

        Without frames, whatever has the id.
        """
        ...

    def is_halted(self, shard: int) -> bool:
        """Return whether a worker of the shard has stopped and said why, and none has got past that place
        since.
        """
        ...

    def mark_passed(self, shard: int, reader: str, stream_id: StreamId) -> None:
        """Note that `reader` needs nothing of the shard's events up to `stream_id` any more."""
        ...

    def passed(self, shard: int) -> dict[str, StreamId]:
        """Return what the readers have passed."""
        ...


class Skips(Protocol):
    """Instructions of operators to pass over an entry."""

    def order_skip(self, shard: int, frame: bytes) -> None:
        """Let the shard's leader pass over an entry when it takes the shard over next.

        `frame` is the instruction.
        """
        ...

    def skip(self, shard: int) -> bytes | None:
        """Return the instruction to pass over an entry that the shard's leader follows next; None: there is
        none.
        """
        ...

    def drop_skip(self, shard: int, frame: bytes) -> None:
        """Remove that instruction, if it still is this one."""
        ...

    def skips(self, shard: int) -> dict[StreamId, bytes]:
        """Return the instructions by which entries were passed over.

        One that is committed is in it before the position is behind it.
        """
        ...


class Leases(Protocol):
    """Who leads a shard, and who stands by."""

    def renew_lease(self, shard: int, leader: Leader) -> None:
        """Keep the lease for another `lease_ms`, if the leader's epoch still is the shard's."""
        ...

    def release_lease(self, shard: int, leader: Leader) -> None:
        """Give the lease up, if it is this leader's."""
        ...

    def lease(self, shard: int) -> Sight:
        """Return who leads, and whether its connection is still there."""
        ...

    def announce(self, shard: int, standby: Standby) -> None:
        """Say that a standby is there, and how far it is; it counts for `STANDBY_TTL_MS`."""
        ...

    def withdraw(self, shard: int, standby: Standby) -> None:
        """Say that a standby is one no more."""
        ...

    def standbys(self, shard: int) -> list[Standby]:
        """Return the standbys that are there."""
        ...


class SnapshotStore(Protocol):
    """The two newest snapshots of each shard."""

    def save_snapshot(
        self, shard: int, snapshot: bytes, stream_id: StreamId = STREAM_START, *, replaces: bool = False
    ) -> None:
        """Keep a snapshot of the state at `stream_id`, and the one before it.

        Nothing is kept when the newest one reaches as far already, unless this one `replaces` it, or further:
        what is older than the others may need input that is gone.
        """
        ...

    def saved_snapshots(self, shard: int) -> list[SavedSnapshot]:
        """Return what is known of the kept snapshots without reading them, newest first."""
        ...

    def read_snapshot(self, shard: int, saved: SavedSnapshot) -> bytes:
        """Return a kept snapshot; what is no longer there is missing from it."""
        ...

    def snapshots(self, shard: int) -> list[bytes]:
        """Return the kept snapshots, newest first."""
        ...


class Bus(Protocol):
    """What is said to whoever listens now, and the configuration that shards publish."""

    def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Publish (channel, payload) pairs to whoever listens now."""
        ...

    def publish_answers(
        self, shard: int, position: ShardPosition, answers: Sequence[tuple[str, bytes]]
    ) -> None:
        """Publish (channel, payload) pairs if `position` still is what `pos` holds."""
        ...

    def write_configuration(self, shard: int, position: ShardPosition, configuration: bytes) -> bool:
        """Have `config:{k}` hold `configuration` if `position` still is what `pos` holds.

        Return whether it does.
        """
        ...

    def configuration(self, shard: int) -> bytes | None:
        """Return what `config:{k}` holds, if there is one."""
        ...


class StreamLog(Streams, CommitLog, Skips, Leases, SnapshotStore, Bus, Protocol):
    """All of it, on one server or one cluster: `RedisStreamLog`, or `MemoryStreamLog` for tests and simulation."""
