"""The processes of the exchange, in the order in which an order passes through them."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from cli.local.embedded import ServerCommand
from runtime.settings import PREFIX, Settings

_ENGINES_FROM: Final = 10
"""The first engine's metrics port, counted from EXCHANGE_UP_METRICS_PORT.

Before it are those of the other processes.
"""
_REPLICA_METRICS: Final = 1_100
"""Beyond the metrics ports of as many engine workers as there may be."""


@dataclass(frozen=True)
class ProcessSpec:
    """One process: what to run, with `environment` added to ours."""

    name: str
    command: ServerCommand
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_module(cls, name: str, module: str, *arguments: str, **settings: int | str) -> Self:
        """Return `python -m module arguments` with its own settings.

        Its working directory does not matter.
        """
        environment = {PREFIX + setting.upper(): str(value) for setting, value in settings.items()}
        return cls(name, ServerCommand((sys.executable, "-P", "-m", module, *arguments)), environment)

    def arguments(self) -> tuple[str, ...]:
        """Return the program to start and its arguments.

        A Python program starts in the newest environment.
        """
        program, *rest = self.command.arguments
        return (_newest_interpreter() if program == sys.executable else program, *rest)

    def whole_environment(self) -> dict[str, str]:
        """Return this process's environment, overridden by `environment`."""
        return {**os.environ, **self.environment}


def gateways(settings: Settings) -> list[ProcessSpec]:
    """Return the REST gateways, one for each port of `rest_ports`."""
    return [
        ProcessSpec.of_module(
            name, "gateway.main", process_name=name, rest_port=port, **_metrics(settings, offset)
        )
        for (name, offset), port in zip(
            _replicas("gateway", 0, settings.gateways), settings.rest_ports(), strict=True
        )
    ]


def engines(settings: Settings) -> list[ProcessSpec]:
    """Return the engine workers: for each shard a process, and its standbys."""
    return [
        ProcessSpec.of_module(
            name,
            "engine_worker.main",
            shard=shard,
            engine=name,
            **_metrics(settings, _ENGINES_FROM + shard + settings.shard_count * standby),
        )
        for standby in range(settings.standbys + 1)
        for shard in range(settings.shard_count)
        for name in (f"engine-{shard}-standby-{standby}" if standby else f"engine-{shard}",)
    ]


def readers(settings: Settings) -> list[ProcessSpec]:
    """Return what makes market data and history of the shards' events."""
    return [
        *feeds(settings),
        *edges(settings),
        ProcessSpec.of_module("persist-nudger", "persist.main", "nudge", **_metrics(settings, 2)),
        *persist_workers(settings),
    ]


def feeds(settings: Settings) -> list[ProcessSpec]:
    """Return what makes market data; each process has its own part of the shards."""
    shards = settings.shards_of_feeds()
    count = min(settings.feeds_processes, len(shards))
    return [
        ProcessSpec.of_module(
            name,
            "feeds.main",
            process_name=name,
            feeds_shards=",".join(map(str, shards[number::count])),
            **_metrics(settings, offset),
        )
        for number, (name, offset) in enumerate(_replicas("feeds", 1, count))
    ]


def edges(settings: Settings) -> list[ProcessSpec]:
    """Return the WebSocket edges."""
    return [
        ProcessSpec.of_module(
            name, "ws_edge.main", process_name=name, ws_port=port, **_metrics(settings, offset)
        )
        for (name, offset), port in zip(
            _replicas("ws-edge", 4, settings.ws_edges), settings.ws_ports(), strict=True
        )
    ]


def persist_workers(settings: Settings) -> list[ProcessSpec]:
    """Return the workers that store the shards' logs in the database."""
    return [
        ProcessSpec.of_module(name, "persist.main", "work", process_name=name, **_metrics(settings, offset))
        for name, offset in _replicas("persist-worker", 3, settings.persist_workers)
    ]


def clients(settings: Settings) -> list[ProcessSpec]:
    """Return the processes that use the public API only: the market maker, if it is enabled."""
    return [ProcessSpec.of_module("mm", "mm.main", **_metrics(settings, 5))] if settings.mm_enabled else []


def pages(settings: Settings) -> list[ProcessSpec]:
    """Return the web frontend's server, if it is enabled."""
    return [ProcessSpec.of_module("frontend", "frontend_server.main")] if settings.frontend_enabled else []


def urls(settings: Settings) -> dict[str, str]:
    """Return the URLs of the exchange by name: `rest`, `rest-2`, `ws`, `docs`, `frontend`."""
    api = {"rest": settings.rest_url(), "ws": settings.ws_url(), "docs": f"{settings.rest_url()}/schema"}
    secure = "s" if settings.tls_certificate else ""
    more = (("rest", "http", settings.rest_ports()), ("ws", "ws", settings.ws_ports()))
    api |= {
        f"{name}-{number}": f"{scheme}{secure}://{settings.host}:{port}"
        for name, scheme, ports in more
        for number, port in enumerate(ports[1:], 2)
    }
    return {**api, "frontend": settings.frontend_url()} if settings.frontend_enabled else api


def metrics_ports(settings: Settings) -> dict[str, int]:
    """Return the port of each process's metrics, none when they have none."""
    specs = [*gateways(settings), *engines(settings), *readers(settings), *clients(settings)]
    ports = {spec.name: int(spec.environment[f"{PREFIX}METRICS_PORT"]) for spec in specs}
    return {name: port for name, port in ports.items() if port}


def metrics_urls(settings: Settings) -> dict[str, str]:
    """Return where each process tells its metrics; beside them are /livez and /readyz."""
    host = f"[{settings.metrics_host}]" if ":" in settings.metrics_host else settings.metrics_host
    return {name: f"http://{host}:{port}/metrics" for name, port in metrics_ports(settings).items()}


def _newest_interpreter() -> str:
    """Return the interpreter of the environment that `.venv` names now, if scripts/setup made this one.

    The supervisor outlives an upgrade; processes that it starts afterwards need the environment of the new
    version. A process keeps the environment with which it started, since the folder behind the link is never
    changed.
    """
    environment = Path(sys.prefix).resolve()
    link = environment.parent.parent / ".venv"
    newest = link.resolve() / "bin" / Path(sys.executable).name
    if environment.parent.name != ".venvs" or not link.is_symlink() or not newest.exists():
        return sys.executable
    return str(newest)


def _replicas(kind: str, metrics_offset: int, count: int) -> list[tuple[str, int]]:
    """Return (name, offset of the metrics port) of the processes of a kind."""
    further = [
        (f"{kind}-{number}", _REPLICA_METRICS + 10 * number + metrics_offset)
        for number in range(2, count + 1)
    ]
    return [(kind, metrics_offset), *further]


def _metrics(settings: Settings, offset: int) -> dict[str, int]:
    return {"metrics_port": settings.up_metrics_port + offset if settings.up_metrics_port else 0}
