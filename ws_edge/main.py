"""Serves WebSockets: one process, one event loop; any number of processes. `python -m ws_edge.main`.

pub:SYMBOL:KIND, account:ID ──> hub ──> connections
"""

import asyncio
import socket
from functools import partial
from typing import Any, Final

import prometheus_client
import structlog
import uvloop
from websockets.asyncio.server import Server, serve
from websockets.frames import CloseCode

from adapters.bans import Ban
from adapters.clock import now_ms
from adapters.crowd import Crowd
from adapters.proxies import TrustedProxies
from adapters.wiring import Surroundings, opened
from functions.market_data.get_average_price import average_of
from protocol.market import Market
from runtime import process
from runtime.database_roles import ServiceRole
from runtime.descriptors import connections_possible, raise_descriptors
from runtime.garbage import keep_what_there_is
from runtime.lifecycle import stop_event
from runtime.listening import accept_the_last, listen, until
from runtime.metrics import Heartbeat
from runtime.own_door import Knocks, OwnDoor, ask_websocket
from runtime.probes import Probes
from runtime.process import Process
from runtime.redis_clients import asyncio_client
from runtime.settings import Settings
from runtime.tasks import to_the_end
from runtime.tls import ServerTls, unverified_context
from ws_edge.admission import Doorkeeper
from ws_edge.conflation import Conflation, Update
from ws_edge.connection import BANNED, EdgeConnection
from ws_edge.hub import Hub
from ws_edge.requests import serve_connection

PROCESS: Final = "ws-edge"
PING_INTERVAL_S: Final = 20
PING_TIMEOUT_S: Final = 60
CLOSE_TIMEOUT_S: Final = 3
WRITE_BUFFER_BYTES: Final = 64 * 1024
"""The write buffer of a connection, above which its client counts as slow."""
SEND_BUFFER_BYTES: Final = 64 * 1024
"""The kernel's buffer: without a limit a stuck client goes unnoticed for megabytes."""
BAN_GRACE_S: Final = 1.0
"""How long a connection of a newly banned network stays open."""
_LISTEN_BACKLOG: Final = 1024
_REDIS_TIMEOUT_S: Final = 2.0
_REDIS_CONNECTIONS_MAX: Final = 10

_log = structlog.get_logger()

_connections = prometheus_client.Gauge("ws_edge_connections", "Open connections")
_connections_max = prometheus_client.Gauge(
    "ws_edge_connections_max", "Connections that this edge holds at most"
)
_subscriptions = prometheus_client.Gauge(
    "ws_edge_subscriptions", "Streams that connections listen to, all connections together"
)
_late = prometheus_client.Gauge(
    "ws_edge_late_seconds", "How long the oldest update that the loop has not come to deliver has waited"
)
_streams = prometheus_client.Gauge("ws_edge_streams", "Different streams that somebody listens to")


async def run(
    settings: Settings,
    listener: socket.socket,
    probes: Probes,
    descriptors: int,
    tls: ServerTls | None = None,
) -> None:
    """Serve until a stop request; then announce it, finish requests, close with 1001, and stop."""
    stop = stop_event()
    cache_url = settings.resolved_cache_url()
    name = settings.name_of_process(PROCESS)
    async with opened(settings, name, probes, role=ServiceRole.EDGE) as surroundings, probes.turning():
        cache = asyncio_client(cache_url, _REDIS_CONNECTIONS_MAX, _REDIS_TIMEOUT_S)

        async def average_price(market: Market) -> tuple[str, int]:
            return await average_of(surroundings.ports, market, now_ms())

        markets = surroundings.markets
        hub = Hub(settings.shard_count, cache_url, cache, average_price, now_ms, markets.listing)
        markets.call_when_changed(hub.follow)
        surroundings.revocations.call_when_revoked(hub.accounts.revoke)
        surroundings.revocations.call_when_lost(hub.accounts.distrust)
        _connections_max.set(settings.ws_connections_max)
        _connections.set_function(lambda: len(hub.connections))
        _subscriptions.set_function(hub.subscription_count)
        _streams.set_function(hub.stream_count)
        _late.set_function(hub.late_s)
        probes.ready_when("server", lambda: "it does not listen yet")
        probes.ready_when(
            "hub", lambda: None if hub.connected else "the hub is not connected to Redis", once=True
        )
        heartbeat = Heartbeat(settings, name)
        door = Doorkeeper(settings, hub, surroundings.ports, surroundings.limits)
        surroundings.limits.call_when_banned(partial(_send_away, hub))
        # Before the first client is admitted: a subscriber at once receives what the hub knows.
        await hub.start()
        try:
            peers = Crowd(
                connections_possible(2 * settings.ws_connections_max, descriptors),
                2 * settings.ws_connections_per_address_max,
            )
            knocks = Knocks()
            keep_what_there_is()
            server = await _serve(settings, listener, hub, door, surroundings, peers, knocks, tls)
            probes.ready_when("server", lambda: None)
            heartbeat.start()
            context = unverified_context() if tls is not None else None
            knock = partial(ask_websocket, settings.host, settings.ws_port, knocks=knocks, context=context)
            own_door = OwnDoor(knock, probes)
            watching = asyncio.create_task(tls.watch()) if tls is not None else None
            own_door.start()
            try:
                await stop.wait()
                # Not ready first, so that load balancers send no new clients while connections are closed.
                probes.leaving()
                own_door.stop()
                _log.info("draining", connections=len(hub.connections))
                await asyncio.sleep(settings.drain_delay_ms / 1000)
                await _drain(settings, server, listener, hub, door)
            finally:
                heartbeat.stop()
                if watching is not None:
                    watching.cancel()
        finally:
            # The hub first: its tasks use the connection.
            await hub.close()
            await cache.aclose()


