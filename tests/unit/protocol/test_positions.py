"""What the values of `pos:{k}`, of its companions, of leases and of standbys say, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.lease import Leader, Standby
from protocol.positions import NEW_SHARD, ShardPosition, StateChecksum, Takeovers
from protocol.stream_id import STREAM_START, StreamId
from tests.support.stream_ids import IDS

NAMES = st.text(st.characters(exclude_characters="|", exclude_categories=["Cs"]), max_size=20)
COUNTS = st.integers(0, 2**53)


@given(COUNTS, IDS)
def test_a_position_is_read_as_it_is_written(epoch: int, stream_id: StreamId) -> None:
    position = ShardPosition(epoch, stream_id)
    value = position.encode()
    assert value == f"{epoch}|{stream_id}"
    assert ShardPosition.parse(value) == ShardPosition.parse(value.encode()) == position


@pytest.mark.parametrize("value", [None, b"", ""])
def test_without_a_value_a_shard_is_new(value: str | bytes | None) -> None:
    assert ShardPosition.parse(value) == NEW_SHARD == (0, STREAM_START)
    assert NEW_SHARD.encode() == "0|0-0"


@pytest.mark.parametrize("value", ["x", "1", "|5-0", "1|", "1|x", "x|5-0", "1|5-0|2", "5-0"])
def test_what_says_no_position_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="invalid literal for int"):
        ShardPosition.parse(value)
    with pytest.raises(ValueError, match="invalid literal for int"):
        ShardPosition.parse(value.encode())


@given(IDS, NAMES)
def test_a_checksum_is_read_as_it_is_written(stream_id: StreamId, text: str) -> None:
    checksum = StateChecksum(stream_id, text)
    assert checksum.encode() == f"{stream_id}|{text}"
    assert (
        StateChecksum.parse(checksum.encode().encode()) == StateChecksum.parse(checksum.encode()) == checksum
    )


@given(IDS, COUNTS)
def test_takeovers_are_read_as_the_script_writes_them(stream_id: StreamId, count: int) -> None:
    assert Takeovers.parse(f"{stream_id}|{count}".encode()) == Takeovers(stream_id, count)


@pytest.mark.parametrize("value", ["", "x|1", "5-0|", "5-0"])
def test_what_says_nothing_of_takeovers_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="invalid literal for int"):
        Takeovers.parse(value)


@given(st.builds(Leader, NAMES, COUNTS, COUNTS, COUNTS, COUNTS, NAMES))
def test_a_lease_is_read_as_it_is_written(leader: Leader) -> None:
    assert leader.encode() == f"{leader.epoch}|{leader.text()}"
    assert Leader.parse(leader.encode()) == Leader.parse(leader.encode().encode()) == leader


@given(st.builds(Standby, NAMES, COUNTS, IDS, COUNTS, COUNTS))
def test_a_standby_is_read_as_it_is_written(standby: Standby) -> None:
    value = f"{standby.text()}|1000"
    assert Standby.parse(standby.process, value.encode(), 1_000 + standby.age_ms) == standby
    assert Standby.parse(standby.process, value, 0) == standby._replace(age_ms=0)


@pytest.mark.parametrize("value", ["", "1|5-0|2", "1|5-0|2|3|4", "1|x|2|3"])
def test_what_names_no_leader_and_no_standby_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"unpack|invalid literal"):
        Standby.parse("engine-0", value, 0)
    with pytest.raises(ValueError, match="unpack"):
        Leader.parse(value)
