"""Processes of the exchange that start at once: forked from one that has imported everything.

To import a gateway takes a second and a half of a processor, a command of `exchange` a second, and hundreds
of tests start one. What a process does from `main()` on is the same; that each starts by its command is what
tests/e2e and tests/deploy are for.

    python -m tests.support.nursery FD

serves one client at the socket FD: a packet of JSON each for a question and its answer. When the client is
gone, it kills what still runs.
"""

import functools
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from typing import Any, Final

MODULES: Final = ("cli.main", "engine_worker.main", "feeds.main", "gateway.main", "ws_edge.main")
COMMANDS: Final = ("audit", "book", "dead", "markets", "replay", "restart", "shards", "status")
"""Commands of `exchange` that are imported; others are when they are run, as always."""
POLL_S: Final = 0.01
_PACKET_BYTES: Final = 200_000


class Forked:
    """A process; the part of `subprocess.Popen` that tests use."""

    def __init__(self, nursery: "Nursery", pid: int, module: str) -> None:
        self.pid = pid
        self.args = module
        self.returncode: int | None = None
        self._nursery = nursery

    def poll(self) -> int | None:
        """Return how it ended, as Popen does; None: it runs."""
        if self.returncode is None:
            self.returncode = self._nursery.ask(poll=self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raise TimeoutExpired when that takes longer."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            time.sleep(POLL_S)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it runs: it is not reaped before somebody has asked, so its number is nobody
        else's."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The process that has imported everything."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        with theirs:
            subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._lock = threading.Lock()

    def start(
        self, module: str, environment: Mapping[str, str], *arguments: str, outputs: tuple[int, int] = (1, 2)
    ) -> Forked:
        """Start one of MODULES; what it says goes to `outputs`, by default where ours goes now."""
        question = {"start": module, "arguments": arguments, "environment": dict(environment)}
        return Forked(self, self.ask(outputs, **question), module)

    def ask(self, outputs: tuple[int, ...] = (), /, **question: Any) -> Any:
        """Ask one thing; questions may come from several threads."""
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(question).encode()], outputs)
            return json.loads(self._socket.recv(_PACKET_BYTES))


@functools.cache
def nursery() -> Nursery:
    """Return the one of this process; it ends with it."""
    return Nursery()


def _serve(client: socket.socket) -> None:
    running: set[int] = set()
    while True:
        packet, outputs, _, _ = socket.recv_fds(client, _PACKET_BYTES, 2)
        if not packet:
            break
        question = json.loads(packet)
        if module := question.get("start"):
            pid = os.fork()
            if pid == 0:
                client.close()
                for own, given in enumerate(outputs, 1):
                    os.dup2(given, own)
                    os.close(given)
                _run([module, *question["arguments"]], question["environment"])
            running.add(pid)
            answer: int | None = pid
            for given in outputs:
                os.close(given)
        else:
            pid, status = os.waitpid(question["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
            running.discard(pid)
        client.send(json.dumps(answer).encode())
    for pid in running:
        os.kill(pid, signal.SIGKILL)


def _run(command: list[str], environment: Mapping[str, str]) -> None:
    """Be that process until it ends."""
    code = 1
    try:
        os.environ.clear()
        os.environ.update(environment)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = command
        importlib.import_module(command[0]).main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        if isinstance(ended.code, str):
            sys.stderr.write(f"{ended.code}\n")
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    for each in (*MODULES, *(f"cli.commands.{command}" for command in COMMANDS)):
        importlib.import_module(each)
    if threading.active_count() != 1:
        raise SystemExit(
            "a module starts a thread when it is imported: a process that is forked has none of it"
        )
    gc.collect()
    gc.freeze()
    # Ctrl-C is for the tests; what they have started they end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as served:
        _serve(served)
