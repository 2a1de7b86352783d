"""The state of `exchange up`, for other commands: `state.json` in the data folder."""

import os
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec
import psutil

from runtime.settings import PREFIX, Settings, load_settings

_SAME_START_S = 0.5
"""Start times of one process, read twice, differ by less."""


class ProcessStatus(StrEnum):
    """The state of a process, as the supervisor sees it."""

    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    """It has died, and is about to be restarted."""
    HALTED = "halted"
    """It has found something wrong that must be looked at, and is tried again only now and then."""


class ProcessState(msgspec.Struct, frozen=True):
    """One process; `pid` is 0 while it does not run.

    `started` (seconds since the epoch) tells it from a later one of the same pid.
    """

    name: str
    pid: int
    started: float
    state: ProcessStatus
    restarts: int = 0


class RestartRequest(msgspec.Struct, frozen=True):
    """A request of `exchange restart` to the running `exchange up`: end a process and start it again.

    With `overlap` the new process starts first and takes over, which ends the old one.
    """

    process: str
    overlap: bool = False
    environment: dict[str, str] = {}
    """What of its environment is another from now on, until `exchange down`."""


class State(msgspec.Struct, frozen=True):
    """One `exchange up`, the settings that it was given, and its processes."""

    pid: int
    started: float
    environment: dict[str, str]
    processes: list[ProcessState] = []


BACKUP_PROCESS: Final = "wal-receiver"
"""What writes the database's log into a backup; the exchange is ready without it."""


def trading_processes(processes: Iterable[ProcessState]) -> list[ProcessState]:
    """Return the processes that the exchange needs: all but what writes a backup, whose disk may be away."""
    return [process for process in processes if process.name != BACKUP_PROCESS]


def state_file(settings: Settings) -> Path:
    """Return the path of the running `exchange up`'s state."""
    return settings.data_dir / "state.json"


def log_folder(settings: Settings) -> Path:
    """Return the folder of the processes' log files."""
    return settings.data_dir / "logs"


def log_file(settings: Settings, name: str) -> Path:
    """Return the path of a process's log file."""
    return log_folder(settings) / f"{name}.log"


def write_state(settings: Settings, processes: list[ProcessState]) -> None:
    """Replace this process's state atomically."""
    state = State(os.getpid(), psutil.Process().create_time(), _own_environment(), processes)
    file = state_file(settings)
    unfinished = file.with_suffix(".new")
    unfinished.touch(0o600)
    unfinished.write_bytes(msgspec.json.encode(state))
    unfinished.replace(file)


def read_state(settings: Settings) -> State | None:
    """Return the state of the `exchange up` that runs on this data folder, None when none does."""
    state = _read(settings)
    return state if state is not None and _process(state.pid, state.started) is not None else None


def request_restart(settings: Settings, request: RestartRequest) -> bool:
    """Leave a request for the running `exchange up`; return whether it had none: one waits at a time."""
    file = _request_file(settings)
    unfinished = file.with_suffix(f".{os.getpid()}")
    unfinished.write_bytes(msgspec.json.encode(request))
    try:
        os.link(unfinished, file)
    except FileExistsError:
        return False
    finally:
        unfinished.unlink()
    return True


def take_request(settings: Settings) -> RestartRequest | None:
    """Return the waiting request to restart a process, and remove it; None if there is none."""
    file = _request_file(settings)
    try:
        request = msgspec.json.decode(file.read_bytes(), type=RestartRequest)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError:
        request = None
    file.unlink()
    return request


def leftover_processes(settings: Settings) -> list[psutil.Process]:
    """Return the processes that still run after their `exchange up` has ended."""
    state = _read(settings)
    if state is None or _process(state.pid, state.started) is not None:
        return []
    processes = (_process(process.pid, process.started) for process in state.processes if process.pid)
    return [process for process in processes if process is not None]


def settings_of_running() -> Settings:
    """Return the settings that the running exchange was given, where the environment does not say otherwise.

    Raises:
        SettingsError: some are wrong.
    """
    settings = load_settings()
    state = read_state(settings)
    return load_settings({**state.environment, **_own_environment()}) if state else settings


def _own_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}


def _request_file(settings: Settings) -> Path:
    return settings.data_dir / "restart.json"


def _read(settings: Settings) -> State | None:
    try:
        return msgspec.json.decode(state_file(settings).read_bytes(), type=State)
    except (OSError, msgspec.MsgspecError):
        return None


def _process(pid: int, started: float) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        same = (
            abs(process.create_time() - started) < _SAME_START_S and process.status() != psutil.STATUS_ZOMBIE
        )
    except psutil.NoSuchProcess:
        return None
    return process if same else None
