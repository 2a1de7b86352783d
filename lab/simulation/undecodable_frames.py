"""Bytes that look like frames and are none: what decoders refuse in ways of their own."""

from typing import Final

from protocol.codec import encode_frame, encode_messages
from protocol.commands import CancelAllOrders, MessageFrame, RestingClosed
from protocol.events import FundsDeposited
from protocol.orders import RejectReason
from protocol.replies import OpenOrdersQuery, Refused
from protocol.units import AccountId, AssetUnits, OrderId, TimeMs

NESTING: Final = 100_000
_TEXT: Final = b"XXXX"
_NO_TEXT: Final = b"XX\xfaX"
_name = _TEXT.decode()

_frames: Final = (
    encode_frame([CancelAllOrders(1, "garbage", AccountId(1), _name)]),
    # From a shard to itself, which is nobody's mail: what a shard may have sent to another would halt that,
    # since it may carry money.
    encode_messages(MessageFrame(0, 0, 1, (RestingClosed(OrderId(1), AccountId(1), _name),))),
    encode_frame([FundsDeposited(TimeMs(1), AccountId(1), "USDT", AssetUnits(1), _name, ())]),
    encode_frame([OpenOrdersQuery(1, "garbage", AccountId(1), _name)]),
    encode_frame([Refused(1, TimeMs(1), RejectReason.UNKNOWN_ORDER)]).replace(
        b"unknown_order", b"unkn" + _TEXT + b"order"
    ),
)
"""Of each kind: commands, messages, events, queries, replies."""


def _deep(frame: bytes) -> bytes:
    """Return the frame with an additional field in its first item or itself: deeply nested arrays."""
    at = 0 if frame[1] < 0x90 or frame[1] > 0x9E else 1
    return frame[:at] + bytes([frame[at] + 1]) + frame[at + 1 :] + b"\x91" * NESTING + b"\xc0"


BROKEN_TEXT: Final = tuple(frame.replace(_TEXT, _NO_TEXT) for frame in _frames)
"""A well-formed frame of each kind with a name that is not UTF-8."""
DEEP: Final = tuple(_deep(frame) for frame in _frames)
"""A frame of each kind with a field that no program knows, nested deeply."""
