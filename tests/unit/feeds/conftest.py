"""Every test of feeds runs with the compiled reader of event frames, and without it."""

import pytest

from tests.support.feed_readers import feed_reader

__all__ = ["feed_reader"]


@pytest.fixture(scope="module", autouse=True)
def _each_reader(feed_reader: None) -> None:
    """Use the reader in all modules of this folder."""
