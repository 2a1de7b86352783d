"""Frames: how commands, events, messages, queries and replies become bytes and back (msgpack).

Decoders raise `msgspec.MsgspecError` (a `ValueError`) on bytes that are not such a frame.
"""

import msgspec

from protocol.commands import Command, MessageFrame
from protocol.events import Event
from protocol.replies import Query, Reply

encode_frame = msgspec.msgpack.Encoder().encode
"""Encode any one frame: a sequence of commands, events, queries or replies, or a MessageFrame."""

_SMALL_ARRAY_MAX, _MEDIUM_ARRAY_MAX = 15, 2**16 - 1


def frame_items(frame: bytes, count: int) -> memoryview:
    """Return what follows the head of a frame of `count` items: their encodings, one after the other."""
    return memoryview(frame)[1 if count <= _SMALL_ARRAY_MAX else 3 if count <= _MEDIUM_ARRAY_MAX else 5 :]


_commands = msgspec.msgpack.Decoder(list[Command])
_events = msgspec.msgpack.Decoder(list[Event])
_queries = msgspec.msgpack.Decoder(list[Query])
_replies = msgspec.msgpack.Decoder(list[Reply])
_messages = msgspec.msgpack.Decoder(MessageFrame)


def decode_commands(frame: bytes) -> list[Command]:
    """Return the commands of one `COMMANDS_FIELD`."""
    return _commands.decode(frame)


def decode_events(frame: bytes) -> list[Event]:
    """Return the events of one `EVENTS_FIELD`."""
    return _events.decode(frame)


def decode_queries(frame: bytes) -> list[Query]:
    """Return the queries of one `QUERIES_FIELD`."""
    return _queries.decode(frame)


def decode_replies(frame: bytes) -> list[Reply]:
    """Return the replies of one published reply frame."""
    return _replies.decode(frame)


def decode_messages(frame: bytes) -> MessageFrame:
    """Return the message frame of one `MESSAGES_FIELD`."""
    return _messages.decode(frame)
