"""Whether a server answers whoever connects to it, asked the way a client asks: through its own port.

A loop that turns may still answer nobody: it has no file descriptor left, or what it does first leaves it no time for newcomers. So a
thread knocks every now and then. Any answer counts, a refusal, too; that a question is not answered at all says the process.
"""

import http.client
import threading
import time
from collections.abc import Callable
from typing import Final

import websockets.exceptions
import websockets.sync.client

from runtime.probes import Probes

KNOCK_S: Final = 15.0
"""Rarely enough that it is nothing of what one address may ask for."""
ANSWER_S_MAX: Final = 10.0
READY_S_MAX: Final = 40.0
"""So long without an answer, two knocks, and no balancer should send anybody here."""
ALIVE_S_MAX: Final = 120.0
"""So long, and it should be started anew."""

_NO_ANSWER: Final = (OSError, http.client.HTTPException, websockets.exceptions.WebSocketException)


def ask_http(host: str, port: int) -> None:
    """Ask a gateway for a ping.

    Raises:
        OSError, HTTPException: there was no answer.
    """
    connection = http.client.HTTPConnection(local(host), port, timeout=ANSWER_S_MAX)
    try:
        connection.request("GET", "/api/v3/ping")
        connection.getresponse().read()
    finally:
        connection.close()


def ask_websocket(host: str, port: int) -> None:
    """Open a connection to an edge, as for streams, and close it.

    Raises:
        OSError, WebSocketException: there was no answer.
    """
    address = local(host)
    shown = f"[{address}]" if ":" in address else address
    try:
        with websockets.sync.client.connect(
            f"ws://{shown}:{port}/ws", open_timeout=ANSWER_S_MAX, close_timeout=1, proxy=None
        ):
            pass
    except websockets.exceptions.InvalidStatus:
        pass  # an answer as well


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
            f"nobody who connects is answered for {silent_s:.0f} s: {self._error}" if silent_s > silent_s_max else None
        )

    def _knock(self) -> None:
        while not self._left.wait(self._knock_s):
            self.knock()

    def knock(self) -> None:
        """Ask once."""
        try:
            self._ask()
        except _NO_ANSWER as error:
            self._error = str(error) or type(error).__name__
        else:
            self._answered_s = self._now_s()
