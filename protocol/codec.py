"""Frames: how commands, events, messages, queries and replies become bytes and back (msgpack).

Decoders raise `msgspec.MsgspecError` (a `ValueError`) on bytes that are not such a frame.
"""

from collections.abc import Callable

import msgspec

from protocol.commands import Command, MessageFrame
from protocol.decoding import msgpack_decoder
from protocol.events import Event
from protocol.replies import Query, Reply

encode_frame = msgspec.msgpack.Encoder().encode
"""Encode any one frame: a sequence of commands, events, queries or replies, or a MessageFrame."""

_SMALL_ARRAY_MAX, _MEDIUM_ARRAY_MAX = 15, 2**16 - 1


def frame_items(frame: bytes, count: int) -> memoryview:
    """Return what follows the head of a frame of `count` items: their encodings, one after the other."""
    return memoryview(frame)[1 if count <= _SMALL_ARRAY_MAX else 3 if count <= _MEDIUM_ARRAY_MAX else 5 :]


_commands = msgpack_decoder(list[Command])
_events = msgpack_decoder(list[Event])
_queries = msgpack_decoder(list[Query])
_replies = msgpack_decoder(list[Reply])
_messages = msgpack_decoder(MessageFrame)
_raw_items = msgpack_decoder(list[msgspec.Raw])
_event: Callable[[msgspec.Raw], Event] = msgpack_decoder(Event)  # type: ignore[arg-type]  # a union is a type to msgspec


def decode_commands(frame: bytes) -> list[Command]:
    """Return the commands of one `COMMANDS_FIELD`."""
    return _commands(frame)


def decode_events(frame: bytes) -> list[Event]:
    """Return the events of one `EVENTS_FIELD`."""
    return _events(frame)


def decode_readable_events(frame: bytes) -> list[Event]:
    """Return the events of a frame whose items come from several others, without those that cannot be read.

    Feeds read only the heads of events and pass the rest on, so one that a stranger wrote must not hide the others.
    """
    try:
        return _events(frame)
    except msgspec.MsgspecError:
        return [event for item in _raw_items(frame) for event in _event_or_nothing(item)]


def _event_or_nothing(item: msgspec.Raw) -> list[Event]:
    try:
        return [_event(item)]
    except msgspec.MsgspecError:
        return []


def decode_queries(frame: bytes) -> list[Query]:
    """Return the queries of one `QUERIES_FIELD`."""
    return _queries(frame)


def decode_replies(frame: bytes) -> list[Reply]:
    """Return the replies of one published reply frame."""
    return _replies(frame)


def decode_messages(frame: bytes) -> MessageFrame:
    """Return the message frame of one `MESSAGES_FIELD`."""
    return _messages(frame)
