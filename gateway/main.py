"""Serves the public API: one process, one event loop. `python -m gateway.main`."""

import asyncio
import socket
from functools import partial
from typing import Final

import structlog
import uvicorn
import uvloop

from adapters.crowd import Crowd
from adapters.metrics import CONNECTIONS, CONNECTIONS_MAX
from adapters.proxies import TrustedProxies
from adapters.wiring import opened
from functions.api.function import Group
from functions.catalog import functions_of
from gateway.app import create_app
from gateway.connection import Bounds, Connection
from gateway.door import Door, Sizes
from gateway.draining import DrainingServer
from runtime import process
from runtime.descriptors import connections_possible, raise_descriptors
from runtime.garbage import keep_what_there_is
from runtime.lifecycle import stop_event
from runtime.listening import listen
from runtime.metrics import Heartbeat
from runtime.own_door import Knocks, OwnDoor, ask_http
from runtime.probes import Probes
from runtime.process import Process
from runtime.settings import PREFIX, Settings, SettingsError
from runtime.tasks import to_the_end
from runtime.tls import ServerTls, unverified_context

PROCESS: Final = "gateway"
_LISTEN_BACKLOG: Final = 2048

_log = structlog.get_logger()


def mounted_groups(settings: Settings) -> frozenset[Group]:
    """Return the groups of functions to serve.

    Raises:
        SettingsError: one of them does not exist.
    """
    try:
        return frozenset(Group(name.strip()) for name in settings.functions.split(",") if name.strip())
    except ValueError as error:
        groups = ", ".join(Group)
        raise SettingsError(f"{PREFIX}FUNCTIONS: {error}; there are: {groups}") from error


async def serve(
    settings: Settings,
    listener: socket.socket,
    probes: Probes,
    descriptors: int,
    tls: ServerTls | None = None,
) -> None:
    """Serve until a stop request, then finish the requests in progress and stop."""
    stop = stop_event()
    name = settings.name_of_process(PROCESS)
    finish_s = settings.reply_timeout_ms // 1000 + 1
    groups = mounted_groups(settings)
    async with (
        opened(settings, name, probes, gives_funds=Group.USERS in groups) as surroundings,
        probes.turning(),
    ):
        sizes = Sizes(settings.url_bytes_max, settings.form_bytes_max, settings.body_bytes_max)
        knocks = Knocks()
        app = create_app(functions_of(groups), surroundings, sizes, settings.browser_origins(), knocks)
        connections_max = connections_possible(settings.connections_max, descriptors)
        crowd = Crowd(connections_max, settings.connections_per_address_max)
        CONNECTIONS_MAX.set(connections_max)
        CONNECTIONS.set_function(lambda: crowd.total)
        server = _make_server(app, settings, finish_s, crowd, knocks, tls)
        backlog = surroundings.backlog
        probes.ready_when("server", lambda: None if server.started else "it does not listen yet")
        heartbeat = Heartbeat(settings, name, backlog.oldest_ms)
        heartbeat.start()
        context = unverified_context() if tls is not None else None
        door = OwnDoor(
            partial(ask_http, settings.host, settings.rest_port, knocks=knocks, context=context), probes
        )
        door.start()
        # After all long-lived objects were created, so that no later collection scans them.
        keep_what_there_is()
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        stopping = asyncio.create_task(stop.wait())
        watching = [asyncio.create_task(server.watch()), *([asyncio.create_task(tls.watch())] if tls else [])]
        try:
            await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
            # Not ready first, so that load balancers send no new clients while connections are being closed.
            probes.leaving()
            door.stop()
            if not serving.done():
                _log.info("draining", connections=len(server.server_state.connections))
                await server.drain(
                    listener,
                    delay_s=settings.drain_delay_ms / 1000,
                    grace_s=settings.drain_grace_ms / 1000,
                    finish_s=finish_s,
                )
            await serving
        finally:
            stopping.cancel()
            for task in watching:
                task.cancel()
            heartbeat.stop()


def _make_server(
    app: Door, settings: Settings, finish_s: int, crowd: Crowd, knocks: Knocks, tls: ServerTls | None
) -> DrainingServer:
    return DrainingServer(
        uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            date_header=True,
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=settings.trusted_proxies or None,
            timeout_keep_alive=settings.idle_timeout_s,
            timeout_graceful_shutdown=finish_s,
        ),
        Bounds.of(settings),
        crowd,
        TrustedProxies(settings.trusted_proxies),
        knocks,
        tls.context if tls is not None else None,
    )


def main() -> None:
    """Run a gateway with the settings."""
    process.run(_run, PROCESS, log_name=lambda settings: settings.name_of_process(PROCESS))


def _run(started: Process) -> None:
    settings = started.settings
    # These raise errors in the settings before the gateway listens.
    mounted_groups(settings)
    TrustedProxies(settings.trusted_proxies)
    tls = ServerTls.of(settings)
    descriptors = raise_descriptors()
    listener = listen(settings.host, settings.rest_port, _LISTEN_BACKLOG, "REST_PORT")
    _log.info("serving", url=settings.rest_url(), functions=settings.functions)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(to_the_end(serve(settings, listener, started.probes, descriptors, tls)))


if __name__ == "__main__":
    main()
