"""The stream log: what the shards and their readers need of Redis, as an interface with two implementations.

`RedisStreamLog` (redis_stream_log.py) is the real one, `MemoryStreamLog` (memory_stream_log.py) its twin for tests and simulation;
both pass the same tests.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from protocol.lease import Leader, Sight, Standby
from protocol.streams import STREAM_START, StreamId


class Entry(NamedTuple):
    """One stream entry."""

    stream: str
    stream_id: StreamId
    fields: dict[bytes, bytes]


class ShardPosition(NamedTuple):
    """Who may write for a shard (`epoch`), and up to which entry of its input everything is committed."""

    epoch: int
    stream_id: StreamId


class StateChecksum(NamedTuple):
    """What a shard's state comes to after an entry of its input; whoever has applied as much must come to the same."""

    stream_id: StreamId
    checksum: str


class DeadLetter(NamedTuple):
    """What could not be understood."""

    source: str
    stream_id: StreamId
    reason: str
    payload: bytes

    def fields(self) -> dict[bytes, bytes]:
        """Return the fields of its entry in `dead:{k}`."""
        return {
            b"source": self.source.encode(),
            b"id": self.stream_id.encode(),
            b"reason": self.reason.encode(),
            b"payload": self.payload,
        }


class Commit(NamedTuple):
    """One batch of a shard, written whole or not at all."""

    shard: int
    expected: ShardPosition
    """What `pos` must hold now."""
    stream_id: StreamId
    """What it holds afterwards, with the same epoch; also the id of the entries in `ev` and `out` that this writes."""
    events: bytes = b""
    """An event frame; empty: nothing happened."""
    outbox: Mapping[int, bytes] = MappingProxyType({})
    """Target shard -> message frame."""
    dead_letters: Sequence[DeadLetter] = ()
    checksum: str = ""
    """Of the state after this batch; empty: nobody can compare with it."""


class Outgoing(NamedTuple):
    """Message frames of one commit on their way to other shards."""

    stream_id: StreamId
    frames: Mapping[int, bytes]


class Committed(NamedTuple):
    """What one look at a shard's committed input shows."""

    entries: list[Entry]
    """Entries after where the reader is, none of them beyond the position."""
    position: ShardPosition
    trimmed_to: StreamId
    """Entries before this one may be gone; read after the entries, so what begins behind it is without a gap."""
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


class StreamLog(Protocol):
    """Streams, the shards' commit, pub/sub. Streams are named by the functions of protocol/streams.py."""

    def append(self, stream: str, fields: Mapping[bytes, bytes]) -> StreamId:
        """Append one entry and return its id."""
        ...

    def read(self, after: Mapping[str, StreamId], count: int, block_ms: int) -> list[Entry]:
        """Return up to `count` entries of each stream after the given id, oldest first; wait up to `block_ms` for one."""
        ...

    def last_id(self, stream: str) -> StreamId:
        """Return the id of the newest entry ever appended, "0-0" when there was none."""
        ...

    def trim(self, stream: str, before: StreamId) -> None:
        """Remove the entries older than `before`."""
        ...

    def position(self, shard: int) -> ShardPosition:
        """Return the shard's position; (0, "0-0") for a new shard."""
        ...

    def checksum(self, shard: int) -> StateChecksum | None:
        """Return the checksum of the last commit; None when it had none. An older program leaves that of an earlier commit."""
        ...

    def positions(self, shards: Sequence[int]) -> dict[int, ShardPosition]:
        """Return the positions of several shards at one moment."""
        ...

    def take_over(self, shard: int, candidate: Leader | None = None, over: Leader | None = None) -> ShardPosition:
        """Make the caller the shard's only writer, by raising the epoch. It hears the queries from now on.

        A `candidate` takes the lease in the same step, unless somebody other than `over` holds it, and also hears the queries of
        the last two leases: nobody has answered them.

        Raises:
            Fenced: another worker holds the lease; nothing was changed.
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
        """Return up to `count` commands after `position`, and as many new queries; wait up to `block_ms` for one.

        Before that, in the same round trip: publishes the (channel, payload) pairs, those of `answers` only if `position` still is
        what `pos` holds, and renews the lease of `renew` if its epoch still does.

        Raises:
            Fenced: the shard was taken over since.
        """
        ...

    def read_committed(self, shard: int, after: StreamId, count: int) -> Committed:
        """Return up to `count` entries of the input after the given id that are committed; never waits."""
        ...

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

    def commit(self, commit: Commit) -> None:
        """Write the batch if `pos` is still as expected, whatever becomes of the connection meanwhile.

        Raises:
            Fenced: it is not; nothing was written.
        """
        ...

    def undelivered(self, shard: int) -> list[Outgoing]:
        """Return what is left in the shard's outbox, oldest first."""
        ...

    def deliver(self, shard: int, outgoing: Outgoing) -> None:
        """Append message frames to their targets' inputs, then drop their entry from the outbox; without frames, whatever has the id."""
        ...

    def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Publish (channel, payload) pairs to whoever listens now."""
        ...

    def publish_answers(self, shard: int, position: ShardPosition, answers: Sequence[tuple[str, bytes]]) -> None:
        """Publish (channel, payload) pairs if `position` still is what `pos` holds."""
        ...

    def write_configuration(self, shard: int, position: ShardPosition, configuration: bytes) -> bool:
        """Have `config:{k}` hold `configuration` if `position` still is what `pos` holds; return whether it does."""
        ...

    def configuration(self, shard: int) -> bytes | None:
        """Return what `config:{k}` holds, if there is one."""
        ...

    def save_snapshot(
        self, shard: int, snapshot: bytes, stream_id: StreamId = STREAM_START, *, replaces: bool = False
    ) -> None:
        """Keep a snapshot of the state at `stream_id`, and the one before it.

        Nothing is kept when the newest one reaches as far already, unless this one `replaces` it, or further: what is older than the
        others may need input that is gone.
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

    def mark_passed(self, shard: int, reader: str, stream_id: StreamId) -> None:
        """Note that `reader` needs nothing of the shard's events up to `stream_id` any more."""
        ...

    def passed(self, shard: int) -> dict[str, StreamId]:
        """Return what the readers have passed."""
        ...
