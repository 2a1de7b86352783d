"""Gateways and edges with certificate files: TLS alone, renewed while they serve.

The exchange's own clients know them.
"""

import asyncio
import os
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from websockets.sync.client import connect

from cli.local.free_ports import free_port
from client.rest import Client, UnavailableError
from frontend_server.passing_on import Passing
from runtime.own_door import NoAnswerError, ask_http, ask_websocket
from runtime.tls import LocalTrust, unverified_context
from tests.support.certificates import Files, certificate, serial_of
from tests.support.eventually import eventually
from tests.support.gateway_processes import Processes

TIMEOUT_S = 60
PING = b"GET /api/v3/ping HTTP/1.1\r\nHost: exchange\r\n\r\n"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    found = Files(tmp_path)
    found.write(*certificate())
    return found


def tls_of(files: Files) -> dict[str, str]:
    return {
        "TLS_CERTIFICATE": str(files.certificate),
        "TLS_KEY": str(files.key),
        "RATE_LIMITS_ENABLED": "false",
    }


def answers(ask: object, port: int) -> bool:
    try:
        ask("127.0.0.1", port, 5, context=unverified_context())  # type: ignore[operator]
    except NoAnswerError:
        return False
    return True


@pytest.fixture
def port(processes: Processes, files: Files) -> int:
    """The port of a gateway with TLS."""
    processes._say_markets()
    port = free_port()
    processes._start("gateway.main", REST_PORT=str(port), **tls_of(files))
    eventually("the gateway answers", lambda: answers(ask_http, port), TIMEOUT_S)
    return port


def shown(port: int) -> int:
    """Return the number of the certificate that a new connection is shown."""
    with unverified_context().wrap_socket(socket.create_connection(("127.0.0.1", port), TIMEOUT_S)) as client:
        found = client.getpeercert(binary_form=True)
        assert found is not None
        return serial_of(found)


def answered(connection: ssl.SSLSocket) -> bool:
    """Return whether a ping gets its answer."""
    connection.sendall(PING)
    said = b""
    while not said.endswith(b"{}"):
        part = connection.recv(4096)
        assert part, said
        said += part
    return said.startswith(b"HTTP/1.1 200")


def said_to_plain(port: int) -> bytes:
    """Return what is answered to a request without TLS; an alert of TLS is nothing."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as plain:
        plain.sendall(PING)
        try:
            said = plain.recv(1000)
        except ConnectionResetError:
            return b""
    return b"" if said.startswith(b"\x15\x03") else said


def test_a_gateway_speaks_tls_alone_and_takes_a_renewed_certificate(
    port: int, files: Files, processes: Processes
) -> None:
    assert said_to_plain(port) == b""
    kept = unverified_context().wrap_socket(socket.create_connection(("127.0.0.1", port), TIMEOUT_S))
    with kept:
        assert answered(kept)
        renewed = files.write(*certificate())
        eventually("the renewed certificate is shown", lambda: shown(port) == renewed, TIMEOUT_S)
        assert answered(kept)
        files.write(b"nonsense", b"nonsense")
        # Whoever is told to leave says so, and waits for nobody: the kept connection is closed by the server.
        processes.started[-1].terminate()
        while said := kept.recv(4096):
            assert said
    assert processes.started[-1].wait(TIMEOUT_S) == 0


def test_what_is_sent_slowly_is_refused_over_tls_too(processes: Processes, files: Files) -> None:
    processes._say_markets()
    port = free_port()
    processes._start("gateway.main", REST_PORT=str(port), REQUEST_TIMEOUT_MS="1000", **tls_of(files))
    eventually("the gateway answers", lambda: answers(ask_http, port), TIMEOUT_S)
    with unverified_context().wrap_socket(socket.create_connection(("127.0.0.1", port), TIMEOUT_S)) as slow:
        slow.sendall(PING[:20])
        said = b""
        while part := slow.recv(4096):
            said += part
        assert said.startswith(b"HTTP/1.1 408")
    # A handshake that does not come, either.
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as silent:
        assert silent.recv(100) == b""


def test_an_edge_speaks_tls_alone(processes: Processes, files: Files) -> None:
    processes._say_markets()
    port = free_port()
    processes._start("ws_edge.main", WS_PORT=str(port), **tls_of(files))
    eventually("the edge answers", lambda: answers(ask_websocket, port), TIMEOUT_S)
    trust = LocalTrust(files.certificate)
    with connect(f"wss://127.0.0.1:{port}/ws", ssl=trust.context) as client:
        client.send('{"method": "LIST_SUBSCRIPTIONS", "id": 1}')
        assert '"result":[]' in str(client.recv(TIMEOUT_S))
        renewed = files.write(*certificate())
        eventually("the renewed certificate is shown", lambda: shown(port) == renewed, TIMEOUT_S)
        client.send('{"method": "LIST_SUBSCRIPTIONS", "id": 2}')
        assert '"id":2' in str(client.recv(TIMEOUT_S))
    with pytest.raises((OSError, EOFError, Exception)):
        connect(f"ws://127.0.0.1:{port}/ws", open_timeout=TIMEOUT_S)


def test_the_exchanges_own_clients_know_it(port: int, files: Files, tmp_path: Path) -> None:
    url = f"https://127.0.0.1:{port}"

    async def with_the_market_makers(trust: LocalTrust | None) -> object:
        async with Client(url, trust) as client:
            return await client.get("/api/v3/ping")

    assert asyncio.run(with_the_market_makers(LocalTrust(files.certificate))) == {}
    with pytest.raises(UnavailableError):  # nobody vouches for the certificate
        asyncio.run(with_the_market_makers(None))

    async def by_the_pages_server() -> tuple[int, bytes]:
        passing = Passing(url, LocalTrust(files.certificate))
        app = web.Application()
        app.on_startup.append(passing.open)
        app.on_cleanup.append(passing.close)
        app.router.add_route("*", "/api/{path:.*}", passing.handle)
        runner = web.AppRunner(app)
        await runner.setup()
        own = free_port()
        await web.TCPSite(runner, "127.0.0.1", own).start()
        async with ClientSession() as session, session.get(f"http://127.0.0.1:{own}/api/v3/ping") as answer:
            found = answer.status, await answer.read()
        await runner.cleanup()
        return found

    assert asyncio.run(by_the_pages_server()) == (200, b"{}")
    command = (
        "from cli.rest_client import request; from runtime.settings import load_settings; "
        "print(request(load_settings().rest_url() + '/api/v3/ping'))"
    )
    environment = {
        "PATH": os.environ["PATH"],
        "EXCHANGE_REST_PORT": str(port),
        "EXCHANGE_DATA_DIR": str(tmp_path / "elsewhere"),
        **{f"EXCHANGE_{name}": value for name, value in tls_of(files).items()},
    }
    done = subprocess.run(
        [sys.executable, "-c", command], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.returncode) == ("{}\n", 0), done.stderr
