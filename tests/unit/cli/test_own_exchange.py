"""An exchange of one's own leaves nothing behind."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cli.local import own_exchange
from cli.local.own_exchange import own_environment

_DOES_NOT_STOP = """
import signal, subprocess, sys, time
import psutil
from cli.local.state_file import ProcessState, ProcessStatus, write_state
from runtime.settings import load_settings

signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
started = psutil.Process(child.pid).create_time()
write_state(load_settings(), [ProcessState("engine-0", child.pid, started, ProcessStatus.RUNNING)])
time.sleep(300)
"""


def test_what_does_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_exchange, "STOP_TIMEOUT_S", 0.5)
    command = (sys.executable, "-c", _DOES_NOT_STOP)
    with (
        pytest.raises(subprocess.TimeoutExpired),
        own_exchange.own_exchange(own_environment(tmp_path), command) as exchange,
    ):
        (process,) = (psutil.Process(each.pid) for each in exchange.processes())
    assert psutil.wait_procs([process], timeout=60)[1] == []
