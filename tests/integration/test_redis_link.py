"""A listener with 50,000 channels is back within seconds after Redis was away."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
import redis.asyncio
import structlog

from adapters import redis_link
from adapters.redis_link import CHANNELS_PER_COMMAND, RedisLink
from protocol import streams
from tests.support.own_servers import OwnRedis

CHANNELS: Final = 50_000
BACK_S_MAX: Final = 15.0
"""On an idle machine it takes less than one; see what the test prints."""
CONTROL_S: Final = 5.0
TOLD: Final = (0, 1, 999, 1_000, 25_000, CHANNELS - 1)


class OneByOne(RedisLink):
    """How it was: a round trip per channel, and all of them within one limit."""

    async def _set_up(self) -> None:
        await asyncio.wait_for(super()._set_up(), 2.0)

    async def _subscribe_all(self) -> None:
        for channel in list(self._channels):
            await self._ask("SUBSCRIBE", channel)


async def until(is_so: Callable[[], bool | Awaitable[bool]], timeout_s: float = BACK_S_MAX) -> bool:
    """Return whether it is so within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = is_so()
        if found if isinstance(found, bool) else await found:
            return True
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.005)


@asynccontextmanager
async def listening(
    server: OwnRedis, kind: type[RedisLink], heard: list[bytes], channels: int = CHANNELS
) -> AsyncIterator[RedisLink]:
    """A link that was connected, with all its channels, before Redis was killed."""
    link = kind(
        server.settings.resolved_redis_url(), on_message=lambda channel, _payload: heard.append(channel)
    )
    await link.start()
    try:
        assert await until(lambda: link.ready)
        for number in range(channels):
            link.subscribe(streams.account(number))
        async with client_of(server) as client:

            async def stand() -> bool:
                return await subscribed(client) >= channels

            assert await until(stand)
        server.kill()
        assert await until(lambda: not link.ready)
        yield link
    finally:
        await link.close()


def client_of(server: OwnRedis) -> "redis.asyncio.Redis":
    return redis.asyncio.Redis.from_url(server.settings.resolved_redis_url())


async def subscribed(client: "redis.asyncio.Redis") -> int:
    return max(int(each["sub"]) for each in await client.client_list())


async def test_50_000_channels_are_back_within_seconds(own_redis: OwnRedis) -> None:
    heard: list[bytes] = []
    async with listening(own_redis, RedisLink, heard) as link:
        own_redis.start()
        started = time.monotonic()
        assert await until(lambda: link.ready)
        took_s = time.monotonic() - started
        sys.stdout.write(f"\n{CHANNELS:,} channels were back after {took_s:.2f} s\n")
        async with client_of(own_redis) as client:
            assert await subscribed(client) == CHANNELS
            statistics: Any = await client.info("commandstats")
            assert statistics["cmdstat_subscribe"]["calls"] == CHANNELS // CHANNELS_PER_COMMAND
            for number in TOLD:
                await client.publish(streams.account(number), b"")
        assert await until(lambda: len(heard) == len(TOLD))
    assert heard == [streams.account(number).encode() for number in TOLD]


async def test_a_round_trip_per_channel_within_one_limit_is_never_back(own_redis: OwnRedis) -> None:
    async with listening(own_redis, OneByOne, []) as link:
        own_redis.start()
        assert not await until(lambda: link.ready, CONTROL_S)


async def test_an_outage_that_goes_on_is_logged_again(
    own_redis: OwnRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_link, "_LOG_EVERY_S", 0.3)
    with structlog.testing.capture_logs() as logs:
        async with listening(own_redis, RedisLink, [], channels=1) as link:
            assert await until(lambda: sum(each["event"] == "redis unreachable" for each in logs) >= 3)
            own_redis.start()
            assert await until(lambda: link.ready)
    said = [each for each in logs if each["event"] == "redis unreachable"]
    assert said[0]["attempts"] == 1
    assert said[-1]["attempts"] > len(said), "not every attempt is logged"
    assert said[-1]["seconds"] > 0
    assert [each["event"] for each in logs][-1] == "redis reached again"


