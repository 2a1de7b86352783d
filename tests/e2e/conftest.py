"""One whole exchange for all end-to-end tests: with one shard, and another with three for tests that are
marked so."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli.local.free_ports import free_ports
from tests.support.running_exchange import RunningExchange, running_exchange

METRICS_PORTS = 20
"""As many as its processes take, and some to spare."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "exchange" in metafunc.fixturenames:
        wanted = os.environ.get("TEST_SHARD_COUNT")
        marked = metafunc.definition.get_closest_marker("shard_counts")
        counts = (int(wanted),) if wanted else marked.args if marked else (1,)
        metafunc.parametrize(
            "exchange", counts, indirect=True, scope="package", ids=lambda count: f"shards={count}"
        )


@contextmanager
def data_dir_of_its_own() -> Iterator[Path]:
    """Yield a folder that the servers' users may enter."""
    with tempfile.TemporaryDirectory(prefix="exchange-e2e-") as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A folder that the servers' users may enter."""
    with data_dir_of_its_own() as path:
        yield path


@pytest.fixture(scope="package")
def exchange(request: pytest.FixtureRequest) -> Iterator[RunningExchange]:
    """A running exchange with a market maker.

    It ends with these tests: beside the others it would take half a core.
    """
    with (
        data_dir_of_its_own() as path,
        running_exchange(
            path,
            shard_count=str(request.param),
            frontend_enabled="true",
            up_metrics_port=str(free_ports(METRICS_PORTS)),
        ) as exchange,
    ):
        yield exchange


@pytest.fixture(scope="package")
def exchange_url(exchange: RunningExchange) -> str:
    """The base URL of its REST API."""
    return exchange.url
