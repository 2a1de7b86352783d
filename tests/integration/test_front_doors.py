"""Whether a process serves its clients is found out as a client does: by a request, by a handshake and a
ping."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cli import inquiries
from runtime.settings import Settings
from tests.support.eventually import eventually
from tests.support.own_servers import OwnRedis
from tests.support.probed_processes import Running


@pytest.fixture
def running(own_redis: OwnRedis, database_url: str, tmp_path: Path) -> Iterator[Running]:
    with ExitStack() as stack:
        yield Running(own_redis.settings.resolved_redis_url(), database_url, tmp_path, stack)


def test_who_hangs_is_not_serving(running: Running) -> None:
    for name in ("gateway", "ws-edge"):
        running.start(name)
    settings = Settings(rest_port=urlsplit(running.rest_url).port or 0, ws_port=running.ws_port)
    for name in ("gateway", "ws-edge"):
        eventually(f"{name} serves", lambda name=name: inquiries.serving(settings)[name])  # type: ignore[misc]
        # The kernel goes on to accept connections for it.
        os.kill(running.pids[name], signal.SIGSTOP)
        try:
            assert inquiries.serving(settings)[name] is False
        finally:
            os.kill(running.pids[name], signal.SIGCONT)
        eventually(f"{name} serves again", lambda name=name: inquiries.serving(settings)[name])  # type: ignore[misc]
    assert inquiries.serving(settings) == {"gateway": True, "ws-edge": True}


def test_a_port_where_somebody_else_listens_is_no_edge(running: Running) -> None:
    running.start("gateway")
    port = urlsplit(running.rest_url).port or 0
    eventually("the gateway answers", lambda: inquiries.answers_ping(Settings(), port))
    assert not inquiries.answers_handshake(Settings(), port)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not inquiries.answers_handshake(Settings(), silent.getsockname()[1])
    assert not inquiries.answers_handshake(Settings(), 1)
