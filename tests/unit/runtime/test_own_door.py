"""A server that answers nobody is seen, whatever its loop says."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import cast

import pytest
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.sync.server import ServerConnection, serve

from runtime.own_door import (
    ALIVE_S_MAX,
    READY_S_MAX,
    Knocks,
    NoAnswerError,
    OwnDoor,
    ask_http,
    ask_websocket,
    local,
)
from runtime.probes import Probes

HURRIED_S = 0.5
Ask = Callable[[str, int, float], None]


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections, and says nothing on them."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def refusing() -> Iterator[int]:
    """A port that answers everything with 503."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def answer() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(
                        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                    )

        thread = threading.Thread(target=answer)
        thread.start()
        yield listener.getsockname()[1]
    thread.join()


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def standing(probes: Probes) -> tuple[bool, bool]:
    """Return whether it is ready, and whether it lives."""
    return not probes.why_not_ready(), probes.why_not_alive() is None


@pytest.mark.parametrize("ask", [ask_http, ask_websocket])
def test_who_answers_nobody_is_not_ready_and_then_does_not_live(ask: Ask, silent: int) -> None:
    clock, probes = Clock(), Probes()
    probes.turned()
    door = OwnDoor(lambda: ask("127.0.0.1", silent, HURRIED_S), probes, knock_s=3600, now_s=clock)
    door.start()
    assert standing(probes) == (True, True)
    clock.now_s += READY_S_MAX + 1
    door.knock()
    assert standing(probes) == (False, True)
    assert "nobody who connects is answered for 41 s" in probes.why_not_ready()["door"]
    clock.now_s += ALIVE_S_MAX
    assert standing(probes) == (False, False)
    # It leaves: that nobody is let in any more is meant.
    door.stop()
    assert probes.why_not_alive() is None


@pytest.mark.parametrize("ask", [ask_http, ask_websocket])
def test_a_refusal_is_no_answer(ask: Ask, refusing: int) -> None:
    """What one address may have and ask for does not bound knocks, so nothing but the process itself refuses
    one."""
    clock, probes = Clock(), Probes()
    probes.turned()
    door = OwnDoor(lambda: ask("127.0.0.1", refusing, HURRIED_S), probes, knock_s=3600, now_s=clock)
    door.start()
    for _ in range(2):
        clock.now_s += READY_S_MAX
        door.knock()
    assert standing(probes) == (False, True)
    assert "503" in probes.why_not_ready()["door"]


def test_a_pong_is_waited_for() -> None:
    """The handshake alone may come from a server that does nothing with what it is sent."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def shake_hands() -> None:
            connection, _ = listener.accept()
            with connection:
                protocol = ServerProtocol()
                protocol.receive_data(connection.recv(4096))
                (request,) = protocol.events_received()
                protocol.send_response(protocol.accept(cast("Request", request)))
                connection.sendall(b"".join(protocol.data_to_send()))
                while connection.recv(4096):
                    pass

        thread = threading.Thread(target=shake_hands)
        thread.start()
        with pytest.raises(NoAnswerError, match="ping"):
            ask_websocket("127.0.0.1", listener.getsockname()[1], HURRIED_S)
        thread.join()


def test_a_knock_is_known_by_where_it_comes_from() -> None:
    knocks, seen = Knocks(), []
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def answer() -> None:
            for _ in range(2):
                connection, peer = listener.accept()
                with connection:
                    seen.append((peer in knocks, peer))
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        port = listener.getsockname()[1]
        ask_http("127.0.0.1", port, HURRIED_S, knocks)
        ask_http("127.0.0.1", port, HURRIED_S)  # anybody else
        thread.join()
    assert [is_own for is_own, _ in seen] == [True, False]
    assert seen[0][1] not in knocks, "it is over"
    assert None not in knocks


def _taking_what_comes(connection: ServerConnection) -> None:
    for _ in connection:
        pass


def test_an_edge_is_asked_as_for_streams() -> None:
    with serve(_taking_what_comes, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        ask_websocket("0.0.0.0", server.socket.getsockname()[1])  # asked, not listened on
        server.shutdown()
        thread.join()


def test_where_nobody_listens_there_is_no_answer(unused_tcp_port: int) -> None:
    for ask in (ask_http, ask_websocket):
        with pytest.raises(NoAnswerError, match="refused"):
            ask("127.0.0.1", unused_tcp_port)


def test_it_knocks_by_itself() -> None:
    knocked = threading.Event()
    door = OwnDoor(knocked.set, Probes(), knock_s=0.01)
    door.start()
    assert knocked.wait(30)
    door.stop()


@pytest.mark.parametrize(
    ("host", "reached"), [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("10.0.0.7", "10.0.0.7")]
)
def test_where_a_server_is_reached(host: str, reached: str) -> None:
    assert local(host) == reached


async def test_a_loop_that_turns_hides_nothing(silent: int) -> None:
    """What this is for: the loop says that it turns, and the process answers nobody."""
    clock, probes = Clock(), Probes()
    door = OwnDoor(lambda: ask_http("127.0.0.1", silent, HURRIED_S), probes, knock_s=3600, now_s=clock)
    async with probes.turning():
        await asyncio.sleep(0)
        door.start()
        clock.now_s += ALIVE_S_MAX + 1
        await asyncio.to_thread(door.knock)
        assert standing(probes) == (False, False)
