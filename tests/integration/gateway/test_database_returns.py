"""A database that has been away is used again as soon as it answers: no backoff of the pool's keeps requests
waiting."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import psycopg_pool
import pytest

from adapters import database
from adapters.database import PostgresDatabase
from functions.api.errors import ApiError

SOON_S = 0.8
"""An attempt every quarter of a second, and what a busy machine adds."""


class Door:
    """A port that leads to the database, and can be shut."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._place = parts.hostname, parts.port
        self._server: asyncio.Server | None = None
        self._port = 0
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Future[Any]] = set()
        self._url = parts

    @property
    def url(self) -> str:
        """The database's URL through this port."""
        credentials = self._url.netloc.rpartition("@")[0]
        return self._url._replace(netloc=f"{credentials}@127.0.0.1:{self._port}").geturl()

    async def open(self) -> None:
        """Let connections in."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def shut(self) -> None:
        """End all connections and refuse new ones."""
        if self._server is not None:
            self._server.close()
        for each in self._writers:
            each.transport.abort()
        self._writers.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(*self._place)
        self._writers += [writer, there[1]]
        for each in ((reader, there[1]), (there[0], writer)):
            self._tasks.add(asyncio.ensure_future(_copy(*each)))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
    writer.close()


@asynccontextmanager
async def through_a_door(url: str) -> AsyncIterator[tuple[PostgresDatabase, Door]]:
    door = Door(url)
    await door.open()
    found = PostgresDatabase(door.url)
    await found.start()
    try:
        yield found, door
    finally:
        await found.close()
        await door.shut()


async def late_s(url: str) -> float:
    """Return how long after the database's return a request that had been sent before is answered."""
    async with through_a_door(url) as (found, door):
        await found.fetch("SELECT 1")
        await door.shut()
        with pytest.raises(ApiError):
            await found.fetch("SELECT 1")  # it waits as long as a request may
        # By itself the pool tries after one second and after three, give or take a tenth, and then only after
        # five.
        await asyncio.sleep(0.6)
        asking = asyncio.ensure_future(found.fetch("SELECT 1"))
        await asyncio.sleep(0.1)
        returned_s = time.monotonic()
        await door.open()
        assert await asking == [(1,)]
        return time.monotonic() - returned_s


async def idle_s(url: str) -> float:
    """Return how long a request takes when every idle connection was lost meanwhile, and the database is
    there."""
    async with through_a_door(url) as (found, door):
        await asyncio.gather(*(found.fetch("SELECT pg_sleep(0.2)") for _ in range(8)))
        await door.shut()
        await door.open()
        began_s = time.monotonic()
        assert await found.fetch("SELECT 1") == [(1,)]
        return time.monotonic() - began_s


def test_a_database_that_returns_is_used_at_once(database_url: str) -> None:
    assert asyncio.run(late_s(database_url)) < SOON_S


def test_lost_idle_connections_delay_nobody(database_url: str) -> None:
    assert asyncio.run(idle_s(database_url)) < SOON_S


def test_by_itself_the_pool_is_late(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_RECONNECT_S", 5.0)
    assert asyncio.run(late_s(database_url)) > SOON_S


def test_by_itself_the_pool_tries_idle_connections_one_by_one(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(_: PostgresDatabase, connection: Any) -> None:
        await psycopg_pool.AsyncConnectionPool.check_connection(connection)

    monkeypatch.setattr(PostgresDatabase, "_check", check)
    with contextlib.suppress(ApiError):
        assert asyncio.run(idle_s(database_url)) > SOON_S
