"""Which ports the exchange will listen on, and whether they are free."""

import fcntl
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from cli.local.processes import metrics_ports
from runtime.settings import PREFIX, REPLICA_PORTS, Settings

_QUIET_PORTS = range(15_000, 32_000)
"""Below the ports that common systems assign by themselves."""
_PROMISED_S: Final = 180
"""After this time a process that was given a port listens there, or has given up."""


class PortError(RuntimeError):
    """A port is in use; the message names the port and its setting."""


def ports_used(settings: Settings) -> Iterator[tuple[str, int, str]]:
    """Yield (host, port, setting) of every port that the processes will listen on."""
    for port in settings.rest_ports():
        yield settings.host, port, f"{PREFIX}REST_PORT"
    for port in settings.ws_ports():
        yield settings.host, port, f"{PREFIX}WS_PORT"
    if settings.frontend_enabled:
        yield settings.host, settings.frontend_port, f"{PREFIX}FRONTEND_PORT"
    for port in metrics_ports(settings).values():
        yield settings.metrics_host, port, f"{PREFIX}UP_METRICS_PORT"
    if not settings.redis_url:
        for port in settings.redis_ports():
            yield "127.0.0.1", port, f"{PREFIX}REDIS_PORT"
            if settings.redis_mode == "cluster":
                yield "127.0.0.1", port + 10_000, f"{PREFIX}REDIS_PORT"
    if settings.has_own_cache():
        yield "127.0.0.1", settings.cache_port, f"{PREFIX}CACHE_PORT"
    if not settings.database_url:
        yield "127.0.0.1", settings.postgres_port, f"{PREFIX}POSTGRES_PORT"


def check_ports(settings: Settings) -> None:
    """Check every port before anything is started.

    Raises:
        PortError: one or more are taken, or named twice.
    """
    mistakes = []
    settings_of: dict[int, str] = {}
    for host, port, setting in ports_used(settings):
        if port in settings_of:
            mistakes.append(f"port {port} is wanted twice; set {settings_of[port]} or {setting}")
        elif not _is_free(host, port):
            mistakes.append(f"port {port} is taken; set {setting}")
        settings_of[port] = setting
    if mistakes:
        raise PortError("\n".join(mistakes))


def free_port() -> int:
    """Return a free port of 127.0.0.1 that the system does not assign to outgoing connections.

    The caller has a while to listen there: until then, other processes on this machine get other ports.
    """
    return free_ports(1, offsets=(0,))


def free_ports(count: int, offsets: tuple[int, ...] = (0, 10_000)) -> int:
    """Return the first of `count` consecutive free ports; those at `offsets` above are free, too."""
    return _first_free([n + offset for n in range(count) for offset in offsets])


def free_replica_ports(count: int) -> int:
    """Return a free port for the first of `count` replicas; those of the other replicas are free, too."""
    return _first_free([number * REPLICA_PORTS for number in range(count)])


def _first_free(offsets: Iterable[int]) -> int:
    while True:
        first = secrets.choice(_QUIET_PORTS)
        if _promises.take([first + offset for offset in offsets]):
            return first


class _Promises:
    """Ports given to this process lately: each a locked byte of a file that a user's processes share.

    The kernel releases the locks of a process that ends, in any way.
    """

    def __init__(self) -> None:
        self._file: int | None = None
        self._since: dict[int, float] = {}

    def take(self, ports: list[int]) -> bool:
        """Take all of them, or none: one is in use or promised."""
        if self._file is None:
            path = Path(tempfile.gettempdir()) / f"exchange-ports-{os.getuid()}"
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        now = time.monotonic()
        for port in [port for port, since in self._since.items() if since < now - _PROMISED_S]:
            self._release(port)
        taken = []
        for port in ports:
            if not self._lock(self._file, port):
                break
            taken.append(port)
            if not _is_free("127.0.0.1", port):
                break
        else:
            return True
        for port in taken:
            self._release(port)
        return False

    def _lock(self, file: int, port: int) -> bool:
        if port in self._since:
            return False
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except OSError:
            return False
        self._since[port] = time.monotonic()
        return True

    def _release(self, port: int) -> None:
        assert self._file is not None
        del self._since[port]
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, port)


_promises: Final = _Promises()


def _is_free(host: str, port: int) -> bool:
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return True
    except OSError:
        return False
