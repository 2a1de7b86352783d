"""Entries of a shard's streams, for the shell and for tools that look into the object core (engine_worker/core/frames.py)."""

from collections.abc import Iterator

import msgspec

from engine_worker.core import frames
from engine_worker.core.frames import Skipped, applicable_commands, why_not_applicable
from engine_worker.core.shard import Shard
from engine_worker.frame_core import DeadItem, MessageNotUnderstood, NotUnderstoodError
from protocol.codec import LaterFormatError, decode_messages
from protocol.commands import LoggedCommand, ShardMessage, SkipEntry
from runtime.stream_log import Entry

__all__ = [
    "DeadItem",
    "MessageNotUnderstood",
    "NotUnderstoodError",
    "Skipped",
    "applicable_commands",
    "apply_entry",
    "apply_one_by_one",
    "outgoing_frames",
    "skipped",
    "why_not_applicable",
]

_TARGET_DIGITS_MAX = 3


def skipped(entry: Entry) -> Skipped | None:
    """Return by which instruction an entry is passed over; None: by none.

    Raises:
        NotUnderstoodError: it says that it is, and by no instruction that names it.
    """
    return frames.skipped(entry.stream_id, entry.fields)


def apply_entry(shard: Shard, entry: Entry) -> list[DeadItem]:
    """Apply everything in one entry of the shard's input; return those of its commands that could not be.

    Raises:
        NotUnderstoodError, LaterFormatError, InvariantBroken: as `FrameCore.apply_frame`.
    """
    return frames.apply_fields(shard, entry.stream_id, entry.fields)


def apply_one_by_one(
    shard: Shard, entry: Entry, dead: list[DeadItem] | None = None
) -> Iterator[LoggedCommand | ShardMessage | SkipEntry]:
    """Apply an entry as `apply_entry` does; yield each command and each new message once it is applied.

    Commands that are not understood are added to `dead`.
    """
    return frames.apply_one_by_one(shard, entry.stream_id, entry.fields, dead)


def outgoing_frames(entry: Entry, index: int, shard_count: int) -> dict[int, bytes]:
    """Return target -> message frame of one entry in the outbox of shard `index`.

    Raises:
        NotUnderstoodError: the shard did not write it.
    """
    frames: dict[int, bytes] = {}
    for field, payload in entry.fields.items():
        known = field.isdigit() and len(field) <= _TARGET_DIGITS_MAX and int(field) < shard_count
        if not known or field != b"%d" % int(field):
            raise NotUnderstoodError(f"there is no shard {field[:40]!r} to send to")
        try:
            frame = decode_messages(payload)
        except (msgspec.MsgspecError, LaterFormatError) as error:
            raise NotUnderstoodError(str(error)) from error
        if (frame.source, frame.target) != (index, int(field)):
            raise NotUnderstoodError(f"the frame is from shard {frame.source} to {frame.target}")
        frames[int(field)] = payload
    return frames
