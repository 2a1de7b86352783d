"""A format does not change once a release writes it: what grows is said in `FIELDS_BEFORE`, under a new
number."""

import msgspec
import pytest

from protocol.codec import FIELDS_BEFORE, FORMAT, OLDEST_FORMAT, encode_as
from protocol.configuration import ShardConfig
from tests.support.formats import Shapes, golden, shapes

HOW = (
    "A field or member was added, taken away or changed. Where a release has written this format, or other "
    "machines may run it, it takes a new one (docs/decisions/0027-a-release-is-switched-on.md). Otherwise "
    "write its file anew: python -m tests.support.formats"
)


@pytest.mark.parametrize("number", range(OLDEST_FORMAT, FORMAT + 1))
def test_a_format_has_the_shape_that_is_written_down(number: int) -> None:
    assert shapes(number) == msgspec.json.decode(golden(number).read_bytes(), type=Shapes).shapes, HOW


def test_a_new_field_is_seen_until_it_is_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """`in_flight_max` was added to format 2, which no release had written, and no test saw it."""
    written = msgspec.json.decode(golden(FORMAT).read_bytes(), type=Shapes).shapes
    name = f"{ShardConfig.__module__}.{ShardConfig.__qualname__}"
    fields = written[name][1]
    assert fields[-1] == "in_flight_max: int"
    monkeypatch.setitem(FIELDS_BEFORE, FORMAT, {ShardConfig: len(fields) - 1})
    before = shapes(FORMAT)
    assert before[name][1] == fields[:-1]
    assert before != written
    # What the shape says is what is encoded.
    assert len(msgspec.msgpack.decode(encode_as(FORMAT, ShardConfig()))) == len(before[name][1])
