"""A planted next release: a new kind of event, a field more in an old one, other rules, other snapshots.

And processes that run it.

All processes of a simulation share one interpreter. So the few module globals in which the two releases
differ are exchanged around each step (`become`), and the shards of a process of the next release have its
rules (`NextCores`). Two releases that differ in other places need other entries in `_differences`.
"""

from enum import Enum
from functools import reduce
from operator import or_
from types import ModuleType, TracebackType
from typing import Any, Final, get_args

import msgspec
from typing_extensions import override

from engine_worker.core import snapshot
from engine_worker.core.frames import ObjectCores
from engine_worker.core.shard import Shard
from engine_worker.core.transfers import FundsTransfers
from engine_worker.cores import shard_of
from engine_worker.frame_core import FrameCore
from feeds import frames as feeds_frames
from persist import rows as persist_rows
from protocol import codec, configuration, release
from protocol.codec import FORMAT
from protocol.commands import Deposit
from protocol.configuration import RULES
from protocol.decoding import msgpack_decoder
from protocol.events import Event, FundsDeposited, ShardEvent
from protocol.release import KINDS, LEVELS, Release, this_release
from protocol.stream_id import StreamId
from protocol.units import TimeMs


class Program(Enum):
    """The release that a process runs."""

    THIS = "this release"
    NEXT = "the next release"


THIS: Final = this_release()
NEXT: Final = Release(FORMAT + 1, KINDS + 1, RULES + 1)
READS: Final = {Program.THIS: THIS, Program.NEXT: NEXT}
"""What each program reads at most."""
_NEW_KIND_TAG: Final = 99


class LaterDeposit(
    FundsDeposited, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=11
):
    """`FundsDeposited` with a field more."""

    note: str = ""


class DepositsCounted(
    msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=_NEW_KIND_TAG
):
    """An event of a kind that only the next release knows."""

    time: TimeMs
    count: int


class _DepositsCount(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=_NEW_KIND_TAG):
    """Its head, as feeds read it."""

    time: TimeMs


_EVENTS: Any = reduce(
    or_, (event for event in get_args(Event) if event is not FundsDeposited), LaterDeposit | DepositsCounted
)
_HEADS: Any = feeds_frames.EventHead | _DepositsCount
_move_funds = FundsTransfers._move_funds


class _Events(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    number: int
    written_us: int
    events: list[_EVENTS]


def news_of(event: object) -> tuple[str, str | int] | None:
    """Return what an event tells that this release does not know of; None: nothing."""
    if isinstance(event, DepositsCounted):
        return ("count", event.count)
    if isinstance(event, LaterDeposit) and event.note:
        return ("note", event.note)
    return None


def move_funds(transfers: FundsTransfers, command: Any, account: Any) -> None:
    """Do what the next release does with a transfer: as much of what is new as the shard was switched to."""
    _move_funds(transfers, command, account)
    if not isinstance(command, Deposit):
        return
    state = transfers._state
    config = state.config
    assert config is not None
    told = state.events[-1]
    note = "of the next release" if config.format > FORMAT else ""
    fields = [getattr(told, name) for name in told.__struct_fields__]
    state.events[-1] = LaterDeposit(*fields, note)  # type: ignore[call-arg]  # all fields in order
    if config.rules > RULES:
        state.execution_count += 1  # something that is in the state
    if config.kinds > KINDS:
        state.events.append(DepositsCounted(state.time, state.execution_count))  # type: ignore[arg-type]  # it is new


class NextTransfers(FundsTransfers):
    """The part of a shard in which the rules of the next release differ."""

    __slots__ = ()

    def _move_funds(self, command: Any, account: Any) -> None:
        move_funds(self, command, account)


def as_run_by(program: Program, shard: Shard) -> Shard:
    """Let the program's rules decide what comes of a shard's commands; return the shard."""
    if program is Program.NEXT:
        shard.funds_transfers.__class__ = NextTransfers
    return shard


class NextCores(ObjectCores):
    """The cores of the next release."""

    @override
    def new(self, index: int, shard_count: int) -> FrameCore:
        core = super().new(index, shard_count)
        as_run_by(Program.NEXT, shard_of(core))
        return core

    @override
    def restore(self, snapshot: bytes) -> tuple[FrameCore, StreamId]:
        core, stream_id = super().restore(snapshot)
        as_run_by(Program.NEXT, shard_of(core))
        return core, stream_id


_differences: tuple[tuple[ModuleType, str, Any], ...] = (
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
    (persist_rows, "ShardEvent", ShardEvent | DepositsCounted),
    (feeds_frames, "_heads", msgpack_decoder(list[_HEADS])),
    (feeds_frames, "_head", msgpack_decoder(_HEADS)),
)
"""(module, name, its value in the next release)."""
_values: Final[dict[Program, list[tuple[dict[str, Any], str, Any]]]] = {
    Program.THIS: [(vars(module), name, vars(module)[name]) for module, name, _ in _differences],
    Program.NEXT: [(vars(module), name, value) for module, name, value in _differences],
}
_current = Program.THIS


def become(program: Program) -> Program:
    """Let what follows be done by a program; return which one did it before.

    About a microsecond when it is another one.
    """
    global _current
    before = _current
    if program is not before:
        for names, name, value in _values[program]:
            names[name] = value
        _current = program
    return before


class Running:
    """`with Running(program):` lets the program do what is inside."""

    __slots__ = ("_before", "_program")

    def __init__(self, program: Program) -> None:
        self._program = program

    def __enter__(self) -> None:
        """Become the program."""
        self._before = become(self._program)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Become what was before."""
        become(self._before)
