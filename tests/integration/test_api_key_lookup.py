"""A revoked key is refused within a second, however its revocation and lookups come together."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from typing import Any

import pytest
import redis.asyncio

from adapters.key_lookup import Signers
from adapters.key_values import RedisKeyValues
from adapters.revocations import FRESH_S, RevocationWatch
from adapters.secret_box import SecretBox
from functions.api.errors import ApiError, unavailable
from functions.users.api_key_record import KeyKind
from functions.users.revocations import Revocation, of_key
from protocol import streams
from protocol.units import AccountId

KEY, OWNER = "k" * 64, AccountId(1001)
BOX = SecretBox(b"m" * 32)
TIMEOUT_S = 30


class Keys:
    """The table of keys; an answer may be held up after it was read."""

    def __init__(self) -> None:
        self.is_revoked = self.is_away = False
        self.asked = 0
        self.was_asked = asyncio.Event()
        self.answering = asyncio.Event()
        self.answering.set()

    async def fetch(
        self, _statement: str, _parameters: Mapping[str, object] | None = None
    ) -> list[tuple[Any, ...]]:
        """Return the key, as it is when the question arrives."""
        if self.is_away:
            raise unavailable()
        self.asked += 1
        self.was_asked.set()
        sealed = BOX.seal(b"secret", KEY)
        rows: list[tuple[Any, ...]] = (
            [] if self.is_revoked else [(OWNER, KeyKind.HMAC, sealed, ["read"], [], 0)]
        )
        await self.answering.wait()
        return rows


class Process:
    """What one gateway knows of keys."""

    def __init__(self, client: redis.asyncio.Redis, table: Keys, stack: AsyncExitStack) -> None:
        self.skew = 0.0
        self.watch = RevocationWatch(client, lambda: time.monotonic() + self.skew)
        stack.push_async_callback(self.watch.close)
        self.key_values = RedisKeyValues(client)
        self.signers = Signers(self.key_values, table, BOX, self.watch, lambda: time.monotonic() + self.skew)
        stack.push_async_callback(self.signers.close)

    async def takes_it(self) -> bool:
        """Return whether it takes the key."""
        try:
            return (self.signers.cached(KEY) or await self.signers.signer(KEY)).account_id == OWNER
        except ApiError as error:
            if error.code != -2015:
                raise
            return False

    async def revoke(self, table: Keys) -> None:
        """What the function does, in its order."""
        table.is_revoked = True
        await self.watch.add(Revocation(of_key(KEY), OWNER))
        await self.key_values.remove(streams.api_key(KEY))


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.Redis.from_url(redis_url) as client, asyncio.timeout(TIMEOUT_S):
        yield client


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def test_other_processes_hear_of_it_within_a_second(
    client: redis.asyncio.Redis, stack: AsyncExitStack
) -> None:
    table = Keys()
    one, other = Process(client, table, stack), Process(client, table, stack)
    assert await one.takes_it()
    assert await other.takes_it()
    assert table.asked == 1
    await one.revoke(table)
    assert not await one.takes_it()
    await asyncio.sleep(FRESH_S)
    assert not await other.takes_it()


@pytest.mark.parametrize("has_list", [True, False])
async def test_a_lookup_that_began_before_does_not_bring_it_back(
    client: redis.asyncio.Redis, stack: AsyncExitStack, has_list: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the list (the control) the read model that the lookup writes last is believed."""
    if not has_list:
        monkeypatch.setattr(RevocationWatch, "is_revoked", lambda _self, _credential: False)
    table = Keys()
    one, late = Process(client, table, stack), Process(client, table, stack)
    table.answering.clear()
    looking = asyncio.create_task(late.takes_it())
    await table.was_asked.wait()
    await one.revoke(table)
    table.answering.set()
    await looking
    await asyncio.sleep(FRESH_S)
    assert await client.exists(streams.api_key(KEY))  # it is back in Redis, and no harm
    newcomer = Process(client, table, stack)
    assert [await each.takes_it() for each in (one, late, newcomer)] == [not has_list] * 3


async def test_what_is_remembered_does_not_count_until_the_list_was_read_again(
    client: redis.asyncio.Redis, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was stopped for a minute asks before it believes what it knew."""
    table = Keys()
    one, paused = Process(client, table, stack), Process(client, table, stack)
    assert await paused.takes_it()
    assert paused.signers.cached(KEY)
    await one.revoke(table)
    paused.skew = 50.0
    assert paused.signers.cached(KEY) is None
    assert not await paused.takes_it()


async def test_where_the_list_cannot_be_read_the_database_is_asked(
    client: redis.asyncio.Redis, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Keys()
    process = Process(client, table, stack)
    assert await process.takes_it()

    async def fail(_self: RevocationWatch) -> None:
        raise redis.exceptions.ConnectionError("away")

    monkeypatch.setattr(RevocationWatch, "_look", fail)
    await asyncio.sleep(FRESH_S + 0.5)
    asked = table.asked
    assert await process.takes_it()
    assert await process.takes_it()
    assert table.asked == asked + 2
    table.is_revoked = True
    assert not await process.takes_it()
    table.is_away = True
    with pytest.raises(ApiError) as refused:
        await process.signers.signer(KEY)
    assert refused.value.code == -1001


async def test_a_key_is_revoked_also_when_redis_is_full(
    client: redis.asyncio.Redis, stack: AsyncExitStack
) -> None:
    table = Keys()
    one, other = Process(client, table, stack), Process(client, table, stack)
    assert await one.takes_it()
    assert await other.takes_it()
    before: Any = await client.config_get("maxmemory")
    await client.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            await client.set("more", "memory")
        await one.revoke(table)
    finally:
        await client.config_set("maxmemory", before["maxmemory"])
    await asyncio.sleep(FRESH_S)
    assert not await other.takes_it()


async def test_a_list_that_lost_what_was_read_makes_everything_forgotten(
    client: redis.asyncio.Redis, stack: AsyncExitStack
) -> None:
    """As a Redis does that was restored, or replaced by a replica that had not heard of the newest."""
    table = Keys()
    process = Process(client, table, stack)
    lost: list[bool] = []
    process.watch.call_when_lost(lambda: lost.append(True))
    await process.watch.add(Revocation(of_key("another"), OWNER))
    assert await process.watch.freshened(TIMEOUT_S)
    assert await process.takes_it()
    await asyncio.sleep(FRESH_S)
    await client.delete(streams.revocations(), streams.api_key(KEY))
    table.is_revoked = True
    await asyncio.sleep(FRESH_S)
    assert lost
    assert not await process.takes_it()
