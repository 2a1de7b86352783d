"""Replay: a shard rebuilt from a snapshot, or from nothing, and the input after it.

It also proves that the result is the same.

It only reads. A `ReplaySource` provides the past: a running exchange's Redis (`StreamLogSource`), or an
archive of it. The replay is compared with everything that the exchange wrote: every event in `ev:{k}`, byte
for byte, including every `StateHashed`; every snapshot and commit checksum on the way; and at the end the
shard's own digest.
"""

import hashlib
from collections import deque
from collections.abc import Collection, Iterator
from typing import Protocol

import msgspec
from typing_extensions import override

from engine_worker.checksum import state_checksum
from engine_worker.cores import CORES, OBJECTS, Shard, shard_of
from engine_worker.frame_core import Cores, FrameCore, NotUnderstoodError, snapshot_stream_id
from protocol import streams
from protocol.codec import decode_events, event_items
from protocol.decoding import msgpack_decoder
from protocol.positions import StateChecksum
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import EVENTS_FIELD, TRIMMED
from stream_log.interface import Entry, StreamLog, with_skips

READ_ENTRIES = 500
"""Entries read at once."""

_raw_events = msgpack_decoder(list[msgspec.Raw])


class SourceTrimmed(Exception):  # noqa: N818 - a verdict on the data; the message says what to do
    """The source lacks entries that the replay needs."""


class ReplaySource(Protocol):
    """Provides one shard's past.

    Ids are those of `in:{k}`; an entry of `ev:{k}` has the id of the last input of its batch.
    """

    def snapshots(self) -> list[bytes]:
        """Return the available snapshots, newest first."""
        ...

    def entries(self, after: StreamId, count: int) -> list[Entry]:
        """Return up to `count` input entries after `after`, oldest first; none: there are no more.

        Raises:
            SourceTrimmed: the first of them are gone.
        """
        ...

    def events(self, after: StreamId, count: int) -> list[Entry]:
        """Return up to `count` entries of `ev:{k}` after `after`, oldest first; none: there are no more."""
        ...


class StreamLogSource(ReplaySource):
    """A shard's past as far as the stream log still has it."""

    def __init__(self, log: StreamLog, shard: int) -> None:
        self._log = log
        self._shard = shard

    @override
    def snapshots(self) -> list[bytes]:
        return self._log.snapshots(self._shard)

    @override
    def entries(self, after: StreamId, count: int) -> list[Entry]:
        stream = streams.commands(self._shard)
        entries = self._log.read({stream: after}, count, block_ms=0)
        # Read afterwards, so that concurrent trimming is noticed. A trimmed input begins with the older
        # snapshot's own entry.
        oldest = self._log.read({stream: STREAM_START}, 1, block_ms=0)
        begin = oldest[0].stream_id if oldest else STREAM_START
        is_whole = after >= begin if after != STREAM_START else not self._begins_at_a_snapshot(begin)
        if not is_whole:
            raise SourceTrimmed(
                f"the input of shard {self._shard} has been trimmed to {oldest[0].stream_id}; begin at a "
                "newer snapshot"
            )
        return with_skips(entries, self._log.skips(self._shard)) if entries else entries

    def _begins_at_a_snapshot(self, begin: StreamId) -> bool:
        # It may begin earlier than the older snapshot if it was kept for the archive; then this mark tells.
        if self._log.passed(self._shard).get(TRIMMED, STREAM_START) != STREAM_START:
            return True
        older = self.snapshots()[1:]
        return bool(older) and snapshot_stream_id(older[0]) <= begin

    @override
    def events(self, after: StreamId, count: int) -> list[Entry]:
        return self._log.read({streams.events(self._shard): after}, count, block_ms=0)


class Difference(msgspec.Struct, frozen=True):
    """The first difference between the replay and the exchange."""

    stream: str
    stream_id: str
    commands: tuple[int, int]
    """The commands, counted from the exchange's beginning, between which it arose."""
    what: str
    expected: str
    """Of the replay."""
    found: str


class Verdict(msgspec.Struct, frozen=True):
    """The result of a replay."""

    shard: int
    start: str
    """The id of the entry after which it begins."""
    end: str
    """The id of the entry at which it ends."""
    entries: int
    commands: int
    dead_letters: int
    """Input entries, and single commands, that could not be applied."""
    events: int
    state_hashes: int
    """The number of `StateHashed` events."""
    snapshots: int
    """The number of identical snapshots on the way."""
    foreign: int
    """Entries of `ev` that no shard can have written."""
    difference: Difference | None
    checksums: int = 0
    """The number of identical commit checksums on the way."""


class _Differs(Exception):  # noqa: N818 - ends the replay
    def __init__(self, difference: Difference) -> None:
        self.difference = difference


