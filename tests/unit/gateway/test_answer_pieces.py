"""An answer is written in one piece, and always completely."""

import asyncio
from typing import Any

from uvicorn import Config

from adapters.crowd import Crowd
from adapters.proxies import TrustedProxies
from gateway.connection import Bounds, Connection, Shared
from runtime.settings import Settings

BODY = b'{"ok":true}'


class Wire(asyncio.Transport):
    """A client's side that notes what it is sent."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.sent: list[bytes] = []
        self.is_closed = False

    def write(self, data: Any) -> None:
        assert not self.is_closed
        self.sent.append(bytes(data))

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def app(scope: Any, _receive: Any, send: Any) -> None:
    """Answer by path: at once, in three parts with pauses, never completely, or nothing but a head."""
    parts = [BODY, BODY, BODY] if scope["path"] == "/parts" else [BODY]
    length = len(parts) * len(BODY)
    headers = [(b"content-length", b"%d" % length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if scope["path"] == "/breaks":
        raise RuntimeError("after the head")
    for number, part in enumerate(parts, 1):
        await send({"type": "http.response.body", "body": part, "more_body": number < len(parts)})
        await asyncio.sleep(0)


async def answer_to(*requests: bytes) -> Wire:
    config = Config(app, http=Connection, lifespan="off", log_level="critical", access_log=False)
    config.load()
    settings = Settings()
    shared = Shared(Bounds.of(settings), Crowd(10, 10), TrustedProxies(""))
    connection, wire = Connection(config=config, server_state=shared, app_state={}), Wire()
    connection.connection_made(wire)
    for request in requests:
        connection.data_received(request)
        for _ in range(50):
            await asyncio.sleep(0)
    connection.connection_lost(None)
    return wire


def request(path: str, method: str = "GET", headers: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: here\r\n{headers}\r\n".encode()


async def test_head_and_body_are_one_piece() -> None:
    wire = await answer_to(request("/"), request("/"))
    assert len(wire.sent) == 2
    for piece in wire.sent:
        assert piece.startswith(b"HTTP/1.1 200 OK\r\n")
        assert piece.endswith(b"\r\n\r\n" + BODY)


async def test_the_parts_of_a_long_answer_do_not_wait_for_each_other() -> None:
    wire = await answer_to(request("/parts"))
    assert [piece.endswith(BODY) for piece in wire.sent] == [True, True, True]
    assert wire.sent[1:] == [BODY, BODY]


async def test_an_answer_to_head_has_its_head() -> None:
    wire = await answer_to(request("/", "HEAD"), request("/"))
    assert len(wire.sent) == 2
    assert wire.sent[0].endswith(b"content-length: %d\r\n\r\n" % len(BODY))
    assert wire.sent[1].endswith(BODY)


async def test_what_was_written_of_an_answer_that_breaks_off_is_sent() -> None:
    wire = await answer_to(request("/breaks"))
    assert wire.sent
    assert wire.sent[0].startswith(b"HTTP/1.1 200 OK\r\n")
    assert wire.is_closed


async def test_answers_to_pipelined_requests_come_in_order_and_completely() -> None:
    wire = await answer_to(request("/parts") + request("/") + request("/", "HEAD") + request("/parts"))
    sent = b"".join(wire.sent)
    assert sent.count(b"HTTP/1.1 200 OK") == 4
    lengths = [len(part.partition(b"\r\n\r\n")[2]) for part in sent.split(b"HTTP/1.1 200 OK")[1:]]
    assert lengths == [3 * len(BODY), len(BODY), 0, 3 * len(BODY)]


async def test_the_last_answer_of_a_connection_is_complete_before_it_closes() -> None:
    wire = await answer_to(request("/", headers="Connection: close\r\n"))
    assert wire.is_closed
    assert wire.sent[0].endswith(b"\r\n\r\n" + BODY)
    assert len(wire.sent) == 1
