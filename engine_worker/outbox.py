"""Decodes entries of `out:{k}`."""

import msgspec

from engine_worker.frame_core import NotUnderstoodError
from protocol.codec import LaterFormatError, decode_messages
from stream_log.interface import Entry

_TARGET_DIGITS_MAX = 3


def outgoing_frames(entry: Entry, index: int, shard_count: int) -> dict[int, bytes]:
    """Return target -> message frame of one entry in the outbox of shard `index`.

    Raises:
        NotUnderstoodError: the shard did not write it.
    """
    frames: dict[int, bytes] = {}
    for field, payload in entry.fields.items():
        is_shard = field.isdigit() and len(field) <= _TARGET_DIGITS_MAX and int(field) < shard_count
        if not is_shard or field != b"%d" % int(field):
            raise NotUnderstoodError(f"there is no shard {field[:40]!r} to send to")
        try:
            frame = decode_messages(payload)
        except (msgspec.MsgspecError, LaterFormatError) as error:
            raise NotUnderstoodError(str(error)) from error
        if (frame.source, frame.target) != (index, int(field)):
            raise NotUnderstoodError(f"the frame is from shard {frame.source} to {frame.target}")
        frames[int(field)] = payload
    return frames
