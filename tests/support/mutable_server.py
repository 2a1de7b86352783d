"""A gateway or an edge that answers nobody from SIGUSR1 on, though its loop turns: `python -m
tests.support.mutable_server gateway|ws_edge`.

It knocks at its own door more often than a real one, and is less patient.
"""

import signal
import sys
from types import FrameType
from typing import Any

import gateway.main
import runtime.own_door
import ws_edge.main
from gateway.connection import Connection
from runtime.own_door import OwnDoor
from ws_edge.connection import EdgeConnection

READY_S_MAX = 2.0
_is_mute = False


def _mute(_number: int, _frame: FrameType | None) -> None:
    global _is_mute  # the process has nothing else to remember
    _is_mute = True


def _can_be_muted(protocol: Any) -> None:
    heard = protocol.data_received

    def data_received(self: Any, data: bytes) -> None:
        if not _is_mute:
            heard(self, data)

    protocol.data_received = data_received


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _mute)
    _can_be_muted(Connection)
    _can_be_muted(EdgeConnection)
    OwnDoor.__init__.__defaults__ = (0.2, *(OwnDoor.__init__.__defaults__ or ())[1:])
    runtime.own_door.READY_S_MAX = READY_S_MAX  # type: ignore[misc]  # for this process
    {"gateway": gateway.main, "ws_edge": ws_edge.main}[sys.argv[1]].main()
