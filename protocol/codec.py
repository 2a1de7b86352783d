"""Frames: how commands, events, messages, queries and replies become bytes and back (msgpack). docs/formats.md describes them.

What stands in the log carries its format's number and its writer's clock in front. Frames of format 1 have neither; they are still read.
Decoders raise `msgspec.MsgspecError` (a `ValueError`) on bytes that are not such a frame, and `LaterFormatError` on a frame that a later
release wrote: the first is a dead letter, the second has to wait for a program that reads it.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from protocol.commands import LoggedCommand, MessageFrame, ShardMessage
from protocol.decoding import msgpack_decoder
from protocol.events import Event
from protocol.replies import Query, Reply

FORMAT: Final = 2
"""What this program writes; it reads the one before, too."""
UNNUMBERED: Final = 1
"""The format of frames that do not say which they have."""

encode_frame = msgspec.msgpack.Encoder().encode
"""Encode a frame that stands in no log: a sequence of queries or replies; or one of format 1."""

_SMALL_ARRAY_MAX, _MEDIUM_ARRAY_MAX = 15, 2**16 - 1
_FIXED_ARRAY, _FIXED_ARRAY_END, _FIXED_NUMBER_END = 0x90, 0xA0, 0x80


class LaterFormatError(Exception):
    """A later release wrote this; `number` is its format. It must be held: what it says may be money."""

    def __init__(self, number: int) -> None:
        super().__init__(f"the frame has format {number}, this program reads up to {FORMAT}: a later release wrote it")
        self.number = number


class CommandFrame(NamedTuple):
    """Commands that were enqueued together; `written_us` is their writer's clock, None in format 1."""

    commands: list[LoggedCommand]
    written_us: int | None


def frame_items(frame: bytes, count: int) -> memoryview:
    """Return what follows the head of an array of `count` items: their encodings, one after the other."""
    return memoryview(frame)[1 if count <= _SMALL_ARRAY_MAX else 3 if count <= _MEDIUM_ARRAY_MAX else 5 :]


class _Head(msgspec.Struct, array_like=True):
    number: int
    written_us: int


