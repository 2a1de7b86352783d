"""A whole exchange of its own, started and stopped by the `exchange` command as a user would."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cli.ports import free_port, free_ports
from cli.state import ProcessState, ProcessStatus, read_state
from runtime.settings import PREFIX, Settings, load_settings
from tests.e2e.api import eventually

START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 60


class RunningExchange(NamedTuple):
    """An exchange that answers."""

    settings: Settings
    environment: Mapping[str, str]

    @property
    def url(self) -> str:
        """The base URL of its REST API."""
        return self.settings.rest_url()

    def command(self, *arguments: str) -> Any:
        """Return what an `exchange` command prints with --json."""
        result = subprocess.run(
            [*_EXCHANGE, *arguments, "--json"], env=self.environment, capture_output=True, timeout=STOP_TIMEOUT_S
        )
        if result.returncode:
            pytest.fail(f"exchange {' '.join(arguments)}: {result.stderr.decode()}")
        return json.loads(result.stdout)

    def processes(self) -> list[ProcessState]:
        """Return its processes as it has written them down; none when it does not run."""
        state = read_state(self.settings)
        return list(state.processes) if state else []


_EXCHANGE = [sys.executable, "-m", "cli.main"]


@contextmanager
def running_exchange(data_dir: Path, **settings: str) -> Iterator[RunningExchange]:
    """Run an exchange with its data in `data_dir` and other `settings` on free ports, until the context ends.

    It has as many shards as TEST_SHARD_COUNT says, by default one, the PostgreSQL that TEST_POSTGRES_BIN names, and a Redis in the mode
    that TEST_REDIS_MODE names.
    """
    values = {
        "data_dir": str(data_dir),
        "rest_port": str(free_port()),
        "ws_port": str(free_port()),
        "frontend_port": str(free_port()),
        "frontend_enabled": "false",
        "redis_port": str(free_ports(5)),
        "redis_mode": os.environ.get("TEST_REDIS_MODE", "single"),
        "postgres_port": str(free_port()),
        "postgres_bin": os.environ.get("TEST_POSTGRES_BIN", ""),
        "shard_count": os.environ.get("TEST_SHARD_COUNT", "1"),
        # All tests come from one address, and each asks more often than a client would.
        "request_weight_per_minute": "10000000",
        **settings,
    }
    own = {PREFIX + name.upper(): value for name, value in values.items()}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    exchange = RunningExchange(load_settings(own), inherited | own)
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [*_EXCHANGE, "up"], env=exchange.environment, stdout=output, stderr=subprocess.STDOUT
        )

        def running() -> bool:
            if process.poll() is not None:
                output.seek(0)
                pytest.fail(f"exchange up ended:\n{output.read().decode(errors='replace')}")
            processes = exchange.processes()
            return bool(processes) and all(each.state is ProcessStatus.RUNNING for each in processes)

        try:
            eventually("a running exchange", running, timeout_s=START_TIMEOUT_S)
            assert exchange.command("status")["ready"]
            yield exchange
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(STOP_TIMEOUT_S)
