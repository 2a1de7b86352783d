"""Load without an end of its own: it goes on until the test has seen enough, so nothing depends on the
machine's speed."""

import asyncio
from collections.abc import Callable

import redis.asyncio

from protocol import streams
from protocol.codec import encode_frame
from protocol.events import Event
from protocol.streams import EVENTS_FIELD
from tests.support.shard_log import ShardLog

COMMANDS_PER_S = 600
BATCH = 3
"""Commands of one entry."""


class Load:
    """Trades at random and writes what comes of it.

    `follow` gets the events right before they are written.
    """

    def __init__(self, redis_url: str, log: ShardLog, follow: Callable[[list[Event]], None]) -> None:
        self._redis_url = redis_url
        self._log = log
        self._follow = follow
        self._written = 0

    async def until(self, enough: Callable[[], bool]) -> None:
        """Trade at a steady rate until it is enough."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        async with redis.asyncio.Redis.from_url(self._redis_url) as client:
            while not enough():
                self._log.trade(BATCH, batch=BATCH, gap_ms=5)
                for shard, _, events in self._log.entries[self._written :]:
                    self._follow(events)
                    await client.xadd(streams.events(shard), {EVENTS_FIELD: encode_frame(events)})
                self._written = len(self._log.entries)
                due += BATCH / COMMANDS_PER_S
                await asyncio.sleep(max(0.0, due - loop.time()))
