"""Running the `exchange` command beside a running exchange."""

import subprocess
import sys

from tests.support.running_exchange import RunningExchange

TIMEOUT_S = 60


def run(exchange: RunningExchange, *arguments: str) -> str:
    """Run a command of the exchange, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        env=exchange.environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
