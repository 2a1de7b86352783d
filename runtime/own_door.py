"""Checks whether a server answers its clients, by connecting to its own port like a client.

A running event loop does not prove that clients are answered: the process may be out of file descriptors, or
too busy to accept connections. Therefore a thread connects now and then. A refusal is not an answer, and the
limits per address do not apply to these requests, so that their result depends on the process alone, not on
other clients of this machine.
"""

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import websockets.exceptions
import websockets.sync.client

from runtime.probes import Probes

KNOCK_S: Final = 15.0
ANSWER_S_MAX: Final = 10.0
READY_S_MAX: Final = 40.0
"""After this time without an answer (two requests) load balancers should not use the process."""
ALIVE_S_MAX: Final = 120.0
"""After this time without an answer the process should be restarted."""

_NO_ANSWER: Final = (OSError, http.client.HTTPException, websockets.exceptions.WebSocketException)


class NoAnswerError(Exception):
    """The server does not answer, or not as a working server does; the message says what it received."""


class Knocks:
    """The local addresses of this process's own test connections, which count against no limits.

    No other client can use such an address while the socket is bound.
    """

    def __init__(self) -> None:
        self._from: set[tuple[str, int]] = set()

    def __contains__(self, peer: object) -> bool:
        """Return whether a peer, (address, port), is this process itself."""
        return bool(self._from) and isinstance(peer, tuple) and tuple(peer[:2]) in self._from

    @contextmanager
    def begun(self, knocker: socket.socket) -> Iterator[None]:
        """Record the address of a test connection, as long as it lasts."""
        name = knocker.getsockname()[:2]
        self._from.add(name)
        try:
            yield
        finally:
            self._from.discard(name)


def ask_http(
    host: str,
    port: int,
    timeout_s: float = ANSWER_S_MAX,
    knocks: Knocks | None = None,
    context: ssl.SSLContext | None = None,
) -> None:
    """Request a ping from a gateway, over TLS if there is a `context`. A refusal is not an answer.

    Raises:
        NoAnswerError: it does not answer, or refuses.
    """
    connection = http.client.HTTPConnection(local(host), port, timeout=timeout_s)
    try:
        with _connected(local(host), port, timeout_s, knocks) as knocker:
            connection.sock = knocker if context is None else context.wrap_socket(knocker)
            connection.request("GET", "/api/v3/ping")
            response = connection.getresponse()
            response.read()
    except _NO_ANSWER as error:
        raise NoAnswerError(str(error) or type(error).__name__) from error
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise NoAnswerError(f"it answers {response.status}")


def ask_websocket(
    host: str,
    port: int,
    timeout_s: float = ANSWER_S_MAX,
    knocks: Knocks | None = None,
    context: ssl.SSLContext | None = None,
) -> None:
    """Open a stream connection to an edge, over TLS if there is a `context`, and await the answer to a ping.

    A refusal is not an answer.

    Raises:
        NoAnswerError: it does not answer, or refuses.
    """
    address = local(host)
    url_host = f"[{address}]" if ":" in address else address
    scheme = "ws" if context is None else "wss"
    try:
        with (
            _connected(address, port, timeout_s, knocks) as knocker,
            websockets.sync.client.connect(
                f"{scheme}://{url_host}:{port}/ws",
                sock=knocker,
                ssl=context,
                open_timeout=timeout_s,
                close_timeout=1,
                proxy=None,
            ) as client,
        ):
            is_answered = client.ping().wait(timeout_s)
    except _NO_ANSWER as error:
        raise NoAnswerError(str(error) or type(error).__name__) from error
    if not is_answered:
        raise NoAnswerError("it does not answer a ping")


@contextmanager
def _connected(address: str, port: int, timeout_s: float, knocks: Knocks | None) -> Iterator[socket.socket]:
    """Yield a connection that `knocks` contains before the server can have accepted it."""
    family, kind, protocol, _, target = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as knocker:
        knocker.settimeout(timeout_s)
        if knocks is None:
            knocker.connect(target)
            yield knocker
            return
        knocker.bind((address, 0))  # the listener is on this machine
        with knocks.begun(knocker):
            knocker.connect(target)
            yield knocker


def local(host: str) -> str:
    """Return the address by which this machine reaches a listener on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104  # not listened on


class OwnDoor:
    """Tests a process's own port, and reports the result."""

    def __init__(
        self,
        ask: Callable[[], None],
        probes: Probes,
        knock_s: float = KNOCK_S,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._probes = probes
        self._knock_s = knock_s
        self._now_s = now_s
        self._answered_s = now_s()
        self._error = ""
        self._left = threading.Event()

    def start(self) -> None:
        """Start, after the server listens."""
        self._answered_s = self._now_s()
        self._probes.ready_when("door", lambda: self.why_not(READY_S_MAX))
        self._probes.alive_when("door", lambda: self.why_not(ALIVE_S_MAX))
        threading.Thread(target=self._knock, name="own door", daemon=True).start()

    def stop(self) -> None:
        """Stop, before the server stops listening."""
        self._left.set()
        self._probes.alive_when("door", lambda: None)

    def why_not(self, silent_s_max: float) -> str | None:
        """Return why the server counts as not answering, or None."""
        silent_s = self._now_s() - self._answered_s
        return (
            f"nobody who connects is answered for {silent_s:.0f} s: {self._error}"
            if silent_s > silent_s_max
            else None
        )

    def _knock(self) -> None:
        while not self._left.wait(self._knock_s):
            self.knock()

    def knock(self) -> None:
        """Test once."""
        try:
            self._ask()
        except NoAnswerError as error:
            self._error = str(error)
        else:
            self._answered_s = self._now_s()
