"""A whole exchange of its own, started and stopped by the `exchange` command as a user would."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli.own_exchange import OwnExchange as RunningExchange
from cli.own_exchange import own_environment, own_exchange

__all__ = ["RunningExchange", "running_exchange"]


@contextmanager
def running_exchange(data_dir: Path, **settings: str) -> Iterator[RunningExchange]:
    """Run an exchange with its data in `data_dir` and other `settings` on free ports, until the context ends.

    It has as many shards as TEST_SHARD_COUNT says, by default one, the servers whose folders of programs TEST_POSTGRES_BIN and
    TEST_REDIS_BIN name, and a Redis in the mode that TEST_REDIS_MODE names.
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
    with own_exchange(own_environment(data_dir, **values)) as exchange:
        assert exchange.command("status")["ready"]
        yield exchange
