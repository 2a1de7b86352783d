"""The planted next release of the simulation, for tests of the switch.

`with next_release():` around a call lets that call be made by its program; the rest of the test is this
program. `plant()` makes the whole process a process of the next release.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from engine_worker.core.transfers import FundsTransfers
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

_move_funds = FundsTransfers._move_funds


def _tell_kind(transfers: FundsTransfers, command: Any, account: Any) -> None:
    _move_funds(transfers, command, account)
    transfers._state.events.append(DepositsCounted(transfers._state.time, 1))  # type: ignore[arg-type]  # it is new


def _tell_field(transfers: FundsTransfers, command: Any, account: Any) -> None:
    _move_funds(transfers, command, account)
    told = transfers._state.events[-1]
    fields = [getattr(told, name) for name in told.__struct_fields__]
    transfers._state.events[-1] = LaterDeposit(*fields, "too early")  # type: ignore[call-arg]  # all fields in order


_CARELESSLY = {"kind": _tell_kind, "field": _tell_field}


@contextmanager
def next_release(careless_with: str = "") -> Iterator[None]:
    """Let what is done meanwhile be done by the next release.

    A careless one uses its new `kind`, or `field`, before the switch.
    """
    with (
        Running(Program.NEXT),
        patch.object(FundsTransfers, "_move_funds", _CARELESSLY.get(careless_with, move_funds)),
    ):
        yield


def plant(careless_with: str = "") -> None:
    """Make this process one of the next release, for its life."""
    become(Program.NEXT)
    FundsTransfers._move_funds = _CARELESSLY.get(careless_with, move_funds)  # type: ignore[assignment,method-assign]
