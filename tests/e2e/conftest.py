"""One whole exchange for all end-to-end tests."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.running import RunningExchange, running_exchange


@contextmanager
def _data_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="exchange-e2e-") as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A folder that the servers' users may enter."""
    with _data_dir() as path:
        yield path


@pytest.fixture(scope="session")
def exchange() -> Iterator[RunningExchange]:
    """A running exchange with a market maker."""
    with _data_dir() as path, running_exchange(path) as exchange:
        yield exchange


@pytest.fixture(scope="session")
def exchange_url(exchange: RunningExchange) -> str:
    """The base URL of its REST API."""
    return exchange.url
