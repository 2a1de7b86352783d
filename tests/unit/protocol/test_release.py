"""What a release reads and writes, in numbers; and a value as an earlier format has it."""

from typing import Generic, NamedTuple, TypeVar, get_args

import msgspec
import pytest

from protocol.codec import FIELDS_BEFORE, FORMAT, OLDEST_FORMAT, _has_any_of, encode_as
from protocol.commands import LoggedCommand, ShardMessage, SignedBody, SkipEntry
from protocol.configuration import RULES, ShardConfig
from protocol.events import Event
from protocol.release import KINDS, LEVELS, Release, release_of, this_release, why_later, why_too_early


def test_every_kind_has_a_level() -> None:
    """Whoever adds a kind says from which level on it may be produced."""
    unions = (LoggedCommand, SignedBody, ShardMessage, Event)
    assert LEVELS.keys() == {SkipEntry} | {kind for union in unions for kind in get_args(union)}
    assert set(LEVELS.values()) <= set(range(1, KINDS + 1))


def test_new_kinds_come_with_a_new_format() -> None:
    """A process of an earlier release that starts after the switch waits in front of a frame, and puts no
    event aside."""
    assert KINDS < FORMAT
    assert OLDEST_FORMAT in (FORMAT - 1, FORMAT)


def test_a_configuration_that_says_nothing_is_of_the_first_numbers() -> None:
    config = msgspec.msgpack.decode(msgspec.msgpack.encode([1]), type=ShardConfig)
    assert release_of(config) == Release(2, 1, 1)
    assert (this_release(), why_later(config), why_too_early(config)) == (
        Release(FORMAT, KINDS, RULES),
        None,
        None,
    )


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (ShardConfig(format=FORMAT + 1), f"writes format {FORMAT + 1}, this program reads up to {FORMAT}"),
        (
            ShardConfig(kinds=KINDS + 1),
            f"writes kinds of level {KINDS + 1}, this program reads up to {KINDS}",
        ),
        (ShardConfig(rules=RULES + 1), f"follows rules {RULES + 1}, this program knows them up to {RULES}"),
    ],
)
def test_what_only_a_later_program_follows(config: ShardConfig, reason: str) -> None:
    assert why_later(config) == reason


def test_what_only_an_earlier_program_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocol.codec.OLDEST_FORMAT", 3)
    assert why_too_early(ShardConfig(format=2)) == "writes format 2, this program writes 3 and later ones"
    assert why_too_early(ShardConfig(format=3)) is None
    monkeypatch.setattr("protocol.release.OLDEST_RULES", 2)
    assert why_too_early(ShardConfig(format=3)) == "follows rules 1, this program knows them from 2 on"


T = TypeVar("T")


class Inner(msgspec.Struct, frozen=True, array_like=True):
    """Without a tag; `b` is new."""

    a: int
    b: int = 0


class Outer(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """With one; `more` is new."""

    inner: tuple[Inner, ...]
    by_name: dict[str, Inner]
    more: str = ""


class Pair(NamedTuple):
    """As an array."""

    left: Inner
    right: int


def test_a_value_without_the_fields_of_a_later_format(monkeypatch: pytest.MonkeyPatch) -> None:
    value = [Pair(Inner(1), 2), Outer((Inner(3),), {"x": Inner(4)}), b"raw", None]
    assert encode_as(FORMAT, value) == msgspec.msgpack.encode(value)
    monkeypatch.setitem(FIELDS_BEFORE, FORMAT, {Inner: 1, Outer: 2})
    assert encode_as(FORMAT, value) == msgspec.msgpack.encode(
        [[[1], 2], [7, [[3]], {"x": [4]}], b"raw", None]
    )
    assert encode_as(FORMAT + 1, value) == msgspec.msgpack.encode(value)
    for unsaid, name in ((Inner(1, 5), "Inner.b"), (Outer((), {}, "x"), "Outer.more")):
        with pytest.raises(ValueError, match=f"{name} is not written before the switch"):
            encode_as(FORMAT, [unsaid])


class Boxed(msgspec.Struct, Generic[T], frozen=True, array_like=True):
    """Generic; what it has in it is not changed."""

    held: T
    beside: int | list[Inner]


class Around(msgspec.Struct, frozen=True, array_like=True):
    """Has what is changed deep inside."""

    boxes: tuple[Boxed[str], ...]


class Beside(msgspec.Struct, frozen=True, array_like=True):
    """Has nothing that is changed, but itself."""

    text: str
    further: "Beside | None" = None


class Paired(msgspec.Struct, frozen=True, array_like=True):
    """Has it in a tuple with names."""

    pair: Pair


def test_what_is_changed_is_found_wherever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FIELDS_BEFORE, FORMAT, {Inner: 1})
    value = [Around((Boxed("a", [Inner(1)]),)), Paired(Pair(Inner(2), 3)), Beside("b", Beside("c"))]
    expected = [[[["a", [[1]]]]], [[[2], 3]], ["b", ["c", None]]]
    assert encode_as(FORMAT, value) == msgspec.msgpack.encode(expected)
    assert _has_any_of(Around, frozenset({Inner}))
    assert _has_any_of(Paired, frozenset({Inner}))
    assert not _has_any_of(Beside, frozenset({Inner}))
