"""Describes an entry of a shard's input, as far as it is decodable, for operators."""

from collections.abc import Mapping, Sequence

import msgspec

from protocol.codec import LaterFormatError, UnreadItem, decode_command_items, decode_message_items
from protocol.streams import COMMANDS_FIELD, MESSAGES_FIELD

_BYTES_SHOWN = 200


def entry_lines(fields: Mapping[bytes, bytes]) -> list[str]:
    """Return the lines that describe an entry with these fields."""
    lines: list[str] = []
    for name, value in fields.items():
        if name == COMMANDS_FIELD:
            lines += command_lines(value)
        elif name == MESSAGES_FIELD:
            lines += _message_lines(value)
        else:
            lines.append(f"field {name[:40]!r}: {_bytes_text(value)}")
    return lines


def command_lines(frame: bytes) -> list[str]:
    """Return the lines that describe a frame of commands."""
    try:
        read = decode_command_items(frame)
    except (msgspec.MsgspecError, LaterFormatError) as error:
        return [f"commands that cannot be read ({error}): {_bytes_text(frame)}"]
    return _items("command", read.items, 0)


def _message_lines(frame: bytes) -> list[str]:
    try:
        read = decode_message_items(frame)
    except (msgspec.MsgspecError, LaterFormatError) as error:
        return [f"messages that cannot be read ({error}): {_bytes_text(frame)}"]
    return [
        f"from shard {read.source} to shard {read.target}",
        *_items("message", read.items, read.first_sequence),
    ]


def _items(name: str, items: Sequence[object], first: int) -> list[str]:
    return [
        f"{name} {number}: "
        + (
            f"not understood ({item.reason}): {_bytes_text(item.payload)}"
            if isinstance(item, UnreadItem)
            else repr(item)
        )
        for number, item in enumerate(items, first)
    ]


def _bytes_text(value: bytes) -> str:
    text = repr(value[:_BYTES_SHOWN])
    return text if len(value) <= _BYTES_SHOWN else f"{text} and {len(value) - _BYTES_SHOWN} bytes more"