def _send_away(hub: Hub, ban: Ban) -> None:
    """Close a banned network's connections soon: requests in between are answered with the reason."""
    reason = f"IP banned until {ban.until}"
    asyncio.get_running_loop().call_later(BAN_GRACE_S, hub.close_network, ban.network, reason, BANNED)


async def _serve(
    settings: Settings,
    listener: socket.socket,
    hub: Hub,
    door: Doorkeeper,
    surroundings: Surroundings,
    peers: Crowd,
    knocks: Knocks,
    tls: ServerTls | None,
) -> Server:
    handshake_s = settings.request_timeout_ms / 1000
    over_tls: dict[str, Any] = (
        {"ssl": tls.context, "ssl_handshake_timeout": handshake_s, "ssl_shutdown_timeout": handshake_s}
        if tls
        else {}
    )
    return await serve(
        partial(serve_connection, hub, surroundings),
        sock=listener,
        process_request=door.admit,  # type: ignore[arg-type]  # likewise
        create_connection=partial(  # type: ignore[arg-type]  # a factory does as well as a class
            EdgeConnection,
            messages_per_second=settings.ws_messages_per_second,
            peers=peers,
            proxies=TrustedProxies(settings.trusted_proxies),
            knocks=knocks,
        ),
        # Frames are encoded once for all clients, so no client can have its own compression.
        compression=None,
        max_size=settings.ws_message_bytes_max,
        server_header=None,
        ping_interval=PING_INTERVAL_S,
        ping_timeout=PING_TIMEOUT_S,
        close_timeout=CLOSE_TIMEOUT_S,
        write_limit=WRITE_BUFFER_BYTES,
        **over_tls,
    )


async def _drain(
    settings: Settings, server: Server, listener: socket.socket, hub: Hub, door: Doorkeeper
) -> None:
    """Announce the shutdown, and admit nobody.

    After the time for moving, answer the last requests, and close.
    """
    now = now_ms()
    farewell = Update(
        "!serverShutdown", lambda scale: {"e": "serverShutdown", "E": now * scale}, Conflation.NEWEST
    )
    door.close()
    for connection in list(hub.connections):
        connection.announce_shutdown(farewell)
    await until(lambda: not hub.connections, settings.drain_grace_ms / 1000)
    await accept_the_last(listener)
    for connection in hub.connections:
        connection.leaving = True
    if under_way := [task for connection in hub.connections for task in connection.under_way]:
        await asyncio.wait(under_way, timeout=settings.reply_timeout_ms / 1000)
    for connection in list(hub.connections):
        # Not left to the server: it would wait for as long as a client does not read.
        connection.close_soon(CloseCode.GOING_AWAY, "the server is shutting down")
    server.close()
    await server.wait_closed()


def main() -> None:
    """Run an edge with the settings."""
    process.run(_run, PROCESS, log_name=lambda settings: settings.name_of_process(PROCESS))


def _run(started: Process) -> None:
    settings = started.settings
    tls = ServerTls.of(settings)
    descriptors = raise_descriptors()
    listener = listen(settings.host, settings.ws_port, _LISTEN_BACKLOG, "WS_PORT")
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)  # accepted sockets inherit it
    _log.info("serving", url=settings.ws_url())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(to_the_end(run(settings, listener, started.probes, descriptors, tls)))


if __name__ == "__main__":
    main()
