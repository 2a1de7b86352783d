"""A real gateway and a real edge notice that they answer nobody, and take nobody else's crowd for that."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from runtime.own_door import NoAnswerError, ask_http, ask_websocket
from tests.support.eventually import eventually
from tests.support.mutable_server import READY_S_MAX
from tests.support.own_servers import OwnRedis
from tests.support.probed_processes import PROCESSES, Running

Ask = Callable[[str, int, float], None]
SERVERS: dict[str, Ask] = {"gateway": ask_http, "ws-edge": ask_websocket}
ASK_S = 2.0


@pytest.fixture
def running(
    own_redis: OwnRedis, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Running]:
    for name, module in (("gateway", "gateway"), ("ws-edge", "ws_edge")):
        monkeypatch.setitem(PROCESSES, name, ("tests.support.mutable_server", module))
    with ExitStack() as stack:
        started = Running(own_redis.settings.resolved_redis_url(), database_url, tmp_path, stack)
        started.say_markets()
        yield started


def port_of(running: Running, name: str) -> int:
    return running.ws_port if name == "ws-edge" else urlsplit(running.rest_url).port or 0


def starts(running: Running, name: str, **settings: object) -> int:
    """Start a server, and return its port when it is ready, and serves."""
    running.start(name, "", **settings)
    port = port_of(running, name)
    running.until(name, 200)
    eventually(f"{name} answers", lambda: answers(SERVERS[name], port))
    return port


def answers(ask: Ask, port: int) -> bool:
    try:
        ask("127.0.0.1", port, ASK_S)
    except NoAnswerError:
        return False
    return True


@pytest.mark.parametrize("name", SERVERS)
def test_who_answers_nobody_is_not_ready_though_its_loop_turns(running: Running, name: str) -> None:
    port = starts(running, name)
    time.sleep(2 * READY_S_MAX)
    assert running.ready(name) == (200, {}), "the control: one that answers stays ready"
    os.kill(running.pids[name], signal.SIGUSR1)
    running.until(name, 503, "door", says="nobody who connects is answered")
    assert not answers(SERVERS[name], port)
    assert running.lives(name), "not yet for so long that it should be started anew"


@pytest.mark.parametrize("name", SERVERS)
def test_who_is_stopped_does_not_answer(running: Running, name: str) -> None:
    port = starts(running, name)
    os.kill(running.pids[name], signal.SIGSTOP)  # the kernel goes on to accept connections for it
    try:
        assert not answers(SERVERS[name], port)
    finally:
        os.kill(running.pids[name], signal.SIGCONT)
    eventually(f"{name} answers again", lambda: answers(SERVERS[name], port))


@pytest.mark.parametrize("name", SERVERS)
def test_a_crowd_from_this_machine_does_not_hide_the_process_from_itself(running: Running, name: str) -> None:
    """Connections and requests that use up what 127.0.0.1 may have."""
    port = starts(
        running, name,
        connections_per_address_max=5, ws_connections_per_address_max=2, request_timeout_ms=60_000,
        request_weight_per_minute=20,
    )  # fmt: skip
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        eventually("the control: nobody else from here is answered", lambda: not answers(SERVERS[name], port))
        time.sleep(2 * READY_S_MAX)
        assert running.ready(name) == (200, {})
        assert not answers(SERVERS[name], port)
