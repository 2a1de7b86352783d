"""The door of a gateway: what is not read, what is not waited for, who is not let in, and what is charged for
it."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.gateway_processes import Processes

TIMEOUT_S = 30
ENDLESS = 30_000_000
"""Bytes."""
CHUNKED = b"POST /api/v3/order HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


class Raw:
    """A connection that sends what it likes."""

    def __init__(self, url: str) -> None:
        self.socket = socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), TIMEOUT_S)

    def send(self, data: bytes) -> bool:
        """Send; return whether the other side still took it."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def status(self) -> int | None:
        """Return the status of the next answer, or None: the connection ended without one."""
        line = b"the rest of an earlier one"
        while line and not line.startswith(b"HTTP/"):
            try:
                line = self.socket.recv(65_536)
            except ConnectionResetError:
                return None
        return int(line.split()[1]) if line else None

    def is_open(self) -> bool:
        """Return whether the connection was not closed so far."""
        self.socket.setblocking(False)
        try:
            return self.socket.recv(1) != b""
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False
        finally:
            self.socket.settimeout(TIMEOUT_S)


@contextmanager
def raw(url: str) -> Iterator[Raw]:
    connection = Raw(url)
    try:
        yield connection
    finally:
        connection.socket.close()


def test_sizes(processes: Processes) -> None:
    url = processes.gateway()
    assert httpx.get(f"{url}/api/v3/ping", headers={"X-Large": "x" * 15_000}).status_code == 200
    assert httpx.get(f"{url}/api/v3/ping", headers={"X-Large": "x" * 17_000}).status_code == 431
    for count, status in ((90, 200), (101, 431)):  # the client adds some of its own
        assert (
            httpx.get(f"{url}/api/v3/ping", headers={f"X-{n}": "" for n in range(count)}).status_code
            == status
        )
    assert httpx.get(f"{url}/api/v3/ping?{'x' * 8_000}").status_code == 400
    assert httpx.get(f"{url}/api/v3/ping?{'x' * 8_200}").status_code == 414
    for path, fits, status in (
        ("/api/v3/order", 16_384, 401),
        ("/api/v3/order/test", 16_384, 401),
        ("/api/v1/signup", 65_536, 400),
    ):
        assert httpx.post(f"{url}{path}", content=b"x" * fits).status_code == status
        assert httpx.post(f"{url}{path}", content=b"x" * (fits + 1)).status_code == 413
    with raw(url) as client:  # whoever is still sending gets to know why nobody listens
        client.send(b"POST /api/v3/order HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n")
        client.send(b"x" * 2_000_000)
        assert client.status() == 413
    for begun in (
        b"GET /api/v3/ping HTTP/1.1\r\n",
        b"GET /api/v3/ping HTTP/1.1\r\nX-Large: ",
        b"GET /api/v3/ping?",
        CHUNKED + b"3\r\na=b\r\n0\r\nX-Trailer: ",
        CHUNKED + b"3;extension=",
    ):
        with raw(url) as client:
            more = b"a: b\r\n" * 100 if begun.endswith(b"1.1\r\n") else b"x" * 600
            client.send(begun)
            sent = 0
            # Buffers of the kernel may take megabytes that nobody reads.
            while sent < ENDLESS and client.send(more):
                sent += len(more)
            assert client.status() in (431, None), begun
            assert sent < ENDLESS, begun
    with raw(url) as client:  # a body of small chunks is one all the same
        client.send(CHUNKED + b"".join(b"3\r\naaa\r\n" for _ in range(1_000)) + b"0\r\n\r\n")
        assert client.status() == 401
    with raw(url) as client:  # what stands in a trailer is no header
        client.send(CHUNKED + b"3\r\n&&&\r\n0\r\nX-MBX-APIKEY: " + b"k" * 64 + b"\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += client.socket.recv(65_536)
        assert b'"code":-2014' in answer, "there is no key"


def test_deadlines(processes: Processes) -> None:
    url = processes.gateway(REQUEST_TIMEOUT_MS="2000", IDLE_TIMEOUT_S="4")
    ping = b"GET /api/v3/ping HTTP/1.1\r\nHost: x\r\n\r\n"
    with ExitStack() as stack:
        silent, dripping_head, dripping_body, idle, newlines = (
            stack.enter_context(raw(url)) for _ in range(5)
        )
        dripping_head.send(b"GET /api/v3/ping HTTP/1.1\r\nX-Slow: ")
        dripping_body.send(b"POST /api/v3/order HTTP/1.1\r\nHost: x\r\nContent-Length: 16000\r\n\r\n")
        for client in (idle, newlines):
            client.send(ping)
            assert client.status() == 200
        open_, deadline = {silent, dripping_head, dripping_body, idle, newlines}, time.monotonic() + TIMEOUT_S
        answers: dict[Raw, int | None] = {}
        while open_:
            assert time.monotonic() < deadline, "a connection is open for as long as it drips"
            for client, drop in ((dripping_head, b"x"), (dripping_body, b"x"), (newlines, b"\r\n")):
                client.send(drop)
            time.sleep(0.1)
            for client in tuple(open_):
                client.socket.settimeout(0.01)
                try:
                    answers[client] = client.status()
                except TimeoutError:
                    continue
                open_.discard(client)
        assert answers[silent] is answers[idle] is answers[newlines] is None
        assert answers[dripping_head] == answers[dripping_body] == 408


def test_connections_of_a_network_are_bounded(processes: Processes) -> None:
    url = processes.gateway(CONNECTIONS_PER_ADDRESS_MAX="20")
    with ExitStack() as stack:
        clients = [stack.enter_context(raw(url)) for _ in range(60)]
        for client in clients:
            client.send(b"GET /api/v3/ping HTTP/1.1\r\nHost: x\r\n\r\n")
        answered = [client for client in clients if client.status() == 200]
        assert len(answered) == 20
        answered[0].socket.close()
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            with raw(url) as another:
                another.send(b"GET /api/v3/ping HTTP/1.1\r\nHost: x\r\n\r\n")
                if another.status() == 200:
                    break
            assert time.monotonic() < deadline, "the one that left is counted for ever"


def used(response: httpx.Response) -> int:
    return int(response.headers["x-mbx-used-weight-1m"])


def await_new_minute() -> None:
    """Wait where the minute is about to end: what is counted starts anew with it."""
    left = 60 - time.time() % 60
    if left < 20:
        time.sleep(left + 0.1)


def test_everything_is_charged(processes: Processes) -> None:
    url = processes.gateway(RATE_LIMITS_ENABLED="true")
    await_new_minute()
    with httpx.Client(base_url=url) as http:
        before = used(http.get("/api/v3/ping"))
        for method, path, headers, status, weight in (
            ("GET", "/api/v3/nothing", {}, 404, 1),
            ("PATCH", "/api/v3/order", {}, 405, 1),
            ("OPTIONS", "/api/v3/order", {}, 204, 1),
            ("GET", "/schema/openapi.json", {}, 200, 10),
            ("GET", "/api/v3/depth?symbol=BTCUSDT&limit=abc", {}, 400, 1),
            ("GET", "/api/v3/depth?symbol=BTCUSDT&limit=5000", {}, 503, 250),
            ("GET", f"/api/v3/ping?{'x' * 9_000}", {}, 414, 1),
            ("POST", "/api/v3/order?a=%ff", {}, 400, 1),
            ("GET", "/api/v3/nothing", {"Origin": "http://127.0.0.1:3000"}, 404, 1),
        ):
            answer = http.request(method, path, headers=headers)
            assert (answer.status_code in (status, 200), used(answer) - before) == (True, weight), (
                method,
                path,
            )
            before = used(answer)
        preflight = {"Origin": "http://127.0.0.1:3000", "Access-Control-Request-Method": "POST"}
        answer = http.options("/api/v3/order", headers=preflight)
        assert (answer.status_code, used(answer) - before) == (204, 1)


# Takes long: three gateways start one after the other.
def test_a_ban_is_known_everywhere_and_outlives_a_gateway(processes: Processes) -> None:
    limited = {"RATE_LIMITS_ENABLED": "true", "REQUEST_WEIGHT_PER_MINUTE": "5"}
    url, other = processes.gateway(**limited), processes.gateway(**limited)
    await_new_minute()
    with httpx.Client(base_url=url) as http:
        statuses = [http.get("/api/v3/nothing").status_code for _ in range(620)]
        assert statuses.count(429) == 600
        assert statuses[-1] == 418
        answer = http.get("/api/v3/ping", headers={"Origin": "http://127.0.0.1:3000"})
        assert (answer.status_code, answer.json()["code"]) == (418, -1003)
        assert 0 < int(answer.headers["retry-after"]) <= 120
        assert answer.headers["access-control-allow-origin"] == "http://127.0.0.1:3000"
        assert used(answer) > 5
    with raw(url) as client:  # its body is not waited for
        client.send(b"POST /api/v3/order HTTP/1.1\r\nHost: x\r\nContent-Length: 16000\r\n\r\n")
        assert client.status() == 418
    for path in ("/schema", "/nothing"):
        assert httpx.get(url + path).status_code == 418
    another = processes.gateway(**limited)
    for each in (other, another):
        deadline = time.monotonic() + TIMEOUT_S
        while httpx.get(f"{each}/api/v3/ping").status_code != 418:
            assert time.monotonic() < deadline, "the ban is not known here"
            time.sleep(0.05)


@pytest.mark.parametrize("body", [b"{}", b" {} "])
def test_an_empty_object_says_nothing(processes: Processes, body: bytes) -> None:
    url = processes.gateway()
    answer = httpx.post(f"{url}/api/v1/signout", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 401, "it gets as far as the session"
