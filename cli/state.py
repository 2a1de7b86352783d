"""What `exchange up` writes down about itself, so that other commands find it: `state.json` in the data folder."""

import os
from pathlib import Path

import msgspec
import psutil

from runtime.settings import Settings


class ProcessState(msgspec.Struct):
    """One process; `pid` is 0 while it does not run."""

    name: str
    pid: int
    state: str
    """starting, running, restarting (waiting to be), or stopped."""
    restarts: int = 0


class State(msgspec.Struct):
    """One `exchange up`; `started` tells its pid from a later process with the same number."""

    pid: int
    started: float
    processes: list[ProcessState] = []


def state_file(settings: Settings) -> Path:
    """Return where the state is kept."""
    return settings.data_dir / "state.json"


def log_file(settings: Settings, name: str) -> Path:
    """Return where a process's output goes."""
    return settings.data_dir / "logs" / f"{name}.log"


def own_state() -> State:
    """Return the state of this very process, with no processes yet."""
    return State(os.getpid(), psutil.Process().create_time())


def write_state(settings: Settings, state: State) -> None:
    """Replace what is written down; a reader sees the old or the new, never a part."""
    file = state_file(settings)
    unfinished = file.with_suffix(".new")
    unfinished.write_bytes(msgspec.json.encode(state))
    unfinished.replace(file)


def read_state(settings: Settings) -> State | None:
    """Return the state of the `exchange up` that runs on this data folder, None when none does."""
    try:
        state = msgspec.json.decode(state_file(settings).read_bytes(), type=State)
        alive = abs(psutil.Process(state.pid).create_time() - state.started) < 1
    except (OSError, msgspec.MsgspecError, psutil.NoSuchProcess):
        return None
    return state if alive else None
