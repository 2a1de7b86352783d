"""A planted next release, for tests of the switch: a new kind of event, a field more in an old one, other rules, other snapshots.

`with next_release():` around a call lets that call be made by its program; the rest of the test is this program. `plant()` makes the
whole process a process of the next release.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import reduce
from operator import or_
from typing import Any, get_args
from unittest.mock import patch

import msgspec

from engine_worker.core import snapshot
from engine_worker.core.shard import Shard
from feeds import frames
from feeds import state as feeds_state
from feeds.frames import EventHead, ShardHead
from persist import rows
from protocol import codec, configuration, release
from protocol.codec import FORMAT
from protocol.commands import Deposit
from protocol.configuration import RULES
from protocol.decoding import msgpack_decoder
from protocol.events import Event, FundsDeposited, ShardEvent
from protocol.release import KINDS, LEVELS, Release
from protocol.units import TimeMs

NEXT = Release(FORMAT + 1, KINDS + 1, RULES + 1)
"""Its numbers."""


class LaterDeposit(FundsDeposited, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=11):
    """`FundsDeposited` with a field more."""

    note: str = ""


class DepositsCounted(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=99):
    """The new kind."""

    time: TimeMs
    count: int


class CountHead(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=99):
    """What feeds read of it: nobody's news."""

    time: TimeMs


_HEADS: Any = EventHead | CountHead
_EVENTS: Any = reduce(
    or_, (each for each in get_args(Event) if each is not FundsDeposited), LaterDeposit | DepositsCounted
)
_move_funds = Shard._move_funds


class _Events(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    number: int
    written_us: int
    events: list[_EVENTS]


def _move_funds_later(shard: Shard, command: Any, account: Any) -> None:
    _move_funds(shard, command, account)
    if not isinstance(command, Deposit):
        return
    config = shard.config
    assert config is not None
    told = shard._events[-1]
    note = "of the next release" if config.format > FORMAT else ""
    fields = [getattr(told, name) for name in told.__struct_fields__]
    shard._events[-1] = LaterDeposit(*fields, note)  # type: ignore[call-arg]  # all fields in order
    if config.rules > RULES:
        shard.execution_count += 1  # something that is in the state
    if config.kinds > KINDS:
        shard._events.append(DepositsCounted(shard.time, shard.execution_count))  # type: ignore[arg-type]  # it is new


def _tell_kind(shard: Shard, command: Any, account: Any) -> None:
    _move_funds(shard, command, account)
    shard._events.append(DepositsCounted(shard.time, 1))  # type: ignore[arg-type]  # it is new


def _tell_field(shard: Shard, command: Any, account: Any) -> None:
    _move_funds(shard, command, account)
    told = shard._events[-1]
    fields = [getattr(told, name) for name in told.__struct_fields__]
    shard._events[-1] = LaterDeposit(*fields, "too early")  # type: ignore[call-arg]  # all fields in order


_CARELESSLY = {"kind": _tell_kind, "field": _tell_field}


def _changes(careless_with: str) -> list[tuple[Any, str, Any]]:
    """Return (module or class, name, value) of what is different in the next release."""
    return [
        (codec, "FORMAT", NEXT.format),
        (release, "KINDS", NEXT.kinds),
        (configuration, "RULES", NEXT.rules),
        (release, "LEVELS", {**LEVELS, LaterDeposit: 1, DepositsCounted: NEXT.kinds}),
        (codec, "FIELDS_BEFORE", {FORMAT: {LaterDeposit: len(FundsDeposited.__struct_fields__)}}),
        (codec, "_decode_events", msgpack_decoder(_Events)),
        (codec, "_unnumbered_events", msgpack_decoder(list[_EVENTS])),
        (codec, "_event", msgpack_decoder(_EVENTS)),
        (snapshot, "VERSIONS", {**snapshot.VERSIONS, NEXT.format: snapshot.FORMAT_VERSION + 1}),
        (snapshot, "FORMAT_VERSION", snapshot.FORMAT_VERSION + 1),
        (frames, "_heads", msgpack_decoder(list[_HEADS])),
        (frames, "_head", msgpack_decoder(_HEADS)),
        (feeds_state, "ShardHead", ShardHead | CountHead),
        (rows, "ShardEvent", ShardEvent | DepositsCounted),
        (Shard, "_move_funds", _CARELESSLY.get(careless_with, _move_funds_later)),
    ]


@contextmanager
def next_release(careless_with: str = "") -> Iterator[None]:
    """Let what is done meanwhile be done by the next release; a careless one uses its new `kind`, or `field`, before the switch."""
    with ExitStack() as stack:
        for owner, name, value in _changes(careless_with):
            stack.enter_context(patch.object(owner, name, value))
        yield


def plant(careless_with: str = "") -> None:
    """Make this process one of the next release, for its life."""
    for owner, name, value in _changes(careless_with):
        setattr(owner, name, value)
