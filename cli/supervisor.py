"""Keeps the processes running: starts them, starts anew what dies, ends them in the reverse order.

Every process writes to a log file of its own, and dies with the supervisor, also when that is killed.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from cli.state import ProcessState, State, log_file, own_state, write_state
from runtime.settings import Settings

_log = structlog.get_logger()

BACKOFF_FIRST_S = 0.25
BACKOFF_MAX_S = 10.0
LIVED_LONG_S = 30.0
"""A process that has run for so long starts anew at once when it dies, and its backoff begins from the start."""
STOP_TIMEOUT_S = 20.0
LOG_BYTES_MAX = 20_000_000
"""A log file larger than this is set aside (`.1`) when its process starts."""
_PR_SET_PDEATHSIG = 1


@dataclass
class _Process:
    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    stop_signal: signal.Signals = signal.SIGTERM
    user: int | None = None
    group: int | None = None
    running: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    deaths: int = 0
    """In a row, each soon after its start."""
    restarts: int = 0
    due: float = 0.0
    """When to start anew."""
    ready: bool = field(default=False)


class Supervisor:
    """The processes that this one has started, in order."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._processes: list[_Process] = []
        self._state: State = own_state()
        (settings.data_dir / "logs").mkdir(mode=0o700, exist_ok=True)

    def start(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        user: int | None = None,
        group: int | None = None,
    ) -> None:
        """Start a process, with `environment` added to ours, and keep it running."""
        process = _Process(name, arguments, {**os.environ, **(environment or {})}, stop_signal, user, group)
        self._processes.append(process)
        self._launch(process)
        self._write_state()

    def start_module(self, name: str, module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start `python -m module arguments`."""
        self.start(name, [sys.executable, "-m", module, *arguments], environment)

    def _launch(self, process: _Process) -> None:
        file = log_file(self._settings, process.name)
        if file.exists() and file.stat().st_size > LOG_BYTES_MAX:
            file.replace(file.with_suffix(".log.1"))
        with file.open("ab") as output:
            process.running = subprocess.Popen(
                process.arguments,
                env=dict(process.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C on the terminal is for the supervisor, which ends the others in order
                user=process.user,
                group=process.group,
                preexec_fn=_die_with_parent(process.stop_signal),
            )
        process.started = time.monotonic()

    def look(self) -> None:
        """Start anew what has died, when its time has come."""
        changed = False
        now = time.monotonic()
        for process in self._processes:
            if process.running is not None and (code := process.running.poll()) is not None:
                lived_long = now - process.started > LIVED_LONG_S
                process.deaths = 1 if lived_long else process.deaths + 1
                wait_s = 0.0 if lived_long else min(BACKOFF_FIRST_S * 2 ** (process.deaths - 1), BACKOFF_MAX_S)
                process.running, process.due = None, now + wait_s
                _log.warning("process ended", name=process.name, exit_code=code, again_in_s=wait_s)
                changed = True
            if process.running is None and now >= process.due:
                process.restarts += 1
                self._launch(process)
                changed = True
        if changed:
            self._write_state()

    def mark_ready(self) -> None:
        """Note that everything that has been started so far works."""
        for process in self._processes:
            process.ready = True
        self._write_state()

    def failed(self) -> list[tuple[str, int]]:
        """Return (name, restarts) of the processes that died since they were started."""
        return [(process.name, process.restarts) for process in self._processes if process.deaths]

    def stop(self, name: str) -> None:
        """End one process, and keep it that way."""
        process = next(process for process in self._processes if process.name == name)
        self._processes.remove(process)
        _end(process)
        self._write_state()

    def stop_all(self, say: Callable[[str], None]) -> None:
        """End all processes, the last started first; kill those that do not end in time."""
        for process in reversed(self._processes):
            if process.running is not None:
                say(process.name)
                _end(process)

    def _write_state(self) -> None:
        self._state.processes = [
            ProcessState(
                process.name,
                process.running.pid if process.running else 0,
                "restarting" if process.running is None else "running" if process.ready else "starting",
                process.restarts,
            )
            for process in self._processes
        ]
        write_state(self._settings, self._state)


def _end(process: _Process) -> None:
    running = process.running
    if running is None or running.poll() is not None:
        return
    running.send_signal(process.stop_signal)
    try:
        running.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        _log.warning("process killed: it did not end in time", name=process.name)
        running.kill()
        running.wait()


def _die_with_parent(stop_signal: signal.Signals) -> Callable[[], None] | None:
    """Return what a new process does first so that the kernel ends it when its parent dies; Linux only."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def prepare() -> None:
        library.prctl(_PR_SET_PDEATHSIG, int(stop_signal), 0, 0, 0)
        if os.getppid() != parent:  # it died in between
            os._exit(1)

    return prepare