class Wire:
    """Between a link and its server: hands the server's bytes on at `bytes_per_s`, and none beyond
    `bytes_max` of a connection."""

    def __init__(self, bytes_per_s: float = float("inf"), *bytes_max: int) -> None:
        self.connections = 0
        self._bytes_per_s = bytes_per_s
        self._bytes_max = list(bytes_max)
        self._writers: list[asyncio.StreamWriter] = []

    @asynccontextmanager
    async def before(self, redis_url: str) -> AsyncIterator[str]:
        """Yield the URL of a way to the server that leads through here."""
        address = redis.asyncio.connection.parse_url(redis_url)

        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            far_reader, far_writer = await asyncio.open_connection(address["host"], address["port"])
            bytes_max = (
                self._bytes_max[self.connections] if self.connections < len(self._bytes_max) else sys.maxsize
            )
            self.connections += 1
            self._writers += [writer, far_writer]
            there = self._hand_on(reader, far_writer, float("inf"), sys.maxsize)
            back = self._hand_on(far_reader, writer, self._bytes_per_s, bytes_max)
            await asyncio.gather(there, back, return_exceptions=True)

        server = await asyncio.start_server(take, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        credentials, _, _ = redis_url.rpartition("@")
        try:
            yield f"{credentials}@{host}:{port}" if credentials else f"redis://{host}:{port}"
        finally:
            server.close()
            for each in self._writers:
                each.transport.abort()

    async def _hand_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bytes_per_s: float, bytes_max: int
    ) -> None:
        handed = 0
        while data := await reader.read(4_096):
            data = data[: bytes_max - handed]
            handed += len(data)
            writer.write(data)
            await asyncio.sleep(len(data) / bytes_per_s)
        writer.close()


async def test_a_slow_server_is_waited_for_as_long_as_it_gets_further(redis_url: str) -> None:
    wire = Wire(800_000.0)
    async with wire.before(redis_url) as url:
        link = RedisLink(url, on_message=lambda *_: None)
        for number in range(CHANNELS):
            link.subscribe(streams.account(number))
        started = time.monotonic()
        await link.start()
        try:
            assert await until(lambda: link.ready)
        finally:
            await link.close()
    assert time.monotonic() - started > redis_link._SETUP_SILENCE_S, "it was not slow enough to show anything"
    assert wire.connections == 1


async def test_a_server_that_falls_silent_is_left(redis_url: str) -> None:
    wire = Wire(float("inf"), 200_000)
    with structlog.testing.capture_logs() as logs:
        async with wire.before(redis_url) as url:
            link = RedisLink(url, on_message=lambda *_: None)
            for number in range(CHANNELS):
                link.subscribe(streams.account(number))
            await link.start()
            try:
                assert await until(lambda: link.ready)
            finally:
                await link.close()
    assert wire.connections == 2
    assert next(each.get("error") for each in logs) == "Redis has said nothing for 2 s"


async def test_channels_that_come_and_go_while_it_connects_are_listened_to_or_not(redis_url: str) -> None:
    heard: list[bytes] = []
    async with Wire(800_000.0).before(redis_url) as url, redis.asyncio.Redis.from_url(redis_url) as client:

        async def is_under_way() -> bool:
            return await subscribed(client) > 0

        async def nobody_listens() -> bool:
            return not await client.publish(streams.account(0), b"")

        link = RedisLink(url, on_message=lambda channel, _payload: heard.append(channel))
        for number in range(CHANNELS):
            link.subscribe(streams.account(number))
        await link.start()
        try:
            assert await until(is_under_way)
            assert not link.ready
            link.subscribe("late")
            link.unsubscribe(streams.account(0))
            assert await until(lambda: link.ready)
            assert await until(nobody_listens)
            heard.clear()
            assert await client.publish("late", b"") == 1
            assert await until(lambda: heard == [b"late"])
        finally:
            await link.close()
