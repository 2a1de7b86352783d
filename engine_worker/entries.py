"""Entries of a shard's input, for tools that inspect the object core: see engine_worker/core/frames.py."""

from collections.abc import Iterator

from engine_worker.core import frames
from engine_worker.core.frames import Skipped, applicable_commands, why_not_applicable
from engine_worker.core.shard import Shard
from engine_worker.frame_core import DeadItem, MessageNotUnderstood, NotUnderstoodError
from protocol.commands import LoggedCommand, ShardMessage, SkipEntry
from stream_log.interface import Entry

__all__ = [
    "DeadItem",
    "MessageNotUnderstood",
    "NotUnderstoodError",
    "Skipped",
    "applicable_commands",
    "apply_entry",
    "apply_one_by_one",
    "skipped",
    "why_not_applicable",
]


def skipped(entry: Entry) -> Skipped | None:
    """Return the instruction by which an entry is skipped, or None.

    Raises:
        NotUnderstoodError: it is marked as skipped, but by no instruction that names it.
    """
    return frames.skipped(entry.stream_id, entry.fields)


def apply_entry(shard: Shard, entry: Entry) -> list[DeadItem]:
    """Apply everything in one entry of the shard's input; return the commands that could not be applied.

    Raises:
        NotUnderstoodError, LaterFormatError, InvariantBroken: as `FrameCore.apply_frame`.
    """
    return frames.ObjectCore(shard).apply_frame(entry.stream_id, entry.fields)


def apply_one_by_one(
    shard: Shard, entry: Entry, dead: list[DeadItem] | None = None
) -> Iterator[LoggedCommand | ShardMessage | SkipEntry]:
    """Apply an entry like `apply_entry`; yield each command and each new message after it is applied.

    Undecodable commands are added to `dead`.
    """
    return frames.apply_one_by_one(shard, entry.stream_id, entry.fields, dead)
