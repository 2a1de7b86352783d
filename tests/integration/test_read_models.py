"""Readers of the depth put the base and its diffs together, while feeds write both."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
import redis.asyncio

from adapters.read_models import RedisReadModels
from feeds.state import Outputs, ShardFeeds
from feeds.store import FeedsStore, Mark
from protocol import streams
from protocol.depth import DIFFS_AFTER_BASE_MAX
from protocol.market_data import DepthSnapshot
from protocol.orders import Side
from protocol.stream_id import STREAM_START, StreamId
from runtime.redis_clients import asyncio_client
from tests.support.market_log import BTC, START_MS, MarketLog, frame, listing_of, market_map
from tests.support.redis_servers import RedisServers

LISTING = listing_of(market_map())
READS = 300


class Writer:
    """Feeds that write one level of the book after the other, so that the sequence tells what the book must
    be."""

    def __init__(self, url: str) -> None:
        self._store = FeedsStore.connect(url)
        self._store.take_over(0)
        self._feeds, self._log = ShardFeeds(0, market_map().markets), MarketLog()
        self._mark = Mark(STREAM_START, 0)
        self.books: list[tuple[tuple[int, int], ...]] = [()]

    def write(self, now: int = 0) -> Outputs:
        number = len(self.books)
        change = (Side.BUY, 1 + number % 50, number)
        self._feeds.apply(StreamId(START_MS, number), frame(self._log.depth(START_MS, change)))
        self.books.append(self._log.book(Side.BUY))
        outputs = self._feeds.take_outputs(now)
        following = Mark(self._feeds.position, self._feeds.time)
        self._store.commit(0, self._mark, following, outputs)
        self._mark = following
        return outputs

    def close(self) -> None:
        self._store.close()


@pytest.fixture(params=["single", "cluster"])
async def client(
    request: pytest.FixtureRequest, redis_url: str, cluster_servers: RedisServers
) -> AsyncIterator[tuple[str, "redis.asyncio.Redis"]]:
    cluster_servers.flush()
    url = redis_url if request.param == "single" else cluster_servers.url
    found = asyncio_client(url, 5, 5.0)
    yield url, found
    await found.aclose()
    cluster_servers.flush()


async def test_every_read_is_a_book_that_was_and_none_is_older_than_the_read(
    client: tuple[str, "redis.asyncio.Redis"],
) -> None:
    writer, models = Writer(client[0]), RedisReadModels(client[1], lambda: LISTING)
    assert await models.depth(BTC, 5_000) is None
    writing = True
    bases = 0

    async def write() -> None:
        nonlocal bases
        while writing:
            outputs = await asyncio.to_thread(writer.write)
            bases += streams.depth(0, BTC) in outputs.values

    for _ in range(3):
        writer.write()
    task = asyncio.create_task(write())
    number = 0
    while number < READS or bases < 2:
        number += 1
        known, limit = len(writer.books) - 2, 1 + number % 60
        book = await models.depth(BTC, limit)
        assert book is not None
        assert book.sequence >= known
        assert book.bids == writer.books[book.sequence][:limit]
    writing = False
    await task
    writer.close()


async def test_without_diffs_that_follow_the_base_alone_is_shown(
    client: tuple[str, "redis.asyncio.Redis"],
) -> None:
    writer, models = Writer(client[0]), RedisReadModels(client[1], lambda: LISTING)
    diffs_key = streams.depth_diffs(0, BTC)
    for _ in range(10):
        writer.write()
    whole = await models.depth(BTC, 5_000)
    assert whole is not None
    assert whole.sequence == 10
    newest = await client[1].lindex(diffs_key, 0)
    assert newest is not None
    # One is missing in between, one cannot be read: what is shown is of a moment ago, and right.
    for damage in (newest, b"\xc1"):
        await client[1].delete(diffs_key)
        await client[1].lpush(diffs_key, damage)
        book = await models.depth(BTC, 5_000)
        assert book is not None
        assert (book.sequence, book.bids) == (1, writer.books[1])
    # A new one does not follow on the base, either, until that is written again.
    writer.write()
    book = await models.depth(BTC, 5_000)
    assert book is not None
    assert book.sequence == 1
    writer.write(now=5_000)
    book = await models.depth(BTC, 5_000)
    assert book is not None
    assert (book.sequence, book.bids) == (12, writer.books[12])
    writer.close()


async def test_more_diffs_than_a_base_of_this_release_has_behind_it(
    client: tuple[str, "redis.asyncio.Redis"],
) -> None:
    """Such as a later release might leave: then all of the list is read."""
    writer, models = Writer(client[0]), RedisReadModels(client[1], lambda: LISTING)
    writer.write()
    base = await client[1].get(streams.depth(0, BTC))
    for _ in range(2 * DIFFS_AFTER_BASE_MAX):
        writer.write()
    assert isinstance(base, bytes)
    assert msgspec.msgpack.decode(base, type=DepthSnapshot).sequence == 1
    await client[1].set(streams.depth(0, BTC), base)
    book = await models.depth(BTC, 5_000)
    assert book is not None
    assert (book.sequence, book.bids) == (len(writer.books) - 1, writer.books[-1])
    writer.close()
