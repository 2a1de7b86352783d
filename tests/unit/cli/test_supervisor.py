"""The supervisor, with real processes that do little."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cli.local import supervisor as supervisor_module
from cli.local.embedded import ServerCommand
from cli.local.processes import ProcessSpec
from cli.local.state_file import (
    ProcessState,
    ProcessStatus,
    RestartRequest,
    leftover_processes,
    log_file,
    read_state,
    request_restart,
    take_request,
)
from cli.local.supervisor import Supervisor, backoff_s
from runtime.settings import Settings
from tests.support.eventually import eventually

TIMEOUT_S = 60
WAITS = "import signal; signal.pause()"
IGNORES_SIGTERM = (
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); signal.pause()"
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


@pytest.fixture
def supervisor(settings: Settings) -> Iterator[Supervisor]:
    supervisor = Supervisor(settings)
    yield supervisor
    supervisor.stop_all(lambda _: None)


def spec(name: str, program: str) -> ProcessSpec:
    return ProcessSpec(name, ServerCommand((sys.executable, "-c", program)))


def state_of(settings: Settings, name: str) -> ProcessState:
    state = read_state(settings)
    assert state is not None
    return next(process for process in state.processes if process.name == name)


def test_the_pause_before_a_restart_doubles_up_to_a_limit() -> None:
    assert [backoff_s(deaths) for deaths in (1, 2, 3, 4)] == [0.1, 0.2, 0.4, 0.8]
    assert backoff_s(1000) == 10.0


def test_a_process_that_is_killed_is_started_anew(supervisor: Supervisor, settings: Settings) -> None:
    supervisor.start(spec("one", WAITS))
    supervisor.mark_ready()
    before = state_of(settings, "one")
    assert (before.state, before.restarts) == (ProcessStatus.RUNNING, 0)
    os.kill(before.pid, signal.SIGKILL)
    eventually(
        "the supervisor has done it",
        lambda: state_of(settings, "one").restarts == 1,
        meanwhile=supervisor.look,
    )
    after = state_of(settings, "one")
    assert after.pid != before.pid
    assert psutil.pid_exists(after.pid)


def test_a_process_that_always_dies_is_tried_less_and_less_often(
    supervisor: Supervisor, settings: Settings
) -> None:
    supervisor.start(spec("one", "print('no luck', flush=True)"))
    eventually(
        "the supervisor has done it", lambda: supervisor.restarts()["one"] == 2, meanwhile=supervisor.look
    )
    eventually(
        "the supervisor has done it",
        lambda: state_of(settings, "one").state is ProcessStatus.RESTARTING,
        meanwhile=supervisor.look,
    )
    assert state_of(settings, "one").pid == 0
    assert log_file(settings, "one").read_text().splitlines() == ["no luck"] * 3


def test_the_pause_is_short_again_after_a_long_life(
    supervisor: Supervisor, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaths: list[int] = []

    def noted(count: int) -> float:
        deaths.append(count)
        return backoff_s(count)

    monkeypatch.setattr(supervisor_module, "backoff_s", noted)
    supervisor.start(spec("one", WAITS))
    for restarts in range(1, 5):
        if restarts == 4:
            monkeypatch.setattr(supervisor_module, "LIVED_LONG_S", 0.0)
        os.kill(state_of(settings, "one").pid, signal.SIGKILL)
        eventually(
            "the supervisor has done it",
            lambda restarts=restarts: supervisor.restarts()["one"] == restarts,  # type: ignore[misc]
            meanwhile=supervisor.look,
        )
    assert deaths == [1, 2, 3, 1]


def test_a_large_log_is_set_aside(
    supervisor: Supervisor, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "LOG_BYTES_MAX", 10)
    supervisor.start(spec("one", f"print('a long story', flush=True); {WAITS}"))
    file = log_file(settings, "one")
    eventually("the supervisor has done it", lambda: file.read_text() == "a long story\n")
    os.kill(state_of(settings, "one").pid, signal.SIGKILL)
    eventually(
        "the supervisor has done it", lambda: supervisor.restarts()["one"] == 1, meanwhile=supervisor.look
    )
    eventually("the supervisor has done it", lambda: file.read_text() == "a long story\n")
    assert file.with_suffix(".log.1").read_text() == "a long story\n"


def test_a_program_that_is_not_there_is_an_error(supervisor: Supervisor) -> None:
    with pytest.raises(OSError, match="no-such-program"):
        supervisor.start(ProcessSpec("ghost", ServerCommand(("no-such-program",))))
    assert supervisor.restarts() == {}


def test_processes_end_in_the_reverse_order(supervisor: Supervisor, settings: Settings) -> None:
    for name in ("first", "second", "third"):
        supervisor.start(spec(name, WAITS))
    pids = [state_of(settings, name).pid for name in ("first", "second", "third")]
    said: list[str] = []
    supervisor.stop_all(said.append)
    assert said == ["stopping third", "stopping second", "stopping first"]
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_what_does_not_end_in_time_is_killed(
    supervisor: Supervisor, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "STOP_TIMEOUT_S", 0.2)
    supervisor.start(spec("stubborn", IGNORES_SIGTERM))
    eventually("the supervisor has done it", lambda: "ready" in log_file(settings, "stubborn").read_text())
    pid = state_of(settings, "stubborn").pid
    supervisor.stop_all(lambda _: None)
    assert not psutil.pid_exists(pid)


def test_a_restart_that_was_asked_for_is_no_death(supervisor: Supervisor, settings: Settings) -> None:
    supervisor.start(spec("one", WAITS))
    supervisor.start(spec("two", WAITS))
    supervisor.mark_ready()
    before, other = state_of(settings, "one"), state_of(settings, "two")
    assert request_restart(settings, RestartRequest("one"))
    assert not request_restart(settings, RestartRequest("two")), "one at a time"
    eventually(
        "the supervisor has done it",
        lambda: state_of(settings, "one").pid != before.pid,
        meanwhile=supervisor.look,
    )
    after = state_of(settings, "one")
    assert after.state is ProcessStatus.RUNNING
    assert not psutil.pid_exists(before.pid)
    assert (after.restarts, state_of(settings, "two")) == (0, other)


def test_a_restart_of_what_does_not_end_kills_it(
    supervisor: Supervisor, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "STOP_TIMEOUT_S", 0.2)
    supervisor.start(spec("stubborn", IGNORES_SIGTERM))
    eventually("the supervisor has done it", lambda: "ready" in log_file(settings, "stubborn").read_text())
    pid = state_of(settings, "stubborn").pid
    supervisor.restart("stubborn")
    assert state_of(settings, "stubborn").state is ProcessStatus.RESTARTING
    eventually(
        "the supervisor has done it",
        lambda: state_of(settings, "stubborn").pid != pid,
        meanwhile=supervisor.look,
    )
    assert not psutil.pid_exists(pid)
    supervisor.stop_all(lambda _: None)  # while its patience is short


def test_with_overlap_the_new_one_starts_first_and_the_old_one_ends_by_itself(
    supervisor: Supervisor, settings: Settings, tmp_path: Path
) -> None:
    # Each one writes its pid down, and ends when it finds another's there: as feeds do.
    program = (
        "import os, pathlib, sys, time; file, pid = pathlib.Path(sys.argv[1]), str(os.getpid()); "
        "file.write_text(pid)\nwhile file.read_text() in ('', pid): time.sleep(0.01)\nsys.exit(3)"
    )
    supervisor.start(
        ProcessSpec("one", ServerCommand((sys.executable, "-c", program, str(tmp_path / "leader"))))
    )
    supervisor.mark_ready()
    before = state_of(settings, "one")
    eventually(
        "the supervisor has done it",
        lambda: (tmp_path / "leader").is_file() and (tmp_path / "leader").read_text() == str(before.pid),
    )
    supervisor.restart("one", overlap=True)
    assert psutil.pid_exists(before.pid)
    eventually(
        "the supervisor has done it", lambda: not psutil.pid_exists(before.pid), meanwhile=supervisor.look
    )
    after = state_of(settings, "one")
    assert (after.restarts, after.state) == (0, ProcessStatus.RUNNING)
    assert after.pid != before.pid
    assert psutil.pid_exists(after.pid)


def test_a_request_that_is_none_is_passed_over(settings: Settings) -> None:
    (settings.data_dir / "restart.json").write_text("{")
    assert take_request(settings) is None
    assert request_restart(settings, RestartRequest("one"))
    assert take_request(settings) == RestartRequest("one")
    assert take_request(settings) is None


def test_what_a_process_leaves_behind_is_killed_when_it_dies(
    supervisor: Supervisor, settings: Settings
) -> None:
    child = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {WAITS!r}]); "
    supervisor.start(spec("parent", child + WAITS))
    parent = psutil.Process(state_of(settings, "parent").pid)
    eventually("the supervisor has done it", lambda: bool(parent.children()))
    orphan = parent.children()[0]
    parent.kill()
    eventually(
        "the supervisor has done it",
        lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE,
        meanwhile=supervisor.look,
    )


_UNTIL_KILLED = """
import signal, sys
from pathlib import Path
from cli.local.embedded import ServerCommand
from cli.local.processes import ProcessSpec
from cli.local.supervisor import Supervisor
from runtime.settings import Settings
supervisor = Supervisor(Settings(data_dir=Path(sys.argv[1])))
for number, program in enumerate(sys.argv[2:]):
    supervisor.start(ProcessSpec(str(number), ServerCommand((sys.executable, "-c", program))))
print("started", flush=True)
signal.pause()
"""


def test_when_the_supervisor_is_killed_its_processes_are_asked_to_end_and_the_stubborn_are_found(
    settings: Settings,
) -> None:
    arguments = [sys.executable, "-c", _UNTIL_KILLED, str(settings.data_dir), WAITS, IGNORES_SIGTERM]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        state = read_state(settings)
        assert state is not None
        obedient, stubborn = state.processes
        assert leftover_processes(settings) == []
        eventually(
            "the supervisor has done it", lambda: "ready" in log_file(settings, stubborn.name).read_text()
        )
        process.kill()
        process.wait()
    assert read_state(settings) is None
    eventually(
        "the supervisor has done it",
        lambda: [each.pid for each in leftover_processes(settings)] == [stubborn.pid],
    )
    assert obedient.pid != stubborn.pid
    os.kill(stubborn.pid, signal.SIGKILL)
    eventually("the supervisor has done it", lambda: leftover_processes(settings) == [])
