"""Leaving a port, on real sockets: who waits to be accepted is served, and who comes too late was never
connected."""

import asyncio
import errno
import select
import socket
from collections.abc import Callable, Iterator

import pytest

from runtime.listening import accept_the_last, has_input

WAITING = 5
TIMEOUT_S = 60


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        made.listen(100)
        yield made


def test_who_comes_after_the_last_is_refused_and_not_reset(listener: socket.socket) -> None:
    assert _late_comer(listener, lambda: asyncio.run(accept_the_last(listener))) == errno.ECONNREFUSED


def test_a_listener_that_is_just_closed_resets_who_waits(listener: socket.socket) -> None:
    assert _late_comer(listener, lambda: None) == errno.ECONNRESET


async def test_who_waits_is_accepted_before_it_returns(listener: socket.socket) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(100))
        writer.close()

    clients = [socket.create_connection(listener.getsockname()) for _ in range(WAITING)]
    for client in clients:
        client.sendall(b"hello")
    assert has_input(listener)
    server = await asyncio.start_server(serve, sock=listener)
    await accept_the_last(listener)
    server.close()
    for client in clients:
        with client:
            assert await asyncio.to_thread(client.recv, 100) == b"hello"


def _late_comer(listener: socket.socket, leave: Callable[[], object]) -> int:
    """Return how the connection of a client ends that comes before a listener is closed, and after
    `leave`.
    """
    leave()
    with socket.socket() as client:
        client.setblocking(False)
        client.connect_ex(listener.getsockname())
        listener.close()
        poll = select.poll()
        poll.register(client, select.POLLIN | select.POLLOUT | select.POLLERR)
        while not (result := client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
            assert poll.poll(TIMEOUT_S * 1000)
        return result
