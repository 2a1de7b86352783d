"""A gateway and the shards behind it, as processes, on the real servers."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.gateway_processes import Processes


@pytest.fixture
def processes(redis_url: str, database_url: str, tmp_path: Path) -> Iterator[Processes]:
    """What starts gateways and shards."""
    with ExitStack() as stack:
        yield Processes(redis_url, database_url, tmp_path, stack)


@pytest.fixture
def url(processes: Processes) -> str:
    """The URL of a gateway with its shards."""
    processes.shards()
    return processes.gateway()
