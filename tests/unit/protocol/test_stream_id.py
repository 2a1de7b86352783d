"""Ids of stream entries: they follow on each other as Redis has them, and keep the text that Redis, the
database and snapshots hold."""

import msgspec
import pytest
from hypothesis import given

from engine_worker.core.shard import Shard
from engine_worker.core.snapshot import (
    decode_snapshot,
    encode_snapshot,
    snapshot_stream_id,
    state_hash,
    whole_body,
)
from persist.segments import merged, pack, unpack
from protocol.market import MarketMap
from protocol.stream_id import NOTHING_NEEDED, NUMBER_MAX, STREAM_START, StreamId
from stream_log.interface import DeadLetter
from tests.support.stream_ids import IDS


@given(IDS)
def test_an_id_is_read_as_it_is_written(stream_id: StreamId) -> None:
    text = str(stream_id)
    assert text == f"{stream_id}" == f"{stream_id.ms}-{stream_id.number}"
    assert StreamId.parse(text) == StreamId.parse(text.encode()) == stream_id
    assert str(StreamId.parse(text)) == text


@given(IDS, IDS)
def test_ids_are_in_the_order_of_their_numbers(one: StreamId, other: StreamId) -> None:
    assert (one < other) == (one.ms < other.ms or (one.ms == other.ms and one.number < other.number))
    assert (one == other) == (str(one) == str(other))


@pytest.mark.parametrize(
    ("smaller", "larger"), [("9-0", "10-0"), ("5-9", "5-10"), ("5-18446744073709551615", "6-0")]
)
def test_ids_are_not_in_the_order_of_their_texts(smaller: str, larger: str) -> None:
    assert StreamId.parse(smaller) < StreamId.parse(larger)


def test_an_id_without_a_number_is_the_first_of_its_millisecond() -> None:
    assert (
        StreamId.parse("5") == StreamId.parse(b"5") == StreamId.parse("5-") == StreamId(5) == StreamId(5, 0)
    )


@pytest.mark.parametrize(
    "text", ["", "-", "-5", "x", "x-0", "5-x", "5-0-0", "5-0|", "0x5-0", "*", "$", "(5-0"]
)
def test_what_names_no_entry_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invalid literal for int"):
        StreamId.parse(text)
    with pytest.raises(ValueError, match="invalid literal for int"):
        StreamId.parse(text.encode())


@given(IDS.filter(lambda stream_id: stream_id != STREAM_START))
def test_the_preceding_id_is_followed_by_this_one(stream_id: StreamId) -> None:
    assert stream_id.preceding() < stream_id
    assert stream_id.preceding().following() == stream_id


def test_the_neighbours_of_the_first_and_the_last_id_of_a_millisecond() -> None:
    assert StreamId(5).preceding() == StreamId(4, NUMBER_MAX)
    assert StreamId(4, NUMBER_MAX).following() == StreamId(5)
    assert (StreamId(5, 3).preceding(), StreamId(5, 3).following()) == (StreamId(5, 2), StreamId(5, 4))


def test_the_constants() -> None:
    assert (str(STREAM_START), str(NOTHING_NEEDED)) == ("0-0", "18446744073709551615-0")
    assert STREAM_START < StreamId(0, 1) < NOTHING_NEEDED


@given(IDS)
def test_what_is_stored_of_an_id_is_its_text(stream_id: StreamId) -> None:
    assert DeadLetter("in:{0}", stream_id, "", b"").fields()[b"id"] == str(stream_id).encode()
    segment = pack([(stream_id, {b"c": b"x"})])
    assert (segment.first_id, segment.last_id) == (stream_id, stream_id)
    assert unpack(segment.payload) == [(stream_id, {b"c": b"x"})]
    assert merged([segment.payload] * 2, 1).raw_bytes == len(
        msgspec.msgpack.encode([(str(stream_id), {b"c": b"x"})] * 2)
    )
    snapshot = encode_snapshot(Shard(0, MarketMap.placed([], 1)), stream_id)
    assert msgspec.msgpack.decode(whole_body(snapshot))[1] == str(stream_id)
    assert snapshot_stream_id(snapshot) == decode_snapshot(snapshot)[1] == stream_id


def test_a_snapshot_that_is_only_hashed_has_no_id() -> None:
    shard = Shard(0, MarketMap.placed([], 1))
    assert msgspec.msgpack.decode(whole_body(encode_snapshot(shard, None)))[1] == ""
    assert state_hash(shard) == state_hash(Shard(0, MarketMap.placed([], 1)))
