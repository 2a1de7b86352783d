"""A connection to Redis that ends in the middle of a command is an outage like any other, also on the event
loop of production."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest
import redis.asyncio
import uvloop

from adapters.redis_link import RedisLink, packed
from runtime import redis_clients
from runtime.redis_clients import RedisOutage, asyncio_client
from tests.support.redis_servers import RedisServers


def run(program: Callable[[], Coroutine[Any, Any, None]]) -> None:
    uvloop.run(asyncio.wait_for(program(), 60))


async def break_in_the_middle(connection: Any) -> None:
    """Lose the connection between the moment in which the library has looked at it and the one in which it
    writes."""
    send = connection._send_packed_command

    async def lose_and_send(command: Any) -> None:
        connection._writer.transport.abort()
        await asyncio.sleep(0.01)  # so that it is closed, not only about to be
        connection._send_packed_command = send
        await send(command)

    connection._send_packed_command = lose_and_send


@pytest.mark.parametrize("lose", ["_writer", "_reader"])
def test_a_connection_that_the_library_closes_meanwhile_is_an_outage(redis_url: str, lose: str) -> None:
    async def program() -> None:
        connection: Any = redis_clients._AsyncConnection(
            **redis.asyncio.connection.parse_url(redis_url), socket_timeout=2
        )
        await connection.connect()
        send, read = connection._send_packed_command, connection._parser.read_response

        async def disconnect(*arguments: Any, **options: Any) -> Any:
            await connection.disconnect(nowait=True)
            return await (send if lose == "_writer" else read)(*arguments, **options)

        if lose == "_writer":
            connection._send_packed_command = disconnect
        else:
            connection._parser.read_response = disconnect

        async def ping() -> None:
            await connection.send_command("PING")
            await connection.read_response()

        with pytest.raises(RedisOutage):
            await ping()

    run(program)


@pytest.mark.parametrize("kind", [redis_clients._AsyncConnection, redis_clients._FoundAsyncConnection])
def test_a_connection_that_is_lost_while_it_sends_is_an_outage(redis_url: str, kind: type) -> None:
    async def program() -> None:
        options = redis.asyncio.connection.parse_url(redis_url)
        place = (options["host"], options["port"])

        async def find() -> tuple[str, int]:
            return place

        found = {"find": find} if kind is redis_clients._FoundAsyncConnection else {}
        connection = kind(**options, **found, socket_timeout=2)
        await connection.connect()
        await break_in_the_middle(connection)
        with pytest.raises(RedisOutage):
            await connection.send_command("PING")
        await connection.disconnect()

    run(program)


def test_the_library_alone_raises_what_nobody_expects(redis_url: str) -> None:
    # The control, and the reason: when it raises its own error, the class may go.
    async def program() -> None:
        connection = redis.asyncio.Connection(
            **redis.asyncio.connection.parse_url(redis_url), socket_timeout=2
        )
        await connection.connect()  # type: ignore[no-untyped-call]
        await break_in_the_middle(connection)
        with pytest.raises(RuntimeError, match="closed"):
            await connection.send_command("PING")
        await connection.disconnect()

    run(program)


def test_every_client_is_made_of_such_connections(
    redis_url: str, sentinel_servers: RedisServers, cluster_servers: RedisServers
) -> None:
    async def program() -> None:
        for url in (redis_url, sentinel_servers.url):
            async with asyncio_client(url, 2, 5) as client:
                assert await client.ping()
                assert issubclass(client.connection_pool.connection_class, redis_clients._LossAware)
        for url in ("rediss://127.0.0.1:1", "unix:///nowhere"):
            async with asyncio_client(url, 2, 5) as client:
                assert issubclass(client.connection_pool.connection_class, redis_clients._LossAware)
        async with asyncio_client(cluster_servers.url, 2, 5) as client:
            assert await client.set("lost", "connections")
            cluster: Any = client
            nodes = cluster.get_nodes()
            assert len(nodes) == 3
            assert {node.connection_class for node in nodes} == {redis_clients._AsyncConnection}

    run(program)


def test_a_link_that_is_being_closed_takes_nothing_more(redis_url: str) -> None:
    async def program() -> None:
        link = RedisLink(redis_url, on_message=lambda _channel, _payload: None)
        is_ready = asyncio.Event()
        link.on_ready = is_ready.set
        await link.start()
        await is_ready.wait()
        is_ready.clear()
        transport: Any = link._transport
        transport.abort()
        with pytest.raises(ConnectionError):
            link.send(packed("PING"), lambda _reply: None)
        link.subscribe("news")
        link.unsubscribe("nothing")
        await is_ready.wait()
        assert link._transport is not transport
        await link.close()

    run(program)


ASKING = 50


async def survivors_of_a_cancellation(client: "redis.asyncio.Redis") -> int:
    """Let tasks ask again and again, cancel each once, and return how many go on; they end then."""
    survived = 0

    async def ask() -> None:
        nonlocal survived
        task = asyncio.current_task()
        assert task is not None
        while not task.cancelling():
            await client.get("nothing")
        survived += 1

    asking = [asyncio.create_task(ask()) for _ in range(ASKING)]
    for turns in range(ASKING):
        for _ in range(turns):
            await asyncio.sleep(0)
        asking[turns].cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    # Neither a connection nor a reply was lost with them.
    for number in range(ASKING):
        await client.set("number", number)
        assert await client.get("number") == str(number).encode()
    return survived


def test_a_cancellation_ends_who_asks_redis_in_whatever_moment_it_comes(redis_url: str) -> None:
    async def program() -> None:
        async with asyncio_client(redis_url, 5, 5) as client:
            assert await survivors_of_a_cancellation(client) == 0

    run(program)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="asyncio.wait_for loses none since Python 3.12")
def test_the_library_alone_loses_a_cancellation(redis_url: str) -> None:
    # The control, and the reason: when it loses none, the class need not look after them.
    async def program() -> None:
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            redis_url, max_connections=5, timeout=5, socket_timeout=5
        )
        async with redis.asyncio.Redis(connection_pool=pool) as client:
            assert await survivors_of_a_cancellation(client) > 0

    run(program)


class Deaf(RedisLink):
    """A link whose task drops the first cancellation, as `asyncio.wait_for` does before Python 3.12 in a
    moment that is hard to meet."""

    async def _watch(self) -> None:
        for _ in range(2):
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        raise asyncio.CancelledError


def test_a_link_closes_although_a_cancellation_is_lost(redis_url: str) -> None:
    async def program() -> None:
        link = Deaf(redis_url)
        is_ready = asyncio.Event()
        link.on_ready = is_ready.set
        await link.start()
        await is_ready.wait()
        await asyncio.wait_for(link.close(), 10)

    run(program)
