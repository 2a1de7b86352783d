"""Fixtures of the properties."""

from tests.support.feed_readers import feed_reader

__all__ = ["feed_reader"]
