"""What a request that blocks says when it is refused, or nobody answers."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from cli.local.free_ports import free_port
from client.blocking import RequestError, UnreachableError, request, signed

REFUSAL = b'{"code": -2015, "msg": "Invalid API-key, IP, or permissions for action."}'


class Refusing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(401)
        self.end_headers()
        self.wfile.write(REFUSAL)

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def refusing() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_refusal_has_the_exchanges_words_and_no_signature(refusing: str) -> None:
    with pytest.raises(RequestError, match=r"401 .*Invalid API-key") as refusal:
        signed(refusing, "key", "secret", "/api/v3/account", recvWindow=5000)
    assert not isinstance(refusal.value, UnreachableError)
    assert "signature" not in str(refusal.value)
    assert str(refusal.value).startswith(f"{refusing}/api/v3/account: ")


def test_an_exchange_that_is_not_there_is_said() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    for ask in (
        partial(request, f"{url}/api/v3/time"),
        partial(signed, url, "key", "secret", "/api/v3/account"),
    ):
        with pytest.raises(UnreachableError, match="does not answer") as unreachable:
            ask()
        assert "signature" not in str(unreachable.value)
