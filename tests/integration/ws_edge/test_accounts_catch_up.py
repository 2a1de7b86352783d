"""What an account's owner hears when the connection to Redis is lost and made again, whatever comes while it is being made."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import msgspec
import pytest
import redis.asyncio

from protocol import streams
from protocol.codec import encode_frame
from protocol.events import FundsDeposited
from protocol.market_data import AccountUpdate
from protocol.streams import EVENTS_FIELD
from protocol.units import AccountId, AssetUnits, TimeMs
from runtime.settings import Settings
from serving.redis_link import packed
from serving.redis_links import RedisLinks
from ws_edge.accounts import AccountStreams, AccountSubscription
from ws_edge.connection import EdgeConnection
from ws_edge.payloads import Payload

OWNER = AccountId(1001)
TIMEOUT_S = 10


class Listener(AccountSubscription):
    """Remembers the deposits that it hears of."""

    def __init__(self) -> None:
        super().__init__(OWNER, cast(EdgeConnection, None))
        self.deposits: list[str] = []

    def send(self, payload: Payload) -> None:
        if payload["e"] == "balanceUpdate":
            self.deposits.append(payload["d"][0])


def frame(number: int) -> bytes:
    amount = AssetUnits(number * 10**8)
    return encode_frame([FundsDeposited(TimeMs(number), OWNER, "BTC", amount, f"deposit {number}", ())])


def told(number: int) -> bytes:
    """What feeds publish of an entry of the log."""
    return msgspec.msgpack.encode(AccountUpdate(OWNER, f"{number}-0", msgspec.Raw(frame(number))))


async def until(is_so: Callable[[], bool]) -> None:
    """Look at every turn of the event loop."""
    while True:
        if is_so():
            return
        await asyncio.sleep(0)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator["redis.asyncio.Redis"]:
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        for number in (1, 2, 3, 4):
            fields: Any = {EVENTS_FIELD: frame(number)}
            await client.xadd(streams.events(0), fields, f"{number}-0")
        yield client


@pytest.mark.parametrize("cuts", [1, 3])
async def test_what_is_heard_while_reconnecting_does_not_hide_what_was_missed(
    redis_url: str, client: "redis.asyncio.Redis", cuts: int
) -> None:
    links = RedisLinks(redis_url, 1, on_message=lambda _channel, payload: accounts.hear(payload))
    accounts = AccountStreams(Settings().market_map(), links, client, lambda: TimeMs(0))
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
                accounts.hear(told(3))
                await until(lambda: link.ready)
            await until(lambda: len(listener.deposits) == 2)
            await client.publish(streams.account(OWNER), told(4))
            await until(lambda: "4" in listener.deposits)
    finally:
        await accounts.close()
        await links.close()
    assert listener.deposits == ["2", "3", "4"]


async def test_who_leaves_while_another_joins_does_not_make_it_deaf(
    redis_url: str, client: "redis.asyncio.Redis"
) -> None:
    """As when a client that was refused a part of its subscriptions connects anew, before the edge has seen it leave."""
    links = RedisLinks(redis_url, 1, on_message=lambda _channel, payload: accounts.hear(payload))
    accounts = AccountStreams(Settings().market_map(), links, client, lambda: TimeMs(0))
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
