"""Serves WebSockets: one process, one event loop; any number of processes. `python -m ws_edge.main`.

pub:SYMBOL:KIND, account:ID ──> hub ──> connections
"""

import asyncio
import socket
import sys
from functools import partial
from typing import Final

import prometheus_client
import structlog
import uvloop
from websockets.asyncio.server import Server, serve
from websockets.frames import CloseCode

from functions.get_average_price import average_of
from protocol.market import Market
from runtime.lifecycle import stop_event
from runtime.log import configure_logs
from runtime.metrics import Heartbeat, serve_metrics
from runtime.probes import Probes
from runtime.redis_clients import asyncio_client
from runtime.settings import PREFIX, Settings, SettingsError, load_settings
from serving.clock import now_ms
from serving.wiring import Surroundings, opened
from ws_edge.conflation import Conflation, Update
from ws_edge.connection import EdgeConnection
from ws_edge.door import Doorkeeper
from ws_edge.hub import Hub
from ws_edge.sessions import serve_connection

PROCESS: Final = "ws-edge"
PING_INTERVAL_S: Final = 20
PING_TIMEOUT_S: Final = 60
CLOSE_TIMEOUT_S: Final = 3
WRITE_BUFFER_BYTES: Final = 64 * 1024
"""What a connection buffers before its client counts as slow."""
SEND_BUFFER_BYTES: Final = 64 * 1024
"""What the kernel buffers: without a bound a stuck client goes unnoticed for megabytes."""
_LISTEN_BACKLOG: Final = 1024
_REDIS_TIMEOUT_S: Final = 2.0
_REDIS_CONNECTIONS_MAX: Final = 10

_log = structlog.get_logger()

_connections = prometheus_client.Gauge("ws_edge_connections", "Open connections")
_subscriptions = prometheus_client.Gauge(
    "ws_edge_subscriptions", "Streams that connections listen to, all connections together"
)
_streams = prometheus_client.Gauge("ws_edge_streams", "Different streams that somebody listens to")


def listen(settings: Settings) -> socket.socket:
    """Return the socket to serve on.

    Raises:
        SettingsError: the port is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    try:
        listener.bind((settings.host, settings.ws_port))
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"{PREFIX}WS_PORT: cannot listen on {settings.host}:{settings.ws_port}: {error.strerror}"
        ) from error
    listener.listen(_LISTEN_BACKLOG)
    return listener


async def run(settings: Settings, listener: socket.socket, probes: Probes) -> None:
    """Serve until told to stop; then tell everybody, close with 1001, and leave."""
    stop = stop_event()
    url = settings.resolved_redis_url()
    async with opened(settings, PROCESS, probes) as surroundings, probes.turning():
        client = asyncio_client(url, _REDIS_CONNECTIONS_MAX, _REDIS_TIMEOUT_S)

        async def average_price(market: Market) -> tuple[str, int]:
            return await average_of(surroundings.ports, market, now_ms())

        hub = Hub(surroundings.ports.markets, url, client, average_price, now_ms)
        _connections.set_function(lambda: len(hub.connections))
        _subscriptions.set_function(hub.subscription_count)
        _streams.set_function(hub.stream_count)
        probes.ready_when("server", lambda: "it does not listen yet")
        probes.ready_when("hub", lambda: None if hub.connected else "the hub is not connected to Redis")
        heartbeat = Heartbeat(settings, PROCESS)
        await hub.start()
        try:
            server = await _serve(settings, listener, hub, surroundings)
            probes.ready_when("server", lambda: None)
            heartbeat.start()
            try:
                await stop.wait()
                probes.leaving()
                _log.info("draining", connections=len(hub.connections))
                await _drain(server, hub)
            finally:
                heartbeat.stop()
        finally:
            await hub.close()
            await client.aclose()


async def _serve(settings: Settings, listener: socket.socket, hub: Hub, surroundings: Surroundings) -> Server:
    return await serve(
        partial(serve_connection, hub, surroundings),
        sock=listener,
        process_request=Doorkeeper(settings, hub, surroundings.ports).admit,  # type: ignore[arg-type]  # likewise
        create_connection=partial(  # type: ignore[arg-type]  # a factory does as well as a class
            EdgeConnection, messages_per_second=settings.ws_messages_per_second
        ),
        # Frames are made once for all clients, so none of them can have a compression of its own.
        compression=None,
        max_size=settings.ws_message_bytes_max,
        server_header=None,
        ping_interval=PING_INTERVAL_S,
        ping_timeout=PING_TIMEOUT_S,
        close_timeout=CLOSE_TIMEOUT_S,
        write_limit=WRITE_BUFFER_BYTES,
    )


async def _drain(server: Server, hub: Hub) -> None:
    now = now_ms()
    farewell = Update("!serverShutdown", lambda scale: {"e": "serverShutdown", "E": now * scale}, Conflation.NEWEST)
    for connection in list(hub.connections):
        connection.announce_shutdown(farewell)
        # Not left to the server: it would wait for as long as a client does not read.
        connection.close_soon(CloseCode.GOING_AWAY, "the server is shutting down")
    server.close()
    await server.wait_closed()


def main() -> None:
    """Run an edge as the settings say."""
    try:
        settings = load_settings()
        configure_logs(settings, PROCESS)
        listener = listen(settings)
        probes = Probes()
        serve_metrics(settings, PROCESS, probes)
        _log.info("serving", url=settings.ws_url())
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(settings, listener, probes))
    except SettingsError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
