"""The stream log: what the shards and their readers need of Redis, as an interface with two implementations.

`RedisStreamLog` (redis_stream_log.py) is the real one, `MemoryStreamLog` (memory_stream_log.py) its twin for tests and simulation;
both pass the same tests.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from protocol.streams import StreamId


class Entry(NamedTuple):
    """One stream entry."""

    stream: str
    stream_id: StreamId
    fields: dict[bytes, bytes]


class ShardPosition(NamedTuple):
    """Who may write for a shard (`epoch`), and up to which entry of its input everything is committed."""

    epoch: int
    stream_id: StreamId


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


class Outgoing(NamedTuple):
    """Message frames of one commit on their way to other shards."""

    stream_id: StreamId
    frames: Mapping[int, bytes]


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

    def take_over(self, shard: int) -> ShardPosition:
        """Make the caller the shard's only writer, by raising the epoch. It hears the queries from now on."""
        ...

    def read_inputs(
        self, shard: int, position: ShardPosition, count: int, block_ms: int, publish: Sequence[tuple[str, bytes]] = ()
    ) -> list[Entry]:
        """Return up to `count` commands after `position`, and as many new queries; wait up to `block_ms` for one.

        Publishes the (channel, payload) pairs first, in the same round trip.

        Raises:
            Fenced: the shard was taken over since.
        """
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
        """Append message frames to their targets' inputs, then drop them, and all before them, from the outbox."""
        ...

    def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Publish (channel, payload) pairs to whoever listens now."""
        ...

    def save_snapshot(self, shard: int, snapshot: bytes) -> None:
        """Keep a snapshot, and the one before it."""
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
