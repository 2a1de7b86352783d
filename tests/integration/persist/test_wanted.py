"""Whoever waits for the database says so, and the nudger hears it."""

import asyncio
from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
import redis.asyncio

from adapters.database import PostgresDatabase
from adapters.ingestion import PostgresIngestion
from persist.wanted import Wanted
from protocol import streams
from tests.support.eventually import eventually

SHARDS = range(3)
TIMEOUT_S = 60.0


@pytest.fixture
def wanted(redis_url: str) -> Iterator[Wanted]:
    wanted = Wanted(redis_url, SHARDS)
    assert wanted.wait(0) == set()
    yield wanted
    wanted.close()


def test_a_question_says_that_it_waits_and_then_waits(
    redis_url: str, database_url: str, wanted: Wanted
) -> None:
    async def ask() -> bool:
        database = PostgresDatabase(database_url)
        await database.start()
        async with redis.asyncio.Redis.from_url(redis_url) as client:
            await client.xadd(streams.events(1), {"e": ""}, id="7-0")
            asked = asyncio.create_task(PostgresIngestion(database, client, client).catch_up(1))
            heard = await asyncio.to_thread(wanted.wait, TIMEOUT_S)
            heard |= await asyncio.to_thread(wanted.wait, TIMEOUT_S) if not heard else set()
            was_done = asked.done()
            with psycopg.connect(database_url) as connection:
                connection.execute("INSERT INTO ingest (shard, last_id) VALUES (1, '7-0')")
            await asked
        await database.close()
        return heard == {1} and not was_done

    assert asyncio.run(ask())


def test_a_question_that_need_not_wait_says_nothing(
    redis_url: str, database_url: str, wanted: Wanted
) -> None:
    async def ask() -> None:
        database = PostgresDatabase(database_url)
        await database.start()
        async with redis.asyncio.Redis.from_url(redis_url) as client:
            await client.xadd(streams.events(1), {"e": ""}, id="7-0")
            with psycopg.connect(database_url) as connection:
                connection.execute("INSERT INTO ingest (shard, last_id) VALUES (1, '7-0')")
            await PostgresIngestion(database, client, client).catch_up(1)
        await database.close()

    asyncio.run(ask())
    assert wanted.wait(0.1) == set()


def test_several_that_wait_are_heard_together(redis_url: str, wanted: Wanted) -> None:
    with redis.Redis.from_url(redis_url) as client:
        for shard in (2, 0, 2):
            assert client.publish(streams.wanted(shard), b"") == 1
        assert wanted.wait(TIMEOUT_S) == {0, 2}


def test_it_hears_again_after_its_connection_was_cut(redis_url: str, wanted: Wanted) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.client_kill_filter(_type="pubsub")

        def heard() -> set[int]:
            client.publish(streams.wanted(0), b"")
            try:
                return wanted.wait(0.1)
            except redis.RedisError:
                return set()

        eventually("somebody heard who waits", heard)


def test_with_the_redis_users_of_an_earlier_release_it_hears_nobody(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.execute_command("ACL", "SETUSER", "earlier", "on", ">x", "+@all", "~*", "resetchannels")
        address = urlsplit(redis_url)
        wanted = Wanted(f"redis://earlier:x@{address.hostname}:{address.port}", SHARDS)
        try:
            assert wanted.wait(0.01) == set()
            client.publish(streams.wanted(0), b"")
            assert wanted.wait(0.01) == set()
        finally:
            wanted.close()
            client.acl_deluser("earlier")


def test_with_the_redis_users_of_an_earlier_release_a_question_waits_all_the_same(
    redis_url: str, database_url: str
) -> None:
    address = urlsplit(redis_url)

    async def ask() -> bool:
        database = PostgresDatabase(database_url)
        await database.start()
        earlier = redis.asyncio.Redis.from_url(f"redis://earlier:x@{address.hostname}:{address.port}")
        async with redis.asyncio.Redis.from_url(redis_url) as client, earlier:
            await client.xadd(streams.events(1), {"e": ""}, id="7-0")
            ingestion = PostgresIngestion(database, client, earlier)
            for number in (7, 8):
                await client.xadd(streams.events(1), {"e": ""}, id=f"{number}-1")
                asked = asyncio.create_task(ingestion.catch_up(1))
                await asyncio.sleep(0.1)
                was_done = asked.done()
                with psycopg.connect(database_url) as connection:
                    connection.execute(
                        "INSERT INTO ingest (shard, last_id) VALUES (1, %s) "
                        "ON CONFLICT (shard) DO UPDATE SET last_id = excluded.last_id",
                        (f"{number}-1",),
                    )
                await asked
                if was_done:
                    return False
        await database.close()
        return True

    with redis.Redis.from_url(redis_url) as client:
        client.execute_command("ACL", "SETUSER", "earlier", "on", ">x", "+@all", "~*", "resetchannels")
        try:
            assert asyncio.run(ask())
        finally:
            client.acl_deluser("earlier")
