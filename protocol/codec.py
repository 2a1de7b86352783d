"""Frames: how commands, events, messages, queries and replies are encoded as bytes (msgpack).

docs/reference/formats.md describes the formats.

A frame in the log begins with the number of its format and the writer's clock. Frames of format 1 have
neither; they are still read. Decoders raise `msgspec.MsgspecError` (a `ValueError`) on bytes that are not a
valid frame, and `LaterFormatError` on a frame that a later release wrote. An invalid frame is a dead letter;
a frame of a later format has to wait for a program that reads it.

A frame is decoded as a whole, which is fast. Only when that fails is it decoded item by item
(`decode_command_items`, `decode_event_items`, `decode_message_items`), so that one undecodable item does not
discard the others.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Final, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from protocol.commands import LoggedCommand, MessageFrame, ShardMessage, Signed, SkipEntry
from protocol.decoding import array_items, msgpack_decoder
from protocol.events import Event
from protocol.replies import Query, Reply
from protocol.units import AMOUNT_UNITS_MAX

T = TypeVar("T")

FORMAT: Final = 2
"""The newest format that this program reads and writes; it also reads the previous one."""
OLDEST_FORMAT: Final = 2
"""The oldest format that this program writes.

This is the previous format, or `FORMAT` itself when nothing was ever written in the previous one. A shard's
configuration says which format it writes (protocol/release.py). Code that writes for no shard in particular,
or before a shard is configured, uses this one.
"""
FIELDS_BEFORE: Final[dict[int, dict[type, int]]] = {}
"""Earlier format that this program still writes -> struct -> number of fields it has in that format.

A struct without an entry has all its fields. A release that appends fields to a struct in the log, in
snapshots or in `config:{k}` records here how many fields there were before.
"""
UNNUMBERED: Final = 1
"""The format of frames without a format number."""

encode_frame = msgspec.msgpack.Encoder().encode
"""Encode a frame that is not in the log (a sequence of queries or replies), or a frame of format 1."""

_SMALL_ARRAY_MAX, _MEDIUM_ARRAY_MAX = 15, 2**16 - 1
_FIXED_ARRAY, _FIXED_ARRAY_END, _FIXED_NUMBER_END = 0x90, 0xA0, 0x80


class LaterFormatError(Exception):
    """A later release wrote this; `number` is its format. It must be kept: it may be about money."""

    def __init__(self, number: int) -> None:
        super().__init__(
            f"the frame has format {number}, this program reads up to {FORMAT}: a later release wrote it"
        )
        self.number = number


def encode_as(number: int, value: object) -> bytes:
    """Encode a value in format `number`, without the fields that its structs have only in later formats.

    Raises:
        ValueError: one of these fields has a value other than its default, so the format cannot express it.
    """
    fields = FIELDS_BEFORE.get(number)
    return encode_frame(value if fields is None else _with_fields(value, fields))


def _with_fields(value: object, fields: Mapping[type, int]) -> object:
    kind: Any = type(value)
    if isinstance(value, msgspec.Struct):
        if not _has_any_of(kind, frozenset(fields)):
            return value
        names = value.__struct_fields__
        kept = fields.get(type(value), len(names))
        if kept < len(names):
            for field in msgspec.structs.fields(value)[kept:]:
                if getattr(value, field.name) != field.default:
                    raise ValueError(f"{kind.__name__}.{field.name} is not written before the switch")
        tag = value.__struct_config__.tag
        head = [] if tag is None else [tag]
        return head + [_with_fields(getattr(value, name), fields) for name in names[:kept]]
    if isinstance(value, dict):
        return {key: _with_fields(each, fields) for key, each in value.items()}
    return [_with_fields(each, fields) for each in value] if isinstance(value, list | tuple) else value


@cache
def _has_any_of(kind: type, changed: frozenset[type]) -> bool:
    """Return whether a struct is one of `changed`, or may hold one of them in a field.

    Few structs do; the others are encoded unchanged, because taking a struct apart costs many times its
    encoding.
    """
    seen: set[object] = set()
    unseen: list[Any] = [kind]
    while unseen:
        found = unseen.pop()
        if found in (Any, object) or isinstance(found, TypeVar) or found in changed:
            return True
        if isinstance(found, type) and found in seen:
            continue
        seen.add(found)
        # The members of a union, the items of a container, a generic or annotated type, or a NewType.
        unseen += get_args(found)
        unseen += [
            inside
            for inside in (get_origin(found), getattr(found, "__supertype__", None))
            if inside is not None
        ]
        if isinstance(found, type) and issubclass(found, msgspec.Struct):
            unseen += [field.type for field in msgspec.structs.fields(found)]
        elif isinstance(found, type) and issubclass(found, tuple):
            unseen += get_type_hints(found).values()
    return False


class UnreadItem(NamedTuple):
    """One undecodable item of a frame."""

    number: int
    """Its index in the frame, from 0."""
    payload: bytes
    reason: str
    request_id: int = 0
    reply_to: str = ""
    """The reply channel of the sender, if the item is a command and this part is readable; else empty."""


class CommandItems(NamedTuple):
    """The commands of a frame in which at least one is undecodable, in order."""

    items: list[LoggedCommand | UnreadItem]
    written_us: int | None


class MessageItems(NamedTuple):
    """The messages of a frame in which something is undecodable."""

    source: int
    target: int
    first_sequence: int
    items: list[ShardMessage | UnreadItem]
    surplus: int
    """The number of fields beyond those of the frame's format."""
    written_us: int | None


