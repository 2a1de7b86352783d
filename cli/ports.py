"""Which ports the exchange will listen on, and whether they are free."""

import secrets
import socket
from collections.abc import Iterator

from cli.processes import metrics_ports
from runtime.settings import PREFIX, REPLICA_PORTS, Settings

_QUIET_PORTS = range(15_000, 32_000)
"""Below those that the common systems hand out by themselves."""


class PortError(RuntimeError):
    """A port is taken; the message names it and its setting."""


def ports_used(settings: Settings) -> Iterator[tuple[str, int, str]]:
    """Yield (host, port, setting) of every port that the processes will listen on."""
    for port in settings.rest_ports():
        yield settings.host, port, f"{PREFIX}REST_PORT"
    for port in settings.ws_ports():
        yield settings.host, port, f"{PREFIX}WS_PORT"
    if settings.frontend_enabled:
        yield settings.host, settings.frontend_port, f"{PREFIX}FRONTEND_PORT"
    for port in metrics_ports(settings).values():
        yield settings.host, port, f"{PREFIX}UP_METRICS_PORT"
    if not settings.redis_url:
        for port in settings.redis_ports():
            yield "127.0.0.1", port, f"{PREFIX}REDIS_PORT"
            if settings.redis_mode == "cluster":
                yield "127.0.0.1", port + 10_000, f"{PREFIX}REDIS_PORT"
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
    """Return a port of 127.0.0.1 that was free a moment ago, and that no outgoing connection is given by chance."""
    while True:
        port = secrets.choice(_QUIET_PORTS)
        if _is_free("127.0.0.1", port):
            return port


def free_ports(count: int) -> int:
    """Return the first of so many ports in a row that are free, and so are those 10,000 above them (a cluster's own)."""
    while True:
        first = free_port()
        if all(_is_free("127.0.0.1", first + n + offset) for n in range(count) for offset in (0, 10_000)):
            return first


def free_replica_ports(count: int) -> int:
    """Return a port that is free for the first of so many replicas, and so are those of the others."""
    while True:
        first = free_port()
        if all(_is_free("127.0.0.1", first + number * REPLICA_PORTS) for number in range(1, count)):
            return first


def _is_free(host: str, port: int) -> bool:
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return True
    except OSError:
        return False
