"""What an account's owner hears when the connection to Redis is lost and made again, whatever comes while it
is being made."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import msgspec
import pytest
import redis.asyncio

from adapters.redis_link import CHANNELS_PER_COMMAND, packed
from adapters.redis_links import RedisLinks
from adapters.revocations import RevocationWatch
from protocol import streams
from protocol.codec import encode_frame
from protocol.events import FundsDeposited
from protocol.listing import Listing
from protocol.market_data import AccountUpdate
from protocol.streams import EVENTS_FIELD
from protocol.units import AccountId, AssetUnits, TimeMs
from tests.support.market_log import listing_of, market_map
from tests.support.missed_events import repeats_of
from tests.support.waiting import until
from ws_edge.accounts import AccountStreams, AccountSubscription, Standing
from ws_edge.connection import EdgeConnection
from ws_edge.payloads import Payload

LISTING = listing_of(market_map())
OWNER = AccountId(1001)
CHANNEL = streams.account(OWNER).encode()
TIMEOUT_S = 60
ACCOUNTS, AT_ONCE = 50_000, 20
SETUP_S = 120
BACK_S_MAX = 15
"""On an idle machine it takes less than two; see what the test prints."""


class Listener(AccountSubscription):
    """Remembers the deposits that it hears of."""

    def __init__(self, account_id: AccountId = OWNER) -> None:
        standing = Standing("", lambda: None)
        super().__init__(account_id, cast(EdgeConnection, None), standing, cast(RevocationWatch, None))
        self.deposits: list[str] = []

    def send(self, payload: Payload, now: TimeMs) -> None:
        if payload["e"] == "balanceUpdate":
            self.deposits.append(payload["d"][0])


def frame(number: int) -> bytes:
    amount = AssetUnits(number * 10**8)
    return encode_frame([FundsDeposited(TimeMs(number), OWNER, "BTC", amount, f"deposit {number}", ())])


def told(number: int) -> bytes:
    """What feeds publish of an entry of the log."""
    return msgspec.msgpack.encode(AccountUpdate(OWNER, f"{number}-0", msgspec.Raw(frame(number))))


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator["redis.asyncio.Redis"]:
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        for number in (1, 2, 3, 4):
            fields: Any = {EVENTS_FIELD: frame(number)}
            await client.xadd(streams.events(0), fields, f"{number}-0")
        yield client


@pytest.fixture(autouse=True)
def _feeds(redis_url: str) -> Iterator[None]:
    """What feeds answer from the log; what they publish, the tests say."""
    with repeats_of(redis_url):
        yield


@pytest.mark.parametrize("cuts", [1, 3])
async def test_what_is_heard_while_reconnecting_does_not_hide_what_was_missed(
    redis_url: str, client: "redis.asyncio.Redis", cuts: int
) -> None:
    links = RedisLinks(redis_url, 1, on_message=lambda channel, payload: accounts.hear(channel, payload))
    accounts = AccountStreams(lambda: LISTING, links, client, lambda: TimeMs(0))
    links.call_when_ready(accounts.reconnected)
    link = links.of(0)
    await links.start()
    listener = Listener()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await until(lambda: link.ready)
            await client.hset(streams.feeds_state(0), "published_id", "1-0")
            await accounts.add(listener)
            accounts.activate(listener)
            await client.hset(streams.feeds_state(0), "published_id", "3-0")
            for _ in range(cuts):
                await client.client_kill_filter(_type="pubsub")
                await until(lambda: not link.ready)
                # The channel is subscribed to again before the whole connection stands.
                accounts.hear(CHANNEL, told(3))
                await until(lambda: link.ready)
            await until(lambda: len(listener.deposits) == 2)
            await client.publish(streams.account(OWNER), told(4))
            await until(lambda: "4" in listener.deposits)
    finally:
        await accounts.close()
        await links.close()
    assert listener.deposits == ["2", "3", "4"]


def portion(after: int, numbers: list[int]) -> bytes:
    """What feeds publish of several entries of the log, at once."""
    events = [
        FundsDeposited(TimeMs(n), OWNER, "BTC", AssetUnits(n * 10**8), f"deposit {n}", ()) for n in numbers
    ]
    raw = msgspec.Raw(encode_frame(events))
    return msgspec.msgpack.encode(AccountUpdate(OWNER, f"{numbers[-1]}-0", raw, after=f"{after}-0"))


async def test_portions_that_are_published_again_with_other_ends_are_told_once(
    redis_url: str, client: "redis.asyncio.Redis"
) -> None:
    """As after a promotion of a replica that did not know yet how far feeds had come."""
    links = RedisLinks(redis_url, 1, on_message=lambda channel, payload: accounts.hear(channel, payload))
    accounts = AccountStreams(lambda: LISTING, links, client, lambda: TimeMs(0))
    await links.start()
    listener = Listener()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await until(lambda: links.of(0).ready)
            await client.hset(streams.feeds_state(0), "published_id", "1-0")
            await accounts.add(listener)
            accounts.activate(listener)
            accounts.hear(CHANNEL, portion(1, [2]))
            accounts.hear(CHANNEL, portion(1, [2, 3]))
            await asyncio.sleep(0.5)
            assert listener.deposits == ["2"]  # the mark is still where the replica's was
            accounts.hear(CHANNEL, portion(3, [4]))
            await client.hset(streams.feeds_state(0), "published_id", "4-0")
            await until(lambda: len(listener.deposits) >= 3)
            accounts.hear(CHANNEL, portion(4, [5]))
            accounts.hear(CHANNEL, portion(2, [3, 4, 5]))
            await client.hset(streams.feeds_state(0), "published_id", "5-0")
            await asyncio.sleep(0.5)
    finally:
        await accounts.close()
        await links.close()
    assert listener.deposits == ["2", "3", "4", "5"]


async def test_who_leaves_while_another_joins_does_not_make_it_deaf(
    redis_url: str, client: "redis.asyncio.Redis"
) -> None:
    """As when a client that was refused a part of its subscriptions connects anew, before the edge has seen
    it leave."""
    links = RedisLinks(redis_url, 1, on_message=lambda channel, payload: accounts.hear(channel, payload))
    accounts = AccountStreams(lambda: LISTING, links, client, lambda: TimeMs(0))
    link = links.of(0)
    await links.start()
    leaving, staying = Listener(), Listener()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await until(lambda: link.ready)
            await asyncio.gather(accounts.add(leaving), accounts.add(staying))
            accounts.remove(leaving)
            accounts.activate(staying)
            accounts.activate(leaving)  # too late: it has left
            answered = asyncio.get_running_loop().create_future()
            link.send(packed("PING"), answered.set_result)
            await answered
            await client.publish(streams.account(OWNER), told(4))
            await until(lambda: len(staying.deposits) == 1)
            assert leaving.deposits == []
    finally:
        await accounts.close()
        await links.close()


async def test_50_000_accounts_are_caught_up_at_once(redis_url: str, client: "redis.asyncio.Redis") -> None:
    """With a few questions to the shard's server, and nobody else waits for long meanwhile."""
    links = RedisLinks(redis_url, 1, on_message=lambda channel, payload: accounts.hear(channel, payload))
    accounts = AccountStreams(lambda: LISTING, links, client, lambda: TimeMs(0))
    links.call_when_ready(accounts.reconnected)
    link = links.of(0)
    await links.start()
    owner = Listener()
    listeners = [owner, *(Listener(AccountId(10_000 + number)) for number in range(ACCOUNTS - 1))]
    try:
        async with asyncio.timeout(SETUP_S):
            await until(lambda: link.ready)
            await client.hset(streams.feeds_state(0), "published_id", "1-0")
            for start in range(0, ACCOUNTS, AT_ONCE):
                await asyncio.gather(*map(accounts.add, listeners[start : start + AT_ONCE]))
            for each in listeners:
                accounts.activate(each)
        await client.hset(streams.feeds_state(0), "published_id", "4-0")
        await client.config_resetstat()
        async with asyncio.timeout(BACK_S_MAX):
            started = time.monotonic()
            await client.client_kill_filter(_type="pubsub")
            await until(lambda: not link.ready)
            await until(lambda: bool(owner.deposits))
            took_s = time.monotonic() - started
            caught_up = asyncio.get_running_loop().time()
            await accounts.mark()
            pause_s = asyncio.get_running_loop().time() - caught_up
        statistics: Any = await client.info("commandstats")
    finally:
        await accounts.close()
        await links.close()
    calls = {name.removeprefix("cmdstat_"): each["calls"] for name, each in statistics.items()}
    sys.stdout.write(
        f"\n{ACCOUNTS:,} accounts were caught up after {took_s:.2f} s, with {calls}; mark: {pause_s:.3f} s\n"
    )
    assert owner.deposits == ["2", "3", "4"]
    # Their channels, that of the answers, and that on which feeds are asked, which were cut off, too.
    assert calls["subscribe"] <= ACCOUNTS // CHANNELS_PER_COMMAND + 3
    assert calls["xrange"] + calls["hget"] < 10


async def test_a_deposit_of_an_asset_that_was_listed_a_moment_ago_waits_for_its_scale(
    redis_url: str, client: "redis.asyncio.Redis"
) -> None:
    listings = [Listing.of({}, 1)]
    links = RedisLinks(redis_url, 1, on_message=lambda channel, payload: accounts.hear(channel, payload))
    accounts = AccountStreams(lambda: listings[-1], links, client, lambda: TimeMs(0))
    await links.start()
    listener = Listener()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await until(lambda: links.of(0).ready)
            await client.hset(streams.feeds_state(0), "published_id", "1-0")
            await accounts.add(listener)
            accounts.activate(listener)
            await client.hset(streams.feeds_state(0), "published_id", "2-0")
            accounts.hear(CHANNEL, told(2))
            await asyncio.sleep(0.3)
            assert listener.deposits == []
            listings.append(LISTING)
            await until(lambda: listener.deposits == ["2"])
    finally:
        await accounts.close()
        await links.close()
