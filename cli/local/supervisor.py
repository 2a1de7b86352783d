"""Supervises the processes: starts them, restarts those that die, ends them in the reverse order.

Every process writes to its own log file, and ends with the supervisor, even if that is killed.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import psutil
import structlog

from cli.local.processes import ProcessSpec
from cli.local.state_file import ProcessState, ProcessStatus, log_file, log_folder, take_request, write_state
from runtime.settings import Settings
from stream_log.halt import HALTED_EXIT_CODE

BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 10.0
LIVED_LONG_S = 10.0
"""When a process that has run for so long dies, its backoff begins from the start."""
HALTED_PAUSE_S = 30.0
"""Before another start of a process that ended with `HALTED_EXIT_CODE`."""
STOP_TIMEOUT_S = 20.0
LOG_BYTES_MAX = 20_000_000
"""A log file larger than this is set aside (`.1`) when its process starts."""
_PR_SET_PDEATHSIG = 1

_log = structlog.get_logger()


@dataclass
class _Process:
    spec: ProcessSpec
    running: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0
    """Seconds since the epoch, as the system has it."""
    deaths: int = 0
    """In a row, each soon after its start."""
    restarts: int = 0
    due: float = 0.0
    """When to restart it, on the monotonic clock."""
    ready: bool = False
    halted: bool = False
    asked: bool = False
    """Whether it was asked to end for a restart."""
    kill_due: float = 0.0
    """When to kill it if it has not ended as requested, on the monotonic clock."""
    former: "subprocess.Popen[bytes] | None" = None
    """What it takes over from, which then ends by itself."""


def backoff_s(deaths: int) -> float:
    """Return how long to wait before the next start of a process that has died so often in a row."""
    return min(BACKOFF_FIRST_S * 2.0 ** (deaths - 1), BACKOFF_MAX_S)


class Supervisor:
    """Starts, restarts and stops processes, in the order in which they were started."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._processes: list[_Process] = []
        log_folder(settings).mkdir(mode=0o700, exist_ok=True)
        take_request(settings)  # it was for one before this

    def start(self, spec: ProcessSpec) -> None:
        """Start a process and keep it running.

        Raises:
            OSError: its program cannot be run.
        """
        process = _Process(spec)
        self._launch(process)
        self._processes.append(process)
        self._write_state()

    def restart(
        self, name: str, *, overlap: bool = False, environment: Mapping[str, str] | None = None
    ) -> None:
        """End a process and start it again, from now on with `environment` added to its own.

        With `overlap` start the new one first, which takes over. Returns at once.
        """
        for process in self._processes:
            if process.spec.name == name:
                process.spec = replace(
                    process.spec, environment={**process.spec.environment, **(environment or {})}
                )
                now = time.monotonic()
                process.kill_due, process.deaths = now + self._stop_timeout_s(), 0
                if process.running is None:
                    process.due = now
                elif overlap and process.former is None:
                    process.former = process.running
                    self._launch(process)
                else:
                    process.asked = True
                    process.running.send_signal(process.spec.command.stop_signal)
                self._write_state()

    def look(self) -> None:
        """Restart processes that have died, when due, and those that `exchange restart` names."""
        changed = False
        now = time.monotonic()
        if (request := take_request(self._settings)) is not None:
            self.restart(request.process, overlap=request.overlap, environment=request.environment)
        for process in self._processes:
            self._end_what_should(process, now)
            if process.running is not None and (code := process.running.poll()) is not None:
                _kill_group(process.running.pid)
                # A requested restart is no crash: it neither counts nor waits (docs/decisions/0021).
                if process.asked:
                    process.asked = False
                    self._launch_or_wait(process, now)
                    changed = True
                    continue
                lived_long = time.time() - process.started > LIVED_LONG_S
                process.deaths = 1 if lived_long else process.deaths + 1
                process.halted = code == HALTED_EXIT_CODE
                pause_s = HALTED_PAUSE_S if process.halted else backoff_s(process.deaths)
                process.running, process.due = None, now + pause_s
                _log.warning("process ended", name=process.spec.name, exit_code=code, again_in_s=pause_s)
                changed = True
            if process.running is None and now >= process.due:
                process.restarts += 1
                self._launch_or_wait(process, now)
                changed = True
        if changed:
            self._write_state()

    def mark_ready(self) -> None:
        """Record in the state file that all processes started so far are ready."""
        for process in self._processes:
            process.ready = True
        self._write_state()

    def restarts(self) -> dict[str, int]:
        """Return the number of restarts of each process."""
        return {process.spec.name: process.restarts for process in self._processes}

    def process_ids(self) -> dict[str, int]:
        """Return the process ids by name; 0 for a process that does not run now."""
        return {
            process.spec.name: process.running.pid if process.running is not None else 0
            for process in self._processes
        }

    def halted(self) -> list[str]:
        """Return the processes that have found something wrong, and will again."""
        return [
            process.spec.name for process in self._processes if process.halted and process.running is None
        ]

    def stop_all(self, say: Callable[[str], None]) -> None:
        """End all processes, the last started first; kill those that do not end in time."""
        for process in reversed(self._processes):
            if process.former is not None:
                _end(process.former, process.spec, self._stop_timeout_s())
            if process.running is not None:
                say(f"stopping {process.spec.name}")
                _end(process.running, process.spec, self._stop_timeout_s())
        self._processes.clear()

    def _stop_timeout_s(self) -> float:
        return STOP_TIMEOUT_S + self._settings.drain_delay_ms / 1000

    def _end_what_should(self, process: _Process, now: float) -> None:
        """Kill a process that does not end as requested; end one that was taken over from."""
        if process.asked and process.running is not None and now > process.kill_due:
            _log.warning("process killed: it did not end in time", name=process.spec.name)
            process.running.kill()
            process.kill_due = now + self._stop_timeout_s()
        if process.former is not None:
            if process.former.poll() is not None:
                _kill_group(process.former.pid)
                process.former = None
            elif process.running is not None and now > process.kill_due:
                _log.warning("process killed: it was not taken over from", name=process.spec.name)
                process.former.kill()

    def _launch_or_wait(self, process: _Process, now: float) -> None:
        """Start a process; if its program cannot be run now, retry later, like for one that has died."""
        try:
            self._launch(process)
        except OSError as error:
            process.deaths += 1
            pause_s = backoff_s(process.deaths)
            process.running, process.due = None, now + pause_s
            _log.warning("process not started", name=process.spec.name, error=str(error), again_in_s=pause_s)

    def _launch(self, process: _Process) -> None:
        command = process.spec.command
        file = log_file(self._settings, process.spec.name)
        if file.exists() and file.stat().st_size > LOG_BYTES_MAX:
            file.replace(file.with_suffix(".log.1"))
        with file.open("ab") as output:
            process.running = subprocess.Popen(
                process.spec.arguments(),
                env=process.spec.whole_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C on the terminal is for the supervisor, which ends the others in order
                start_new_session=True,
                user=command.user,
                group=command.group,
                preexec_fn=end_with_parent(command.stop_signal),
            )
        try:
            process.started = psutil.Process(process.running.pid).create_time()
        except psutil.NoSuchProcess:
            process.started = time.time()

    def _write_state(self) -> None:
        write_state(
            self._settings,
            [
                ProcessState(
                    process.spec.name,
                    process.running.pid if process.running else 0,
                    process.started,
                    ProcessStatus.HALTED
                    if process.running is None and process.halted
                    else ProcessStatus.RESTARTING
                    if process.running is None or process.asked
                    else ProcessStatus.RUNNING
                    if process.ready
                    else ProcessStatus.STARTING,
                    process.restarts,
                )
                for process in self._processes
            ],
        )


def _end(running: "subprocess.Popen[bytes]", spec: ProcessSpec, timeout_s: float) -> None:
    running.send_signal(spec.command.stop_signal)
    try:
        running.wait(timeout_s)
    except subprocess.TimeoutExpired:
        _log.warning("process killed: it did not end in time", name=spec.name)
    _kill_group(running.pid)
    running.wait()


def _kill_group(leader: int) -> None:
    """Kill a process's remaining children, and the process itself if it still exists."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def end_with_parent(stop_signal: signal.Signals) -> Callable[[], None] | None:
    """Return a function that makes the kernel end a new process when its parent dies; Linux only."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def prepare() -> None:
        library.prctl(_PR_SET_PDEATHSIG, int(stop_signal), 0, 0, 0)
        if os.getppid() != parent:  # it died in between
            os._exit(1)

    return prepare
