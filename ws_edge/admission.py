"""Admission of clients: valid paths and listenKeys, and limits on a network's connections and streams.

A handshake is charged before anything else is examined; a banned network is refused.
"""

from functools import partial
from http import HTTPStatus
from typing import Final

import msgspec
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from adapters.clock import now_ms
from adapters.crowd import Crowd
from adapters.proxies import TrustedProxies
from adapters.rate_limits import RateLimits
from functions.api.errors import ApiError, unavailable
from functions.api.ports import Ports
from functions.users.listen_keys import ListenKey, find_listen_key, listen_key_unknown
from runtime.settings import Settings
from ws_edge.connection import BANNED, WEIGHT, EdgeConnection, refusals
from ws_edge.hub import Hub
from ws_edge.subscriptions import NAME_LENGTH_MAX, STREAMS_MAX, Door, Target, is_listen_key, parse_target

HANDSHAKE_WEIGHT: Final = 2
_REASONS: Final = {HTTPStatus.IM_A_TEAPOT: BANNED, HTTPStatus.TOO_MANY_REQUESTS: WEIGHT}


class Doorkeeper:
    """Checks every request to open a WebSocket."""

    def __init__(self, settings: Settings, hub: Hub, ports: Ports, limits: RateLimits) -> None:
        self._settings = settings
        self._hub = hub
        self._ports = ports
        self._limits = limits
        self._crowd = Crowd(settings.ws_connections_max, settings.ws_connections_per_address_max)
        self._closed = False
        self._origins = frozenset(settings.browser_origins())
        self._proxies = TrustedProxies(settings.trusted_proxies)

    def close(self) -> None:
        """Admit no more clients."""
        self._closed = True

    async def admit(self, connection: EdgeConnection, request: Request) -> Response | None:
        """Return the refusal, or None; then the connection knows its purpose."""
        try:
            await self._check(connection, request)
        except ApiError as error:
            if error.status in _REASONS:
                refusals[_REASONS[HTTPStatus(error.status)]].inc()
            body = msgspec.json.encode({"code": error.code, "msg": error.message})
            headers = Headers(
                {"Content-Type": "application/json;charset=UTF-8", "Content-Length": str(len(body))}
            )
            headers["Connection"] = "close"
            if error.retry_after_s is not None:
                headers["Retry-After"] = str(error.retry_after_s)
            return Response(error.status, HTTPStatus(error.status).phrase, headers, body)
        return None

    async def _check(self, connection: EdgeConnection, request: Request) -> None:
        if self._closed:
            raise unavailable()
        address = self._address(connection, request)
        if connection.is_own_knock:
            connection.open_target(Target(Door.RAW), address)
            return
        # Charged before anything else is examined, so that refusals cost their sender as much as successes.
        now = now_ms()
        if (undecided := self._limits.charge(address, HANDSHAKE_WEIGHT, now)) is not None:
            await undecided
        if (undecided := self._limits.count_connection(address, now)) is not None:
            await undecided
        self._check_page(request)
        target = parse_target(request.path)
        if target is None:
            raise _path_unknown()
        if not target.is_time_unit_known:
            raise ApiError(-1194, "Invalid value for time unit; expected either MICROSECOND or MILLISECOND.")
        if self._crowd.total >= self._settings.ws_connections_max:
            raise ApiError(-1008, "Too many connections.", HTTPStatus.SERVICE_UNAVAILABLE)
        if not self._crowd.enter(address):
            raise _too_many(
                f"concurrent connections; current limit is '{self._settings.ws_connections_per_address_max}'"
            )
        # At once: if the connection is refused below, its place must be freed.
        connection.when_lost(partial(self._crowd.leave, address))
        if len(target.names) > STREAMS_MAX:
            raise ApiError(-1101, f"No more than {STREAMS_MAX} streams.", HTTPStatus.BAD_REQUEST)
        most = self._settings.ws_streams_per_address_max
        if target.names and self._hub.streams_of(address) + len(target.names) > most:
            raise _too_many(f"streams; current limit is '{most}'")
        if any(len(name) > NAME_LENGTH_MAX for name in target.names):
            raise ApiError(-1101, "A stream's name is too long.", HTTPStatus.BAD_REQUEST)
        keys = [name for name in target.names if is_listen_key(name)]
        listen_keys: dict[str, ListenKey] = {}
        for key in keys:
            listen_key = await find_listen_key(self._ports, key)
            if listen_key is None:
                raise listen_key_unknown()
            listen_keys[key] = listen_key
        connection.open_target(target, address)
        connection.listen_keys = listen_keys

    def _check_page(self, request: Request) -> None:
        """Refuse a handshake with a cookie from a page of another origin.

        Browsers send cookies with every WebSocket that any page opens.
        """
        cookies = request.headers.get_all("Cookie")
        if cookies and not set(request.headers.get_all("Origin")) & self._origins:
            raise ApiError(-1002, "You are not authorized to execute this request.", HTTPStatus.FORBIDDEN)

    def _address(self, connection: EdgeConnection, request: Request) -> str:
        peer = connection.remote_address
        return self._proxies.client_of(
            str(peer[0]) if peer else "unknown", request.headers.get_all("X-Forwarded-For")
        )


def _too_many(excess: str) -> ApiError:
    return ApiError(-1034, f"Too many {excess}.", HTTPStatus.TOO_MANY_REQUESTS)


def _path_unknown() -> ApiError:
    return ApiError(-1020, "This operation is not supported.", HTTPStatus.NOT_FOUND)
