"""Conversion of an earlier release's data: by a worker at its start, or by `exchange convert`.

Snapshots of format 2 have no configuration; it comes from the settings. So a snapshot is converted only if
there is no leader and nothing has been committed after it: otherwise the settings would decide the outcome of
those commits again.
"""

from collections import Counter
from typing import Final, NamedTuple

from engine_worker.core.snapshot import FORMAT_VERSION, SnapshotError, encode_snapshot, snapshot_format
from engine_worker.core.snapshot_2 import FORMAT, decode_snapshot_2, is_of_format_2
from protocol import streams
from protocol.codec import UNNUMBERED, LaterFormatError, format_of
from protocol.configuration import ShardConfig
from protocol.market import MarketMap
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import COMMANDS_FIELD, EVENTS_FIELD, MESSAGES_FIELD
from stream_log.interface import StreamLog

_ENTRIES: Final = 1_000
"""Read at once."""
_STOP: Final = "stop all engine workers of the earlier release, so that the last one saves its state"


class Formats(NamedTuple):
    """The formats of a shard's data."""

    snapshots: tuple[int, ...]
    """Of the kept snapshots, newest first; 0: torn."""
    input: dict[int, int]
    """Format -> number of entries of `in:{k}`; later formats count under the number they state."""
    events: dict[int, int]
    """The same for `ev:{k}`."""

    @property
    def is_present(self) -> bool:
        """Whether a worker can start from it: its newest snapshot, if any, is of the present format."""
        return not self.snapshots or self.snapshots[0] >= FORMAT_VERSION


def formats_of(log: StreamLog, shard: int) -> Formats:
    """Inspect all data of a shard without changing anything."""
    snapshots = []
    for snapshot in log.snapshots(shard):
        try:
            snapshots.append(snapshot_format(snapshot))
        except SnapshotError:
            snapshots.append(0)
    return Formats(
        tuple(snapshots),
        _formats(log, streams.commands(shard), (COMMANDS_FIELD, MESSAGES_FIELD)),
        _formats(log, streams.events(shard), (EVENTS_FIELD,)),
    )


def _formats(log: StreamLog, stream: str, fields: tuple[bytes, ...]) -> dict[int, int]:
    counts: Counter[int] = Counter()
    after = STREAM_START
    while entries := log.read({stream: after}, _ENTRIES, block_ms=0):
        after = entries[-1].stream_id
        for entry in entries:
            frame = next((entry.fields[field] for field in fields if field in entry.fields), b"")
            try:
                counts[format_of(frame)] += 1
            except LaterFormatError as error:
                counts[error.number] += 1
    return dict(sorted(counts.items()))


def is_convertible(snapshot: bytes) -> bool:
    """Return whether these are the complete bytes of a snapshot that `convert` reads."""
    return is_of_format_2(snapshot)


def convert(log: StreamLog, shard: int, market_map: MarketMap, config: ShardConfig, snapshot: bytes) -> bytes:
    """Convert a snapshot from before configuration was in the log, using the settings; keep and return it.

    Raises:
        SnapshotError: it cannot be used: its release is still running, something was committed after it, or
            it does not fit the markets.
    """
    if log.lease(shard).leader is not None:
        raise SnapshotError(f"the snapshot has format {FORMAT}, and somebody leads the shard; {_STOP}")
    converted, stream_id = _converted(log, shard, market_map, config, snapshot)
    log.save_snapshot(shard, converted, stream_id, replaces=True)
    return converted


def _converted(
    log: StreamLog, shard: int, market_map: MarketMap, config: ShardConfig, snapshot: bytes
) -> tuple[bytes, StreamId]:
    position = log.position(shard).stream_id
    state, stream_id = decode_snapshot_2(snapshot, market_map, config)
    if stream_id != position:
        raise SnapshotError(
            f"the snapshot has format {FORMAT} and reaches {stream_id}, committed is {position}; start that "
            f"release again and {_STOP}"
        )
    if state.state.index != shard:
        raise SnapshotError(f"the snapshot is of shard {state.state.index}, this is shard {shard}")
    return encode_snapshot(state, stream_id), stream_id


def why_not(log: StreamLog, shard: int, market_map: MarketMap, config: ShardConfig) -> str:
    """Return why no worker of this release can continue with an earlier release's data; empty: it can.

    Nothing is changed.
    """
    snapshots = log.snapshots(shard)
    try:
        if snapshots and is_convertible(snapshots[0]):
            _converted(log, shard, market_map, config, snapshots[0])
    except SnapshotError as error:
        return str(error)
    first = log.read({streams.events(shard): STREAM_START}, 1, block_ms=0)
    if not snapshots and first and not _has_number(first[0].fields.get(EVENTS_FIELD, b"")):
        return (
            f"an earlier release wrote its log, and has saved no state; start that release again and {_STOP}"
        )
    return ""


def _has_number(frame: bytes) -> bool:
    try:
        return format_of(frame) != UNNUMBERED
    except LaterFormatError:
        return True


def counts_text(counts: dict[int, int]) -> str:
    """Return the number of entries per format, as text for people."""
    named = (f"{count} of format {number}" for number, count in counts.items())
    text = ", ".join(named) or "none"
    return text + (" (without a number)" if UNNUMBERED in counts else "")
