"""Feeds and an edge as processes on a real Redis.

The shards' events are those of the real core, written by the test.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.edge_processes import Edge, _end, _start, running_edge, say_markets


@pytest.fixture
def feeds(redis_url: str, tmp_path: Path) -> Iterator[None]:
    """Running feeds."""
    say_markets(redis_url)
    process = _start("feeds.main", redis_url, tmp_path)
    try:
        yield
    finally:
        _end(process)


@pytest.fixture
def edge_process(redis_url: str, tmp_path: Path) -> Iterator[Edge]:
    """A running edge."""
    with running_edge(redis_url, tmp_path) as edge:
        yield edge


@pytest.fixture
def edge(edge_process: Edge) -> str:
    """The URL of a running edge."""
    return edge_process.url
