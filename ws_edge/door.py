"""Who may come in: paths, streams and listenKeys that exist, and so many connections."""

from http import HTTPStatus

import msgspec
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from functions.errors import ApiError, unavailable
from functions.listen_keys import account_of_listen_key, listen_key_unknown
from functions.ports import Ports
from protocol.units import AccountId
from runtime.settings import Settings
from ws_edge.connection import EdgeConnection
from ws_edge.hub import Hub
from serving.proxies import TrustedProxies
from ws_edge.subscriptions import STREAMS_MAX, is_listen_key, is_stream, parse_target


class Doorkeeper:
    """Looks at every request to open a WebSocket."""

    def __init__(self, settings: Settings, hub: Hub, ports: Ports) -> None:
        self._settings = settings
        self._hub = hub
        self._ports = ports
        self._closed = False
        self._proxies = TrustedProxies(settings.trusted_proxies)

    def close(self) -> None:
        """Let nobody in any more."""
        self._closed = True

    async def admit(self, connection: EdgeConnection, request: Request) -> Response | None:
        """Return the refusal, or None and a connection that knows what it is for."""
        try:
            await self._check(connection, request)
        except ApiError as error:
            body = msgspec.json.encode({"code": error.code, "msg": error.message})
            headers = Headers({"Content-Type": "application/json;charset=UTF-8", "Content-Length": str(len(body))})
            headers["Connection"] = "close"
            if error.retry_after_s is not None:
                headers["Retry-After"] = str(error.retry_after_s)
            return Response(error.status, HTTPStatus(error.status).phrase, headers, body)
        return None

    async def _check(self, connection: EdgeConnection, request: Request) -> None:
        if self._closed:
            raise unavailable()
        target = parse_target(request.path)
        if target is None:
            raise _path_unknown()
        address = self._address(connection, request)
        if len(self._hub.connections) >= self._settings.ws_connections_max:
            raise ApiError(-1008, "Too many connections.", HTTPStatus.SERVICE_UNAVAILABLE)
        if self._hub.connections_of(address) >= self._settings.ws_connections_per_address_max:
            raise ApiError(-1003, "Too many connections from this address.", HTTPStatus.TOO_MANY_REQUESTS)
        if len(target.names) > STREAMS_MAX:
            raise ApiError(-1101, f"No more than {STREAMS_MAX} streams.", HTTPStatus.BAD_REQUEST)
        accounts: dict[str, AccountId] = {}
        for name in target.names:
            if is_stream(name, self._ports.markets):
                continue
            account_id = await account_of_listen_key(self._ports, name) if is_listen_key(name) else None
            if account_id is None:
                raise self._refusal(name)
            accounts[name] = account_id
        connection.open_target(target, address)
        connection.listen_keys = accounts

    def _refusal(self, name: str) -> ApiError:
        if is_listen_key(name):
            return listen_key_unknown()
        # A shard that has not said yet which markets it has may have this one.
        return unavailable() if self._ports.markets.unknown_shards else _no_stream(name)

    def _address(self, connection: EdgeConnection, request: Request) -> str:
        peer = connection.remote_address
        return self._proxies.client_of(str(peer[0]) if peer else "unknown", request.headers.get_all("X-Forwarded-For"))


def _path_unknown() -> ApiError:
    return ApiError(-1020, "This operation is not supported.", HTTPStatus.NOT_FOUND)


def _no_stream(name: str) -> ApiError:
    return ApiError(-1130, f"There is no stream {name[:50]!r}.", HTTPStatus.BAD_REQUEST)
