"""A separate exchange on free ports, run by the `exchange` command as a user would run it.

Used by benchmarks, chaos and tests.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cli.local.free_ports import free_ports, free_replica_ports
from cli.local.state_file import (
    ProcessState,
    ProcessStatus,
    leftover_processes,
    read_state,
    trading_processes,
)
from runtime.settings import PREFIX, Settings, load_settings

START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 60
ASK_EVERY_S = 0.1
EXCHANGE = (sys.executable, "-m", "cli.main")
_PORTS = {
    "rest_port": "gateways",
    "ws_port": "ws_edges",
    "frontend_port": "",
    "postgres_port": "",
    "cache_port": "",
}
"""Port setting -> the setting with the number of replicas."""
_REDIS_PORTS = 5
"""As many as any mode of the embedded Redis takes."""


class OwnExchangeError(RuntimeError):
    """It does not start, or a command failed; the message has the output."""


class OwnExchange(NamedTuple):
    """A running exchange in a data folder of its own, on free ports."""

    settings: Settings
    environment: Mapping[str, str]

    @property
    def url(self) -> str:
        """The base URL of the exchange's REST API."""
        return self.settings.rest_url()

    def command(self, *arguments: str, timeout_s: float = STOP_TIMEOUT_S) -> Any:
        """Return what an `exchange` command prints with --json.

        Raises:
            OwnExchangeError: the command failed.
        """
        result = subprocess.run(
            [*EXCHANGE, *arguments, "--json"],
            env=self.environment,
            capture_output=True,
            check=False,
            timeout=timeout_s,
        )
        if result.returncode:
            output = (result.stderr or result.stdout).decode()
            raise OwnExchangeError(f"exchange {' '.join(arguments)}: {output}")
        return json.loads(result.stdout)

    def processes(self) -> list[ProcessState]:
        """Return its processes as it has written them down; none when it does not run."""
        state = read_state(self.settings)
        return list(state.processes) if state else []


def own_environment(data_dir: Path, **settings: str) -> dict[str, str]:
    """Return the environment of an exchange with its data in `data_dir`, on free ports, and with `settings`.

    Ours but for the settings.

    Its processes have no metrics unless `up_metrics_port` is among them.
    """
    ports = {name: str(free_replica_ports(int(settings.get(count, "1")))) for name, count in _PORTS.items()}
    values = {"data_dir": str(data_dir), "redis_port": str(free_ports(_REDIS_PORTS)), "up_metrics_port": "0"}
    values |= ports | settings
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return inherited | {PREFIX + name.upper(): value for name, value in values.items()}


@contextmanager
def own_exchange(
    environment: Mapping[str, str], up: Sequence[str] = (*EXCHANGE, "up")
) -> Iterator[OwnExchange]:
    """Run the exchange that `environment` describes by the program `up`, until the context ends.

    Raises:
        OwnExchangeError: it does not start.
        TimeoutExpired: it did not stop in time, and was killed.
    """
    exchange = OwnExchange(load_settings(environment), environment)
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            up, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not _is_running(exchange):
                if process.poll() is not None or time.monotonic() > deadline:
                    output.seek(0)
                    raise OwnExchangeError(
                        f"the exchange did not start:\n{output.read().decode(errors='replace')}"
                    )
                time.sleep(ASK_EVERY_S)
            yield exchange
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                _kill(process, exchange.settings)
                raise


def _kill(process: "subprocess.Popen[bytes]", settings: Settings) -> None:
    process.kill()
    process.wait()
    for process_left in leftover_processes(settings):
        process_left.kill()


def _is_running(exchange: OwnExchange) -> bool:
    processes = trading_processes(exchange.processes())
    return bool(processes) and all(process.state is ProcessStatus.RUNNING for process in processes)