class Replay:
    """One shard during the replay of its past.

    `step` applies the next entries; the shard then has its state at `position`.
    """

    def __init__(
        self,
        source: ReplaySource,
        index: int,
        shard_count: int,
        snapshot: bytes | None = None,
        cores: Cores | None = None,
    ) -> None:
        """Begin at `snapshot`, or (None) at the beginning, before the shard was configured.

        `cores` (None: the chosen ones) create its core.

        Raises:
            SnapshotError: the snapshot cannot be used.
        """
        self.cores = cores or CORES[OBJECTS]
        self.core: FrameCore
        self.core, self.start = self.cores.new(index, shard_count), STREAM_START
        if snapshot is not None:
            self.core, self.start = self.cores.restore(snapshot)
        self.position = self.start
        self.entries = 0
        self.dead_letters = 0
        self._source = source

    @property
    def shard(self) -> Shard:
        """The shard object of the object core, for tools and tests."""
        return shard_of(self.core)

    def step(self, goal: StreamId, count: int = READ_ENTRIES) -> Iterator[StreamId]:
        """Apply up to `count` entries, none after `goal`; yield the position after each.

        The caller takes the output.

        Raises:
            SourceTrimmed: the next entry is gone, or `goal` is not reached.
            InvariantBroken: the state is wrong.
        """
        entries = self._source.entries(self.position, count)
        if not entries or entries[0].stream_id > goal:
            raise SourceTrimmed(
                f"the input of shard {self.core.index} ends at {self.position}, before {goal}"
            )
        for entry in entries:
            if entry.stream_id > goal:
                return
            try:
                self.dead_letters += len(self.core.apply_frame(entry.stream_id, entry.fields))
            except NotUnderstoodError:
                self.dead_letters += 1
            self.position = entry.stream_id
            self.entries += 1
            yield self.position

    def run_to(self, goal: StreamId) -> None:
        """Apply everything up to `goal`, and discard the output.

        Raises:
            SourceTrimmed, InvariantBroken: as `step`.
        """
        while self.position < goal:
            deque(self.step(goal), maxlen=0)
            self.core.take()


