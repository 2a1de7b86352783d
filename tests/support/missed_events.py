"""Feeds that repeat what the log has, beside tests that say themselves what feeds publish."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import redis

from feeds.missed_events import Repeats
from protocol import streams


@contextmanager
def repeats_of(url: str, shard_count: int = 1) -> Iterator[None]:
    """Answer edges' requests of all shards on the Redis at `url`."""
    repeats = Repeats(url, url, range(shard_count))
    repeats.start()
    try:
        yield
    finally:
        repeats.close()
        with suppress(redis.RedisError), redis.Redis.from_url(url) as client:
            for shard in range(shard_count):
                client.publish(streams.repeat(shard), b"")  # which it has not to wait for, to look
        repeats.join()
