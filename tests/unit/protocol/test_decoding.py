"""Whatever the bytes are, a decoder refuses them with the one error that its readers expect."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from lab.simulation.undecodable_frames import BROKEN_TEXT, DEEP
from protocol.codec import (
    decode_commands,
    decode_events,
    decode_messages,
    decode_queries,
    decode_readable_events,
    decode_replies,
    encode_frame,
    frame_items,
)
from protocol.decoding import json_decoder, msgpack_decoder
from protocol.events import FundsDeposited
from protocol.replies import Refused
from protocol.units import AccountId, AssetUnits, TimeMs

DECODERS = (decode_commands, decode_messages, decode_events, decode_queries, decode_replies)


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize("frame", [*BROKEN_TEXT, *DEEP, b"", b"\xc1", b"\xdd\xff\xff\xff\xff"])
def test_every_decoder_refuses_garbage_with_the_error_that_readers_expect(
    decode: Callable[[bytes], Any], frame: bytes
) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode(frame)


@pytest.mark.parametrize(("decode", "broken", "deep"), [*zip(DECODERS, BROKEN_TEXT, DEEP, strict=True)])
def test_each_kind_of_frame_has_garbage_that_only_this_error_stands_for(
    decode: Callable[[bytes], Any], broken: bytes, deep: bytes
) -> None:
    with pytest.raises(msgspec.DecodeError, match="text that is not UTF-8"):
        decode(broken)
    if decode is not decode_replies:  # an enum's name comes last in it
        with pytest.raises(
            msgspec.DecodeError, match=r"nested too deeply|Expected `array` of at most length"
        ):
            decode(deep)


def test_the_library_alone_raises_other_errors() -> None:
    # The control, and the reason: when it raises only its own, the wrapper may go.
    with pytest.raises(UnicodeDecodeError):
        msgspec.msgpack.Decoder(list[Refused]).decode(BROKEN_TEXT[-1])
    with pytest.raises(RecursionError):
        msgspec.msgpack.decode(b"\x91" * 100_000)


def test_an_event_that_cannot_be_read_does_not_hide_the_others() -> None:
    deposit = FundsDeposited(TimeMs(1), AccountId(1), "USDT", AssetUnits(1), "t", ())
    broken = msgspec.Raw(frame_items(BROKEN_TEXT[2], 1))
    frame = encode_frame([deposit, broken, deposit])
    with pytest.raises(msgspec.MsgspecError):
        decode_events(frame)
    assert decode_readable_events(frame) == [deposit, deposit]
    with pytest.raises(msgspec.MsgspecError):
        decode_readable_events(b"\xc1")


def test_json_too() -> None:
    for payload in (b'{"a": "\xfa"}', b"[" * 100_000):
        with pytest.raises(msgspec.MsgspecError):
            json_decoder(dict[str, Any])(payload)
    assert json_decoder(dict[str, int])(b'{"a": 1}') == {"a": 1}
    assert msgpack_decoder(list[int])(b"\x91\x01") == [1]
