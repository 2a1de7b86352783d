"""Processes with low priority: their work is not urgent, or simulates another machine."""

import contextlib
import os
from pathlib import Path
from typing import Final

_LOWEST_NICE: Final = 19
_AUTOGROUP: Final = Path("/proc/self/autogroup")


def give_way() -> None:
    """Let every other process have the processor first, as far as the system can do that.

    Linux distributes processors among sessions first, and then among their processes: call it in the leader
    of a session.
    """
    os.nice(_LOWEST_NICE)
    if hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(OSError):
        if _AUTOGROUP.exists():
            _AUTOGROUP.write_text(str(_LOWEST_NICE))
