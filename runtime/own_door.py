"""Whether a server answers whoever connects to it, asked the way a client asks: through its own port.

A loop that turns may still answer nobody: it has no file descriptor left, or what it does first leaves it no
time for newcomers. So a thread knocks every now and then. A refusal is no answer, and what one address may
have and ask for does not bound the knocks: whatever else comes from this machine, they tell of the process
alone.
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
"""So long without an answer, two knocks, and no balancer should send anybody here."""
ALIVE_S_MAX: Final = 120.0
"""So long, and it should be started anew."""

_NO_ANSWER: Final = (OSError, http.client.HTTPException, websockets.exceptions.WebSocketException)


class NoAnswerError(Exception):
    """Nobody answers, or not as a server that serves does; the message says what came instead."""


class Knocks:
    """From where a process knocks at its own door, now: such a connection counts against nobody's limits.

    Nobody else can come from there, as long as the socket is bound.
    """

    def __init__(self) -> None:
        self._from: set[tuple[str, int]] = set()

    def __contains__(self, peer: object) -> bool:
        """Return whether a peer, (address, port), is this process itself."""
        return bool(self._from) and isinstance(peer, tuple) and tuple(peer[:2]) in self._from

    @contextmanager
    def begun(self, knocker: socket.socket) -> Iterator[None]:
        """Note from where a knock comes, as long as it lasts."""
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
    """Ask a gateway for a ping, by TLS where there is a `context` for it. A refusal is no answer.

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
    """Open a connection to an edge, as for streams, by TLS where there is a `context` for it, and wait for
    the answer to a ping on it.

    A refusal is no answer.

    Raises:
        NoAnswerError: it does not answer, or refuses.
    """
    address = local(host)
    shown = f"[{address}]" if ":" in address else address
    scheme = "ws" if context is None else "wss"
    try:
        with (
            _connected(address, port, timeout_s, knocks) as knocker,
            websockets.sync.client.connect(
                f"{scheme}://{shown}:{port}/ws",
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
    """Yield a connection that is known to `knocks` before the server can have accepted it."""
    family, kind, protocol, _, target = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as knocker:
        knocker.settimeout(timeout_s)
        if knocks is None:
            knocker.connect(target)
            yield knocker
            return
        knocker.bind((address, 0))  # what listens there is this machine's
        with knocks.begun(knocker):
            knocker.connect(target)
            yield knocker


def local(host: str) -> str:
    """Return where this machine reaches what listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104  # not listened on


class OwnDoor:
    """Knocks at a process's own port, and says what comes of it."""

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
        """Begin, once the server listens."""
        self._answered_s = self._now_s()
        self._probes.ready_when("door", lambda: self.why_not(READY_S_MAX))
        self._probes.alive_when("door", lambda: self.why_not(ALIVE_S_MAX))
        threading.Thread(target=self._knock, name="own door", daemon=True).start()

    def stop(self) -> None:
        """End, before the server stops listening."""
        self._left.set()
        self._probes.alive_when("door", lambda: None)

    def why_not(self, silent_s_max: float) -> str | None:
        """Return what says that nobody is answered."""
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
        """Ask once."""
        try:
            self._ask()
        except NoAnswerError as error:
            self._error = str(error)
        else:
            self._answered_s = self._now_s()
