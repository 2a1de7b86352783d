"""A frame of which one item is not understood still says what the others are."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.simulation.undecodable_frames import NESTING
from protocol.codec import (
    FORMAT,
    UnreadItem,
    decode_command_items,
    decode_event_items,
    decode_message_items,
    decode_skip,
    encode_commands,
    encode_events,
    encode_frame,
    encode_messages,
    encode_skip,
)
from protocol.commands import CancelMissed, CancelOrder, MessageFrame, SkipEntry
from protocol.decoding import array_items
from protocol.events import FundsReleased
from protocol.units import AccountId, OrderId, TimeMs

NOW_US = 1_795_000_000_123_456
CANCEL = CancelOrder(7, "r", AccountId(5), "BTCUSDT", OrderId(100))
RELEASED = FundsReleased(TimeMs(1), AccountId(5), ())
MISSED = CancelMissed(OrderId(100), AccountId(5), "BTCUSDT", 7, "r")

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=40)
    | st.builds(msgspec.msgpack.Ext, st.integers(-128, 127), st.binary(max_size=20)),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=5), inner, max_size=20),
    max_leaves=30,
)


@given(st.lists(values, max_size=20))
def test_an_array_is_split_into_its_items(items: list[object]) -> None:
    assert array_items(encode_frame(items)) == [encode_frame(item) for item in items]


@pytest.mark.parametrize("size", [31, 32, 255, 256, 65_535, 65_536])
def test_every_length_is_understood(size: int) -> None:
    items = [
        "x" * size,
        b"x" * size,
        [0] * size,
        dict.fromkeys(range(size)),
        msgspec.msgpack.Ext(5, b"x" * size),
    ]
    assert array_items(encode_frame(items)) == [encode_frame(item) for item in items]
    assert len(array_items(encode_frame([0] * size))) == size


@given(st.lists(values, min_size=1, max_size=5), st.data())
def test_what_is_cut_off_or_goes_on_is_no_array(items: list[object], data: st.DataObject) -> None:
    frame = encode_frame(items)
    end = data.draw(st.integers(0, len(frame) - 1))
    for wrong in (frame[:end], frame + b"\x00"):
        with pytest.raises(msgspec.DecodeError):
            array_items(wrong)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(payload: bytes) -> None:
    try:
        items = array_items(payload)
    except msgspec.DecodeError:
        return
    assert b"".join(items) == payload[len(payload) - sum(map(len, items)) :]


UNKNOWN = {
    "a kind of a later release": b"\x95\x63\x09\xa3new\x01\x02",
    "text that is not UTF-8": encode_frame(CANCEL)
    .replace(b"BTCUSDT", b"BTC\xff\xfeDT")
    .replace(b"\x07\xa1r", b"\x09\xa3new"),
    "deep nesting": b"\x94\x02\x09\xa3new" + b"\x91" * NESTING + b"\xc0",
    "a number out of range": encode_frame([2, 9, "new", 2**63, "BTCUSDT", 1]),
    "a field too many": encode_frame([2, 9, "new", 5, "BTCUSDT", 100, "", "", 0, "more"]),
    "a member of an enumeration": encode_frame([1, 9, "new", 5, "c", "BTCUSDT", 3, 1, 1, 1, 1]),
}


@pytest.mark.parametrize("unknown", UNKNOWN.values(), ids=UNKNOWN.keys())
@pytest.mark.parametrize("is_stamped", [True, False])
def test_one_command_that_is_not_understood(unknown: bytes, is_stamped: bool) -> None:
    if is_stamped:
        frame = encode_commands([CANCEL, CANCEL], NOW_US)
        items = b"\x93" + encode_frame(CANCEL) + unknown + encode_frame(CANCEL)
        frame = frame[: -len(encode_frame([CANCEL, CANCEL]))] + items
    else:
        frame = b"\x93" + encode_frame(CANCEL) + unknown + encode_frame(CANCEL)
    read = decode_command_items(frame)
    assert read.written_us == (NOW_US if is_stamped else None)
    first, second, third = read.items
    assert (first, third) == (CANCEL, CANCEL)
    assert isinstance(second, UnreadItem)
    assert (second.number, second.payload, second.request_id, second.reply_to) == (1, unknown, 9, "new")


@pytest.mark.parametrize(
    "item", [17, "text", [], [99], [99, "x", "r"], [99, -1, "r"], [99, 1, b"r"], [99, 1, "r" * 201]]
)
def test_whoever_cannot_be_read_is_nobody(item: object) -> None:
    (unread,) = decode_command_items(encode_frame([item])).items
    assert isinstance(unread, UnreadItem)
    assert (unread.request_id, unread.reply_to) == (0, "")


@pytest.mark.parametrize("wrong", [[2, NOW_US], [2, NOW_US, [], 1], [2, "x", []], [2, NOW_US, 5], {}, 7])
def test_what_is_no_frame_is_garbage(wrong: object) -> None:
    frame = encode_frame(wrong)
    for decode in (decode_command_items, decode_event_items):
        with pytest.raises(msgspec.MsgspecError):
            decode(frame)


def test_one_event_that_is_not_understood() -> None:
    items = b"\x92" + encode_frame([99, 1]) + encode_frame(RELEASED)
    for frame in (items, encode_events(items, NOW_US)):
        unread, event = decode_event_items(frame)
        assert isinstance(unread, UnreadItem)
        assert (unread.number, unread.payload) == (0, encode_frame([99, 1]))
        assert event == RELEASED


def test_one_message_that_is_not_understood() -> None:
    stamped = encode_frame((FORMAT, NOW_US, 1, 0, 9, [MISSED, [99, 1]]))
    for frame, written_us in ((stamped, NOW_US), (encode_frame((1, 0, 9, [MISSED, [99, 1]])), None)):
        read = decode_message_items(frame)
        assert (read.source, read.target, read.first_sequence, read.surplus, read.written_us) == (
            1,
            0,
            9,
            0,
            written_us,
        )
        message, unread = read.items
        assert message == MISSED
        assert isinstance(unread, UnreadItem)
        assert unread.number == 1
    assert decode_message_items(encode_frame((FORMAT, NOW_US, 1, 0, 9, [MISSED], "more"))).surplus == 1


@pytest.mark.parametrize(
    "wrong", [(FORMAT, NOW_US, 1, 0, 9), (FORMAT, NOW_US, 1, "x", 9, []), (1, 0, 0, []), (1, 0, 9, 5)]
)
def test_mail_that_does_not_say_whose_it_is_is_garbage(wrong: tuple[object, ...]) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_message_items(encode_frame(wrong))


def test_an_instruction_to_skip_is_a_frame_of_its_own() -> None:
    skip = SkipEntry(0, "", "5-0", "ada", "unknown mail")
    frame = encode_skip(skip, NOW_US)
    assert frame == encode_frame((2, NOW_US, [[32, 0, "", "5-0", "ada", "unknown mail", True]]))
    assert decode_skip(frame) == skip
    for wrong in (
        b"",
        encode_commands([CANCEL], NOW_US),
        encode_messages(MessageFrame(1, 0, 1, (MISSED,), NOW_US)),
    ):
        with pytest.raises(msgspec.MsgspecError):
            decode_skip(wrong)
    for empty in ("operator", "reason"):
        with pytest.raises(msgspec.ValidationError):
            decode_skip(encode_skip(msgspec.structs.replace(skip, **{empty: ""}), NOW_US))
