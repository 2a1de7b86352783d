"""The planted next release of the simulation, for tests of the switch.

`with next_release():` around a call lets that call be made by its program; the rest of the test is this
program. `plant()` makes the whole process a process of the next release.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from engine_worker.core.shard import Shard
from lab.simulation.next_release import (
    NEXT,
    DepositsCounted,
    LaterDeposit,
    Program,
    Running,
    become,
    move_funds,
)

__all__ = ["NEXT", "DepositsCounted", "LaterDeposit", "next_release", "plant"]

_move_funds = Shard._move_funds


def _tell_kind(shard: Shard, command: Any, account: Any) -> None:
    _move_funds(shard, command, account)
    shard._events.append(DepositsCounted(shard.time, 1))  # type: ignore[arg-type]  # it is new


def _tell_field(shard: Shard, command: Any, account: Any) -> None:
    _move_funds(shard, command, account)
    told = shard._events[-1]
    fields = [getattr(told, name) for name in told.__struct_fields__]
    shard._events[-1] = LaterDeposit(*fields, "too early")  # type: ignore[call-arg]  # all fields in order


_CARELESSLY = {"kind": _tell_kind, "field": _tell_field}


@contextmanager
def next_release(careless_with: str = "") -> Iterator[None]:
    """Let what is done meanwhile be done by the next release.

    A careless one uses its new `kind`, or `field`, before the switch.
    """
    with (
        Running(Program.NEXT),
        patch.object(Shard, "_move_funds", _CARELESSLY.get(careless_with, move_funds)),
    ):
        yield


def plant(careless_with: str = "") -> None:
    """Make this process one of the next release, for its life."""
    become(Program.NEXT)
    Shard._move_funds = _CARELESSLY.get(careless_with, move_funds)  # type: ignore[assignment,method-assign]