class SkipFrame(NamedTuple):
    """An instruction to skip an entry, and its signature if it has one."""

    skip: SkipEntry
    signed: Signed | None


def frame_items(frame: bytes, count: int) -> memoryview:
    """Return the bytes that follow the head of an array of `count` items: their encodings, concatenated."""
    return memoryview(frame)[1 if count <= _SMALL_ARRAY_MAX else 3 if count <= _MEDIUM_ARRAY_MAX else 5 :]


def frame_of_items(count: int, parts: Iterable[bytes | msgspec.Raw]) -> bytes:
    """Return the encoding of an array of `count` items; `parts` are their encodings, one or several each."""
    if count <= _SMALL_ARRAY_MAX:
        head = bytes((_FIXED_ARRAY + count,))
    elif count <= _MEDIUM_ARRAY_MAX:
        head = b"\xdc" + count.to_bytes(2, "big")
    else:
        head = b"\xdd" + count.to_bytes(4, "big")
    return b"".join((head, *parts))


class _Head(msgspec.Struct, array_like=True):
    number: int
    written_us: int


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


class _Skip(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    number: int
    written_us: int
    commands: tuple[SkipEntry | Signed]


class _UnnumberedMessages(msgspec.Struct, array_like=True):
    source: int
    target: int
    first_sequence: int
    messages: tuple[ShardMessage, ...]


_decode_head = msgpack_decoder(_Head)
_decode_commands = msgpack_decoder(tuple[int, int, list[LoggedCommand]])
_decode_events = msgpack_decoder(_Events)
_decode_raw_events = msgpack_decoder(_RawEvents)
_decode_messages = msgpack_decoder(_Messages)
_unnumbered_commands = msgpack_decoder(list[LoggedCommand])
_unnumbered_events = msgpack_decoder(list[Event])
_unnumbered_messages = msgpack_decoder(_UnnumberedMessages)
_queries = msgpack_decoder(list[Query])
_replies = msgpack_decoder(list[Reply])
_event: Callable[[bytes], Event] = msgpack_decoder(Event)  # type: ignore[arg-type]  # a union is a type to msgspec
_command: Callable[[bytes], LoggedCommand] = msgpack_decoder(LoggedCommand)  # type: ignore[arg-type]  # likewise
_message: Callable[[bytes], ShardMessage] = msgpack_decoder(ShardMessage)  # type: ignore[arg-type]  # likewise
_number = msgpack_decoder(int)
_sender = msgpack_decoder(
    tuple[int, Annotated[int, Meta(ge=0, le=AMOUNT_UNITS_MAX)], Annotated[str, Meta(max_length=200)]]
)
_skip = msgpack_decoder(_Skip)
_skip_body = msgpack_decoder(SkipEntry)
_NUMBERED_FIELDS: Final = 3
_NUMBERED_HEADS: Final = tuple(
    bytes([_FIXED_ARRAY + _NUMBERED_FIELDS, number]) for number in range(UNNUMBERED + 1, FORMAT + 1)
)
"""The first bytes of command and event frames that have a format number."""
_UNNUMBERED_MESSAGES_HEAD: Final = bytes([_FIXED_ARRAY + 4])
_NIL: Final = b"\xc0"
_SINCE_US, _UNTIL_US = 1_500_000_000_000_000, 5_000_000_000_000_000
"""The years 2017 and 2128."""


def format_of(frame: bytes) -> int:
    """Return the format of a frame of commands or events.

    Bytes that are not a frame count as a frame without a number.

    Raises:
        LaterFormatError: this program does not read the format.
    """
    if len(frame) < 2 or not _FIXED_ARRAY < frame[0] < _FIXED_ARRAY_END or frame[1] <= UNNUMBERED:
        return UNNUMBERED
    if frame[1] <= FORMAT:
        return frame[1]
    if frame[1] < _FIXED_NUMBER_END and _is_stamped(frame):
        raise LaterFormatError(frame[1])
    return UNNUMBERED


def _is_stamped(frame: bytes) -> bool:
    """Return whether a frame begins like every frame with a format number.

    Random bytes must not be kept forever as a frame of a later format.
    """
    try:
        return _SINCE_US < _decode_head(frame).written_us < _UNTIL_US
    except msgspec.MsgspecError:
        return False


def encode_commands(
    commands: Sequence[LoggedCommand | msgspec.Raw], written_us: int, number: int = OLDEST_FORMAT
) -> bytes:
    """Return the frame of one `COMMANDS_FIELD`, in format `number`."""
    return encode_as(number, (number, written_us, commands))


def decode_command_frame(frame: bytes) -> tuple[list[LoggedCommand], int | None]:
    """Return the commands of one `COMMANDS_FIELD`, and their writer's clock in microseconds.

    None in format 1.
    """
    if not frame.startswith(_NUMBERED_HEADS) and format_of(frame) == UNNUMBERED:
        return _unnumbered_commands(frame), None
    _, written_us, commands = _decode_commands(frame)
    return commands, written_us


def decode_commands(frame: bytes) -> list[LoggedCommand]:
    """Return the commands of one `COMMANDS_FIELD`."""
    return decode_command_frame(frame)[0]


def decode_command_items(frame: bytes) -> CommandItems:
    """Return the contents of one `COMMANDS_FIELD`, command by command."""
    found, written_us = _items_of(frame, "commands")
    items = _read_each(found, _command)
    return CommandItems(
        [_with_sender(item) if isinstance(item, UnreadItem) else item for item in items],
        written_us,
    )


def raw_commands(frame: bytes) -> list[bytes]:
    """Return the bytes of each command of one `COMMANDS_FIELD`, whether it is decodable or not."""
    return _items_of(frame, "commands")[0]


def _items_of(frame: bytes, name: str) -> tuple[list[bytes], int | None]:
    """Return the items of a frame of commands or events, and its writer's clock; None in format 1."""
    found = array_items(frame)
    if format_of(frame) == UNNUMBERED:
        return found, None
    if len(found) != _NUMBERED_FIELDS:
        raise msgspec.ValidationError(f"a frame of {name} has 3 fields, not {len(found)}")
    _, written_us, items = found
    return array_items(items), _number(written_us)


def _read_each(found: list[bytes], read: Callable[[bytes], T]) -> list[T | UnreadItem]:
    items: list[T | UnreadItem] = []
    for index, payload in enumerate(found):
        try:
            items.append(read(payload))
        except msgspec.MsgspecError as error:
            items.append(UnreadItem(index, payload, str(error)))
    return items


def _with_sender(item: UnreadItem) -> UnreadItem:
    """Return an undecodable command with its sender, as far as the sender is readable.

    Every command begins with its kind, its request id and its reply channel.
    """
    try:
        head = array_items(item.payload)[:3]
        _, request_id, reply_to = _sender(bytes([_FIXED_ARRAY + len(head)]) + b"".join(head))
    except msgspec.MsgspecError:
        return item
    return item._replace(request_id=request_id, reply_to=reply_to)


def encode_skip(skip: SkipEntry | Signed, written_us: int) -> bytes:
    """Return the frame of an instruction to skip an entry.

    The command of a `Signed` must be a `SkipEntry`.
    """
    return encode_as(OLDEST_FORMAT, (OLDEST_FORMAT, written_us, (skip,)))


def decode_skip(frame: bytes) -> SkipEntry:
    """Return the instruction in one `SKIPPED_FIELD` or `skip:{k}`, signed or not."""
    return decode_skip_frame(frame).skip


def decode_skip_frame(frame: bytes) -> SkipFrame:
    """Return the instruction in one `SKIPPED_FIELD` or `skip:{k}`, with its unverified signature."""
    format_of(frame)
    (found,) = _skip(frame).commands
    return (
        SkipFrame(_skip_body(found.command), found) if isinstance(found, Signed) else SkipFrame(found, None)
    )


def encode_events(events: bytes, written_us: int, number: int = OLDEST_FORMAT) -> bytes:
    """Return the frame of one `EVENTS_FIELD`, in format `number`.

    `events` is the array of events, encoded by `encode_as`.
    """
    return b"".join((bytes((_FIXED_ARRAY + 3, number)), encode_frame(written_us), events))


def event_items(frame: bytes) -> bytes | msgspec.Raw:
    """Return the encoded array of events of one `EVENTS_FIELD`."""
    return frame if format_of(frame) == UNNUMBERED else _decode_raw_events(frame).events


def decode_events(frame: bytes) -> list[Event]:
    """Return the events of one `EVENTS_FIELD`."""
    return _unnumbered_events(frame) if format_of(frame) == UNNUMBERED else _decode_events(frame).events


def decode_readable_events(frame: bytes | msgspec.Raw) -> list[Event]:
    """Return the decodable events of an array whose items come from several frames.

    Feeds decode only the heads of events and pass the rest on, so an invalid event must not hide the others.
    """
    try:
        return _unnumbered_events(frame)
    except msgspec.MsgspecError:
        return [
            item for item in _read_each(array_items(bytes(frame)), _event) if not isinstance(item, UnreadItem)
        ]


def raw_events(frame: bytes) -> list[bytes]:
    """Return the bytes of each event of one `EVENTS_FIELD`, whether it is decodable or not."""
    return _items_of(frame, "events")[0]


def only_events(frame: bytes, numbers: Container[int]) -> bytes:
    """Return the frame of one `EVENTS_FIELD` with nil for every event whose index is not in `numbers`.

    The indexes are those of `raw_events`.
    """
    events = [
        msgspec.Raw(event if number in numbers else _NIL) for number, event in enumerate(raw_events(frame))
    ]
    if format_of(frame) == UNNUMBERED:
        return encode_frame(events)
    number, written_us, _ = array_items(frame)
    return encode_frame((msgspec.Raw(number), msgspec.Raw(written_us), events))


def events_put_aside(frame: bytes) -> list[tuple[int, Event]]:
    """Return the events of a whole frame, or of one made by `only_events`, each with its index in the frame.

    Raises:
        msgspec.MsgspecError: one of the events, or the frame, is undecodable.
    """
    return [(number, _event(event)) for number, event in enumerate(raw_events(frame)) if event != _NIL]


def decode_event_items(frame: bytes) -> list[Event | UnreadItem]:
    """Return the contents of one `EVENTS_FIELD`, event by event."""
    return _read_each(raw_events(frame), _event)


def encode_messages(frame: MessageFrame, number: int = OLDEST_FORMAT) -> bytes:
    """Return the frame of one `MESSAGES_FIELD`, in format `number`; a frame without a stamp has format 1."""
    *parts, written_us = frame
    return encode_frame(parts) if written_us is None else encode_as(number, (number, written_us, *parts))


def decode_messages(frame: bytes) -> MessageFrame:
    """Return the contents of one `MESSAGES_FIELD`.

    It is an array of four items in format 1, and of more in later formats.
    """
    read: _Messages | _UnnumberedMessages
    if frame[:1] == _UNNUMBERED_MESSAGES_HEAD or format_of(frame) == UNNUMBERED:
        read, written_us = _unnumbered_messages(frame), None
    else:
        read = _decode_messages(frame)
        written_us = read.written_us
    if read.first_sequence < 1:
        raise msgspec.ValidationError("messages are numbered from 1 on")
    return MessageFrame(read.source, read.target, read.first_sequence, read.messages, written_us)


def decode_message_items(frame: bytes) -> MessageItems:
    """Return the contents of one `MESSAGES_FIELD`, message by message; unknown fields may follow."""
    found, written_us = array_items(frame), None
    fields = _UnnumberedMessages.__struct_fields__
    if frame[:1] != _UNNUMBERED_MESSAGES_HEAD and format_of(frame) != UNNUMBERED:
        written_us = _number(found[1])
        found = found[2:]
    if len(found) < len(fields):
        raise msgspec.ValidationError(
            f"a frame of messages has {len(fields)} fields behind its stamp, not {len(found)}"
        )
    source, target, first_sequence = (_number(each) for each in found[:3])
    if first_sequence < 1:
        raise msgspec.ValidationError("messages are numbered from 1 on")
    items = _read_each(array_items(found[3]), _message)
    return MessageItems(source, target, first_sequence, items, len(found) - len(fields), written_us)


def decode_queries(frame: bytes) -> list[Query]:
    """Return the queries of one `QUERIES_FIELD`."""
    return _queries(frame)


def decode_replies(frame: bytes) -> list[Reply]:
    """Return the replies of one published reply frame."""
    return _replies(frame)
