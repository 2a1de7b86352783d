"""One whole exchange for all end-to-end tests: with one shard, and another with three for tests that are
marked so."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.local.free_ports import free_ports
from tests.support.data_dirs import METRICS_PORTS, data_dir_of_its_own
from tests.support.liquidity import wait_until_liquid
from tests.support.running_exchange import RunningExchange, running_exchange


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "exchange" in metafunc.fixturenames:
        wanted = os.environ.get("TEST_SHARD_COUNT")
        marked = metafunc.definition.get_closest_marker("shard_counts")
        counts = (int(wanted),) if wanted else marked.args if marked else (1,)
        metafunc.parametrize(
            "exchange", counts, indirect=True, scope="package", ids=lambda count: f"shards={count}"
        )


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


@pytest.fixture
def liquid(exchange_url: str) -> None:
    """Every market has quotes and a price, also after a test that has stopped who quotes."""
    wait_until_liquid(exchange_url)
