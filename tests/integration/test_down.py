"""`exchange down` of an exchange whose parent has not waited for it, as in a container whose first process
waits for nobody."""

import subprocess
import sys
import time
from pathlib import Path

from cli.local.own_exchange import EXCHANGE, own_environment
from cli.local.state_file import read_state
from runtime.settings import load_settings

UP = """
import signal
from cli.local.state_file import write_state
from runtime.settings import load_settings
settings = load_settings()
write_state(settings, [])
signal.pause()
"""


def test_a_process_that_has_ended_and_is_not_waited_for_has_stopped(tmp_path: Path) -> None:
    environment = own_environment(tmp_path)
    settings = load_settings(environment)
    with subprocess.Popen([sys.executable, "-c", UP], env=environment) as process:
        deadline = time.monotonic() + 20
        while read_state(settings) is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        down = subprocess.run(
            [*EXCHANGE, "down"], env=environment, capture_output=True, text=True, timeout=60
        )
        assert "The exchange has stopped." in down.stdout, down.stderr
        assert read_state(settings) is None
        assert process.wait() == -15
