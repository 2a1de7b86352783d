"""A gateway that is told to stop: whoever has sent a request gets its answer, and moves."""

import os
import signal
import socket
from urllib.parse import urlsplit

import pytest

from tests.support.gateway_processes import Processes

PING = b"GET /api/v3/ping HTTP/1.1\r\nHost: exchange\r\n\r\n"
TIMEOUT_S = 60


class Client:
    """One connection, kept alive."""

    def __init__(self, url: str) -> None:
        self._socket = socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), TIMEOUT_S)
        self._answers = self._socket.makefile("rb")

    def send(self, text: bytes) -> None:
        self._socket.sendall(text)

    def answer(self) -> tuple[int, dict[str, str]]:
        """Return status and headers."""
        status = int(self._answers.readline().split()[1])
        headers: dict[str, str] = {}
        while line := self._answers.readline().strip().decode():
            name, _, value = line.partition(": ")
            headers[name] = value
        self._answers.read(int(headers["content-length"]))
        return status, headers

    def ask(self) -> tuple[int, bool]:
        """Ask something; return status and whether the connection is closed after it."""
        self.send(PING)
        status, headers = self.answer()
        return status, headers.get("connection") == "close"

    def is_at_its_end(self) -> bool:
        """Wait until the other side closes; a reset is an error."""
        return self._answers.read() == b""


def test_everybody_is_answered_and_told_to_move(processes: Processes) -> None:
    url = processes.gateway(DRAIN_GRACE_MS="1500")
    gateway = processes.started[-1]
    in_use, idle, half_sent = Client(url), Client(url), Client(url)
    assert in_use.ask() == (200, False)
    assert idle.ask() == (200, False)
    half_sent.send(PING[:20])
    # Those come while it cannot look: it finds them in its queue together with the order to stop.
    os.kill(gateway.pid, signal.SIGSTOP)
    waiting = [Client(url) for _ in range(5)]
    for client in waiting:
        client.send(PING)
    gateway.terminate()
    os.kill(gateway.pid, signal.SIGCONT)
    assert [client.answer()[0] for client in waiting] == [200] * len(waiting)
    closed = False
    while not closed:
        status, closed = in_use.ask()
        assert status == 200
    assert in_use.is_at_its_end()
    assert idle.is_at_its_end()
    half_sent.send(PING[20:])
    assert half_sent.answer()[1]["connection"] == "close"
    assert half_sent.is_at_its_end()
    assert gateway.wait(TIMEOUT_S) == 0
    with pytest.raises(ConnectionRefusedError):
        Client(url)


def test_balancers_have_time_to_notice(processes: Processes) -> None:
    url = processes.gateway(DRAIN_DELAY_MS="60000")
    gateway = processes.started[-1]
    kept = Client(url)
    assert kept.ask() == (200, False)
    gateway.terminate()
    for _ in range(10):
        assert Client(url).ask() == (200, False)
        assert kept.ask() == (200, False)
    # It had heard the first one: the second one ends it at once.
    gateway.terminate()
    assert gateway.wait(TIMEOUT_S) == -signal.SIGTERM
