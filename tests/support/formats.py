"""The shape of everything that stands in the log, in snapshots and in `config:{k}`, format by format, as
tests/golden/format_N.json has it.

After a change to a format that no release writes yet, write its file anew: python -m tests.support.formats.
"""

import enum
import sys
from pathlib import Path
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from engine_worker.core.snapshot import ShardSnapshot
from protocol.codec import FIELDS_BEFORE, FORMAT, OLDEST_FORMAT
from protocol.commands import LoggedCommand, ShardMessage, Signed, SignedBody, SkipEntry
from protocol.events import Event
from protocol.listing import ShardConfiguration

WRITTEN: Final = (
    LoggedCommand,
    SignedBody,
    Signed,
    SkipEntry,
    ShardMessage,
    Event,
    ShardSnapshot,
    ShardConfiguration,
)


class Shapes(msgspec.Struct):
    """Of one format."""

    released_in: str | None
    """The first version that writes it; from then on it does not change. `scripts/release tag` says it."""
    shapes: dict[str, Any]
    """Struct -> [its tag, its fields in order]; a tuple with names -> its fields.

    Enumeration -> its members.
    """


def golden(number: int) -> Path:
    return Path(__file__).parents[1] / "golden" / f"format_{number}.json"


def shapes(number: int) -> dict[str, Any]:
    """Return the shape of every struct, tuple with names and enumeration that is written in a format, by its
    name."""
    kept = FIELDS_BEFORE.get(number, {})
    found: dict[str, Any] = {}
    seen: set[object] = set()
    unseen: list[Any] = list(WRITTEN)
    while unseen:
        kind = unseen.pop()
        if kind in seen:
            continue
        seen.add(kind)
        unseen += [*get_args(kind), get_origin(kind), getattr(kind, "__supertype__", None)]
        if not isinstance(kind, type) or get_origin(kind) is not None:
            continue
        name = f"{kind.__module__}.{kind.__qualname__}"
        if issubclass(kind, enum.Enum):
            found[name] = [member.value for member in kind]
        elif issubclass(kind, msgspec.Struct):
            fields = msgspec.structs.fields(kind)[: kept.get(kind)]
            found[name] = [
                kind.__struct_config__.tag,
                [f"{field.name}: {_named(field.type)}" for field in fields],
            ]
            unseen += [field.type for field in fields]
        elif issubclass(kind, tuple) and kind is not tuple:
            hints = get_type_hints(kind, include_extras=True)
            found[name] = [f"{field}: {_named(hint)}" for field, hint in hints.items()]
            unseen += hints.values()
    return dict(sorted(found.items()))


def _named(kind: Any) -> str:
    """Return a type as it is written, the same in every version of Python.

    Bounds and defaults decide no bytes.
    """
    if isinstance(kind, TypeVar):
        return kind.__name__
    arguments = get_args(kind)
    if arguments and get_origin(kind) is None:
        return str(kind)
    if hasattr(kind, "__metadata__"):
        return _named(arguments[0])
    if hasattr(kind, "__supertype__"):
        return str(kind.__name__)
    if not arguments:
        return "None" if kind is type(None) else str(getattr(kind, "__name__", kind))
    origin = get_origin(kind)
    if isinstance(origin, type) and origin.__name__ not in {"Union", "UnionType", "Literal"}:
        return f"{origin.__name__}[{', '.join(map(_named, arguments))}]"
    return " | ".join(map(_named, arguments))


def main() -> None:
    for number in range(OLDEST_FORMAT, FORMAT + 1):
        path = golden(number)
        if (
            path.exists()
            and (released := msgspec.json.decode(path.read_bytes(), type=Shapes).released_in) is not None
        ):
            sys.stdout.write(f"format {number} has been written since {released}: not changed\n")
            continue
        path.write_bytes(
            msgspec.json.format(msgspec.json.encode(Shapes(None, shapes(number))), indent=1) + b"\n"
        )
        sys.stdout.write(f"{path.name} is written\n")


if __name__ == "__main__":
    main()