class _Commands(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    number: int
    written_us: int
    commands: list[LoggedCommand]


class _Events(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    number: int
    written_us: int
    events: list[Event]


class _RawEvents(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    number: int
    written_us: int
    events: msgspec.Raw


class _Messages(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    number: int
    written_us: int
    source: int
    target: int
    first_sequence: int
    messages: tuple[ShardMessage, ...]


class _UnnumberedMessages(msgspec.Struct, array_like=True):
    source: int
    target: int
    first_sequence: int
    messages: tuple[ShardMessage, ...]


_decode_head = msgpack_decoder(_Head)
_decode_commands = msgpack_decoder(_Commands)
_decode_events = msgpack_decoder(_Events)
_decode_raw_events = msgpack_decoder(_RawEvents)
_decode_messages = msgpack_decoder(_Messages)
_unnumbered_commands = msgpack_decoder(list[LoggedCommand])
_unnumbered_events = msgpack_decoder(list[Event])
_unnumbered_messages = msgpack_decoder(_UnnumberedMessages)
_queries = msgpack_decoder(list[Query])
_replies = msgpack_decoder(list[Reply])
_raw_items = msgpack_decoder(list[msgspec.Raw])
_event: Callable[[msgspec.Raw], Event] = msgpack_decoder(Event)  # type: ignore[arg-type]  # a union is a type to msgspec
_EVENTS_HEAD: Final = bytes([_FIXED_ARRAY + 3, FORMAT])
_UNNUMBERED_MESSAGES_HEAD: Final = bytes([_FIXED_ARRAY + 4])
_SINCE_US, _UNTIL_US = 1_500_000_000_000_000, 5_000_000_000_000_000
"""2017 and 2128."""


def format_of(frame: bytes) -> int:
    """Return the format of a frame of commands or events; what is no frame at all counts as one without a number.

    Raises:
        LaterFormatError: this program does not read it.
    """
    if len(frame) < 2 or not _FIXED_ARRAY < frame[0] < _FIXED_ARRAY_END or frame[1] <= UNNUMBERED:
        return UNNUMBERED
    if frame[1] <= FORMAT:
        return frame[1]
    if frame[1] < _FIXED_NUMBER_END and _is_stamped(frame):
        raise LaterFormatError(frame[1])
    return UNNUMBERED


def _is_stamped(frame: bytes) -> bool:
    """Return whether a frame begins as all do that have a number: random bytes must not be held for ever."""
    try:
        return _SINCE_US < _decode_head(frame).written_us < _UNTIL_US
    except msgspec.MsgspecError:
        return False


def encode_commands(commands: Sequence[LoggedCommand], written_us: int) -> bytes:
    """Return the frame of one `COMMANDS_FIELD`."""
    return encode_frame((FORMAT, written_us, commands))


def decode_command_frame(frame: bytes) -> CommandFrame:
    """Return what one `COMMANDS_FIELD` says."""
    if format_of(frame) == UNNUMBERED:
        return CommandFrame(_unnumbered_commands(frame), None)
    read = _decode_commands(frame)
    return CommandFrame(read.commands, read.written_us)


def decode_commands(frame: bytes) -> list[LoggedCommand]:
    """Return the commands of one `COMMANDS_FIELD`."""
    return decode_command_frame(frame).commands


def encode_events(events: bytes, written_us: int) -> bytes:
    """Return the frame of one `EVENTS_FIELD`; `events` is the encoded array of them."""
    return b"".join((_EVENTS_HEAD, encode_frame(written_us), events))


def event_items(frame: bytes) -> bytes | msgspec.Raw:
    """Return the encoded array of events of one `EVENTS_FIELD`."""
    return frame if format_of(frame) == UNNUMBERED else _decode_raw_events(frame).events


def decode_events(frame: bytes) -> list[Event]:
    """Return the events of one `EVENTS_FIELD`."""
    return _unnumbered_events(frame) if format_of(frame) == UNNUMBERED else _decode_events(frame).events


def decode_readable_events(frame: bytes) -> list[Event]:
    """Return the events of an array whose items come from several frames, without those that cannot be read.

    Feeds read only the heads of events and pass the rest on, so one that a stranger wrote must not hide the others.
    """
    try:
        return _unnumbered_events(frame)
    except msgspec.MsgspecError:
        return [event for item in _raw_items(frame) for event in _event_or_nothing(item)]


def _event_or_nothing(item: msgspec.Raw) -> list[Event]:
    try:
        return [_event(item)]
    except msgspec.MsgspecError:
        return []


def encode_messages(frame: MessageFrame) -> bytes:
    """Return the frame of one `MESSAGES_FIELD`; one without a stamp has format 1."""
    *parts, written_us = frame
    return encode_frame(parts if written_us is None else (FORMAT, written_us, *parts))


def decode_messages(frame: bytes) -> MessageFrame:
    """Return what one `MESSAGES_FIELD` says. In format 1 it is an array of four, in each later one of more."""
    read: _Messages | _UnnumberedMessages
    if frame[:1] == _UNNUMBERED_MESSAGES_HEAD or format_of(frame) == UNNUMBERED:
        read, written_us = _unnumbered_messages(frame), None
    else:
        read = _decode_messages(frame)
        written_us = read.written_us
    if read.first_sequence < 1:
        raise msgspec.ValidationError("messages are numbered from 1 on")
    return MessageFrame(read.source, read.target, read.first_sequence, read.messages, written_us)


def decode_queries(frame: bytes) -> list[Query]:
    """Return the queries of one `QUERIES_FIELD`."""
    return _queries(frame)


def decode_replies(frame: bytes) -> list[Reply]:
    """Return the replies of one published reply frame."""
    return _replies(frame)
