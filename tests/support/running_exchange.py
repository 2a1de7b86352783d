"""A whole exchange of its own, started and stopped by the `exchange` command as a user would."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

from typing_extensions import override

from cli.local.own_exchange import (
    STOP_TIMEOUT_S,
    OwnExchange,
    OwnExchangeError,
    own_environment,
    own_exchange,
)
from tests.support.nursery import nursery


class RunningExchange(OwnExchange):
    """An exchange that answers; its commands are run without importing them anew each time."""

    __slots__ = ()

    @override
    def command(self, *arguments: str, timeout_s: float = STOP_TIMEOUT_S) -> Any:
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            outputs = output.fileno(), errors.fileno()
            process = nursery().start("cli.main", self.environment, *arguments, "--json", outputs=outputs)
            try:
                code = process.wait(timeout_s)
            except TimeoutExpired:
                process.kill()
                raise
            for each in (output, errors):
                each.seek(0)
            if code:
                said = (errors.read() or output.read()).decode()
                raise OwnExchangeError(f"exchange {' '.join(arguments)}: {said}")
            return json.loads(output.read())


@contextmanager
def running_exchange(data_dir: Path, **settings: str) -> Iterator[RunningExchange]:
    """Run an exchange with its data in `data_dir` and other `settings` on free ports, until the context ends.

    It has as many shards as TEST_SHARD_COUNT says, by default one, the servers whose folders of programs
    TEST_POSTGRES_BIN and TEST_REDIS_BIN name, and a Redis in the mode that TEST_REDIS_MODE names.
    """
    values = {
        "frontend_enabled": "false",
        "redis_mode": os.environ.get("TEST_REDIS_MODE", "single"),
        "postgres_bin": os.environ.get("TEST_POSTGRES_BIN", ""),
        "redis_bin": os.environ.get("TEST_REDIS_BIN", ""),
        "shard_count": os.environ.get("TEST_SHARD_COUNT", "1"),
        # All tests come from one address, and each asks more often than a client would.
        "request_weight_per_minute": "10000000",
        **settings,
    }
    with own_exchange(own_environment(data_dir, **values)) as started:
        exchange = RunningExchange(*started)
        assert exchange.command("status")["ready"]
        yield exchange