class Verifier:
    """Replays, and compares with the exchange's output, up to a position."""

    def __init__(
        self,
        source: ReplaySource,
        replay: Replay,
        goal: StreamId,
        events_after: StreamId | None = None,
        checksum: StateChecksum | None = None,
    ) -> None:
        """Compare events after `events_after`, an id at which a batch ended; None: from the replay's start.

        `checksum` is that of a commit; it is compared if the replay passes its entry.
        """
        self.replay = replay
        self._source = source
        self._goal = goal
        self._events_after = replay.start if events_after is None else events_after
        self._first_command = replay.core.command_count
        self._batch_command = self._first_command
        self._found: deque[Entry] = deque()
        self._last_found = self._events_after
        self._ended = False
        self._produced: deque[bytes] = deque()
        """Events of the replay that were not found yet."""
        self._snapshots = {snapshot_stream_id(snapshot): snapshot for snapshot in source.snapshots()}
        self._checksum = checksum
        self._events = self._hashes = self._same_snapshots = self._foreign = self._same_checksums = 0

    def run(self) -> Iterator[int]:
        """Replay and compare; yield the number of applied commands now and then.

        Afterwards call `verdict`.

        Raises:
            SourceTrimmed, InvariantBroken: as `Replay.step`.
        """
        self.difference: Difference | None = None
        replay = self.replay
        try:
            while replay.position < self._goal:
                chunk_start = replay.position
                try:
                    for stream_id in replay.step(self._goal):
                        checksum = self._next_found()
                        if checksum is not None and checksum.stream_id <= stream_id:
                            self._compare()
                        if stream_id in self._snapshots:
                            self._compare_snapshot(stream_id)
                        if self._checksum is not None and stream_id == self._checksum.stream_id:
                            self._compare_checksum(self._checksum)
                except _Differs:
                    self._source.entries(chunk_start, 1)  # trimmed meanwhile? Then the events are, too
                    raise
                yield replay.core.command_count - self._first_command
            self._compare_rest()
        except _Differs as differs:
            self.difference = differs.difference

    def compare_digest(self, command_count: int, digest: str) -> None:
        """Compare with the shard's own digest at the goal."""
        core = self.replay.core
        if self.difference is None and (core.command_count, core.digest()) != (command_count, digest):
            self.difference = Difference(
                streams.queries(core.index),
                str(self._goal),
                (self._first_command, core.command_count),
                "the running shard's state",
                f"{core.digest()} after {core.command_count} commands",
                f"{digest} after {command_count} commands",
            )

    def verdict(self) -> Verdict:
        """Return the result."""
        replay = self.replay
        return Verdict(
            replay.core.index,
            str(replay.start),
            str(replay.position),
            replay.entries,
            replay.core.command_count - self._first_command,
            replay.dead_letters,
            self._events,
            self._hashes,
            self._same_snapshots,
            self._foreign,
            self.difference,
            self._same_checksums,
        )

    def _next_found(self) -> Entry | None:
        if not self._found and not self._ended:
            self._found.extend(self._source.events(self._last_found, READ_ENTRIES))
            self._ended = not self._found
            if self._found:
                self._last_found = self._found[-1].stream_id
        return self._found[0] if self._found else None

    def _take(self) -> bytes:
        """Return the replay's output as one frame.

        Events before the compared ones are dropped.
        """
        frame = self.replay.core.take().frame
        if self.replay.position <= self._events_after:
            return b""
        return frame

    def _compare(self) -> None:
        """Compare the events of the batch that ended here. Usually the frames are identical."""
        frame = self._take()
        entry = self._found.popleft()
        payload = entry.fields.get(EVENTS_FIELD, b"")
        commands = (self._batch_command, self.replay.core.command_count)
        if frame and payload == frame and not self._produced:
            events = _raw_events(event_items(payload))
        else:
            if frame:
                self._produced.extend(bytes(event) for event in _raw_events(event_items(frame)))
            if _is_foreign(payload, self.replay.core.symbols):
                self._foreign += 1
                return
            events = _raw_events(event_items(payload))
            # Event by event: the frames need not be cut at the same places. What the replay has produced
            # beyond this one waits for the next.
            for number, event in enumerate(events):
                expected = self._produced.popleft() if self._produced else b""
                if expected != bytes(event):
                    place = f"event {number} of {len(events)}"
                    raise _Differs(
                        Difference(
                            entry.stream,
                            str(entry.stream_id),
                            commands,
                            place,
                            _shown(expected),
                            _shown(bytes(event)),
                        )
                    )
        self._events += len(events)
        interval = self.replay.core.state_hash_interval
        self._hashes += commands[1] // interval - commands[0] // interval
        self._batch_command = commands[1]

    def _take_aside(self) -> None:
        """Take the replay's output, and keep it until it is found."""
        if frame := self._take():
            self._produced.extend(bytes(event) for event in _raw_events(event_items(frame)))

    def _compare_checksum(self, committed: StateChecksum) -> None:
        self._take_aside()
        core = self.replay.core
        own = state_checksum(core)
        if own != committed.checksum:
            raise _Differs(
                Difference(
                    streams.checksum(core.index),
                    str(committed.stream_id),
                    (self._first_command, core.command_count),
                    "the checksum of the commit",
                    own,
                    committed.checksum,
                )
            )
        self._same_checksums += 1

    def _compare_snapshot(self, stream_id: StreamId) -> None:
        self._take_aside()
        snapshot, own = self._snapshots[stream_id], self.replay.core.encode_snapshot(stream_id)
        if snapshot != own:
            core = self.replay.core
            saved, _ = self.replay.cores.restore(snapshot)
            raise _Differs(
                Difference(
                    streams.snapshots(core.index),
                    str(stream_id),
                    (self._first_command, core.command_count),
                    "the state in the snapshot",
                    _state_hash(core),
                    _state_hash(saved),
                )
            )
        self._same_snapshots += 1

    def _compare_rest(self) -> None:
        """Find the missing events: an entry of `ev` has a later id after a foreign entry in the stream."""
        self._take_aside()
        while self._produced and self._next_found() is not None:
            self._compare()
        if self._produced:
            core = self.replay.core
            raise _Differs(
                Difference(
                    streams.events(core.index),
                    str(self.replay.position),
                    (self._batch_command, core.command_count),
                    f"{len(self._produced)} events at the end",
                    _shown(self._produced[0]),
                    "nothing",
                )
            )


def _state_hash(core: FrameCore) -> str:
    """Return a hash of the state, independent of its position in the log."""
    return hashlib.blake2b(core.encode_snapshot(None), digest_size=16).hexdigest()


def _is_foreign(payload: bytes, symbols: Collection[str]) -> bool:
    """Return whether readers of `ev` skip this frame: not a frame of events, or of an unknown market."""
    try:
        events = decode_events(payload)
    except msgspec.MsgspecError:
        return True
    markets = (
        getattr(event, "market", None) or getattr(getattr(event, "order", None), "market", None)
        for event in events
    )
    return any(market is not None and market not in symbols for market in markets)


def _shown(event: bytes) -> str:
    """Return one event in readable form."""
    if not event:
        return "nothing"
    return repr(decode_events(b"\x91" + event)[0])
