"""Frames carry their format and their writer's clock.

Docs/formats.md has the bytes that are written out here by hand.
"""

import msgspec
import pytest

from engine_worker.first_configuration import DEFAULT_CONFIG
from protocol.codec import (
    FORMAT,
    LaterFormatError,
    decode_command_frame,
    decode_events,
    decode_messages,
    encode_commands,
    encode_events,
    encode_frame,
    encode_messages,
    event_items,
    format_of,
)
from protocol.commands import CancelMissed, CancelOrder, MessageFrame, PlaceOrder
from protocol.configuration import ShardConfig
from protocol.events import FundsReleased
from protocol.units import AccountId, OrderId, TimeMs

NOW_US = 1_795_000_000_123_456
STAMP = b"\xcf" + NOW_US.to_bytes(8, "big")
CANCEL = CancelOrder(7, "r", AccountId(5), "BTCUSDT", OrderId(100))
RELEASED = FundsReleased(TimeMs(1), AccountId(5), ())
MISSED = CancelMissed(OrderId(100), AccountId(5), "BTCUSDT", 7, "r")


def test_a_frame_begins_with_its_format_and_its_writers_clock() -> None:
    assert encode_commands([CANCEL], NOW_US) == b"\x93\x02" + STAMP + encode_frame([CANCEL])
    assert encode_events(encode_frame([RELEASED]), NOW_US) == b"\x93\x02" + STAMP + encode_frame([RELEASED])
    messages = MessageFrame(1, 0, 9, (MISSED,), NOW_US)
    assert encode_messages(messages) == b"\x96\x02" + STAMP + b"\x01\x00\x09" + encode_frame([MISSED])


def test_a_market_order_that_was_written_before_books_bounded_them_keeps_its_protective_price() -> None:
    """Its bytes are those of format 2 as they were: an array of the kind and 15 fields, with the price 105 as
    its ninth."""
    before = [1, 7, "r", 5, "mine", "BTCUSDT", 1, 3, 2, 105, 3, 0, 2, 0, "", None]
    frame = b"\x93\x02" + STAMP + b"\x91\xdc\x00\x10" + encode_frame(before)[3:]
    ((order,), _) = decode_command_frame(frame)
    assert isinstance(order, PlaceOrder)
    assert (order.price, order.bound_by_book) == (105, False)


def test_a_shard_that_was_configured_before_open_orders_were_bounded_bounds_none() -> None:
    before = [1, [50_000, 600_000, 10_000, 1], 1, [], 0, b"", 100, 2, 1]
    assert msgspec.msgpack.decode(encode_frame(before), type=ShardConfig).open_orders_max == 0
    assert DEFAULT_CONFIG.open_orders_max == 1_000


def test_a_shard_that_was_configured_before_it_had_credit_has_any() -> None:
    before = [1, [50_000, 600_000, 10_000, 1], 1, [], 0, b"", 100, 2, 1, 1_000]
    assert msgspec.msgpack.decode(encode_frame(before), type=ShardConfig).in_flight_max == 0
    assert DEFAULT_CONFIG.in_flight_max == 10_000


def test_what_is_written_is_read() -> None:
    assert decode_command_frame(encode_commands([CANCEL], NOW_US)) == ([CANCEL], NOW_US)
    assert decode_events(encode_events(encode_frame([RELEASED]), NOW_US)) == [RELEASED]
    messages = MessageFrame(1, 0, 9, (MISSED,), NOW_US)
    assert decode_messages(encode_messages(messages)) == messages


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 6, 15, 16, 70_000])
def test_frames_without_a_number_are_still_read(count: int) -> None:
    assert decode_command_frame(encode_frame([CANCEL] * count)) == ([CANCEL] * count, None)
    events = encode_frame([RELEASED] * count)
    assert decode_events(events) == [RELEASED] * count
    assert event_items(events) == events


@pytest.mark.parametrize("source", [0, 1, FORMAT, FORMAT + 1, 99])
def test_messages_without_a_number_are_still_read(source: int) -> None:
    frame = encode_frame((source, 3, 1, [MISSED]))
    assert decode_messages(frame) == MessageFrame(source, 3, 1, (MISSED,), None)
    assert encode_messages(decode_messages(frame)) == frame


LATER = (FORMAT + 1, NOW_US, [["what", {"nobody": "knows"}]], "and more")


@pytest.mark.parametrize("decode", [decode_command_frame, decode_events, event_items, format_of])
def test_what_a_later_release_wrote_is_no_garbage(decode: object) -> None:
    with pytest.raises(LaterFormatError, match=f"has format {FORMAT + 1}, this program reads up to {FORMAT}"):
        decode(encode_frame(LATER))  # type: ignore[operator]


def test_messages_of_a_later_release_are_no_garbage() -> None:
    with pytest.raises(LaterFormatError):
        decode_messages(encode_frame((FORMAT + 1, NOW_US, 1, 0, 1, ["news"], "and more")))


@pytest.mark.parametrize(
    "frame",
    [
        encode_frame((FORMAT + 1, 5, [])),  # its clock says 1970
        encode_frame((FORMAT + 1, "now", [])),
        encode_frame((200, NOW_US, [])),  # numbers are of one byte
        encode_frame((0, NOW_US, [])),
        encode_frame((1, NOW_US, [])),
        encode_frame((FORMAT, NOW_US)),
        encode_frame((FORMAT, NOW_US, [], 1)),
        encode_frame((FORMAT, NOW_US, [[99, 1]])),
        encode_frame((FORMAT, NOW_US, [[*msgspec.to_builtins(CANCEL), "one field more"]])),
        b"\x93\x03\xcf\x00",
        b"\x93\x02",
        b"\x93",
        b"",
    ],
)
def test_what_is_no_frame_of_any_release_is_garbage(frame: bytes) -> None:
    for decode in (decode_command_frame, decode_events):
        with pytest.raises(msgspec.MsgspecError):
            decode(frame)


@pytest.mark.parametrize("first", [0, -1])
def test_messages_are_numbered_from_1_on(first: int) -> None:
    for frame in (encode_frame((1, 0, first, [])), encode_frame((FORMAT, NOW_US, 1, 0, first, []))):
        with pytest.raises(msgspec.MsgspecError):
            decode_messages(frame)
