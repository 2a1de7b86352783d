"""What a connection does while it is open: requests about streams, or the WebSocket API."""

import asyncio
from functools import partial
from typing import Final

import msgspec
import structlog
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from functions.errors import ApiError
from functions.listen_keys import account_of_listen_key
from serving.clock import now_ms
from serving.wiring import Surroundings
from ws_edge.accounts import AccountSubscription, Standing
from ws_edge.api import ApiSession
from ws_edge.conflation import text_frame
from ws_edge.connection import STREAMS, EdgeConnection, refusals
from ws_edge.hub import Hub
from ws_edge.subscriptions import (
    STREAMS_MAX,
    Door,
    Request,
    RequestError,
    failure,
    is_stream,
    parse_request,
    success,
)

_KEY_CHECK_S: Final = 30.0
"""How often a listenKey is looked up that a connection lives by."""

_log = structlog.get_logger()


async def serve_connection(hub: Hub, surroundings: Surroundings, connection: EdgeConnection) -> None:
    """Serve one connection until it ends."""
    hub.enter(connection)
    try:
        if connection.target.door is Door.API:
            await ApiSession(connection, surroundings, hub.accounts, partial(hub.streams_of, connection.address)).run()
        else:
            await _StreamSession(connection, surroundings, hub).run()
    except ConnectionClosed:
        pass  # how a client leaves is its own affair
    finally:
        hub.leave(connection)


class _StreamSession:
    """One connection to market streams, and to the account's own ones that its path names."""

    def __init__(self, connection: EdgeConnection, surroundings: Surroundings, hub: Hub) -> None:
        self._connection = connection
        self._ports, self._revocations = surroundings.ports, surroundings.revocations
        self._hub = hub
        self._accounts: dict[str, AccountSubscription] = {}

    async def run(self) -> None:
        """Answer requests until the connection ends."""
        connection = self._connection
        watch: asyncio.Task[None] | None = None
        try:
            for name in connection.target.names:
                if name not in connection.listen_keys:
                    self._hub.subscribe(name, connection)
                    self._hub.show_current(name, connection)
            if connection.listen_keys:
                await self._open_accounts()
                watch = asyncio.create_task(self._watch_keys())
            async for message in connection:
                if isinstance(message, bytes):
                    connection.close_soon(CloseCode.UNSUPPORTED_DATA, "requests are text frames")
                    return
                self._answer(message)
        except ApiError:
            connection.close_soon(CloseCode.TRY_AGAIN_LATER, "not available now; connect again")
        finally:
            if watch is not None:
                watch.cancel()
            for subscription in self._accounts.values():
                self._hub.accounts.remove(subscription)

    def _answer(self, message: str) -> None:
        try:
            request = parse_request(message)
            result = self._do(request)
        except RequestError as error:
            self._connection.deliver_frame(text_frame(failure(error)))
            return
        self._connection.deliver_frame(text_frame(success(result, request.request_id)))
        if request.method == "SUBSCRIBE":
            for stream in request.params:
                self._hub.show_current(stream, self._connection)

    def _do(self, request: Request) -> object:
        connection = self._connection
        match request.method:
            case "SUBSCRIBE":
                unknown = [name for name in request.params if not is_stream(name, self._ports.markets)]
                if unknown:
                    raise RequestError(2, f"Invalid request: unknown stream {unknown[0][:50]!r}", request.request_id)
                if len(connection.streams.keys() | set(request.params)) > STREAMS_MAX:
                    raise RequestError(2, f"Invalid request: more than {STREAMS_MAX} streams", request.request_id)
                most = self._ports.settings.ws_streams_per_address_max
                more = len(set(request.params) - connection.streams.keys())
                if self._hub.streams_of(connection.address) + more > most:
                    refusals[STREAMS].inc()
                    raise RequestError(
                        2, f"Invalid request: more than {most} streams of one network", request.request_id
                    )
                for stream in request.params:
                    self._hub.subscribe(stream, connection)
            case "UNSUBSCRIBE":
                for stream in request.params:
                    self._hub.unsubscribe(stream, connection)
            case "LIST_SUBSCRIPTIONS":
                return [*connection.streams, *self._accounts]
            case "SET_PROPERTY":
                connection.form = (request.params[1], connection.form[1])
            case _:
                return connection.form[0]
        return None

    async def _open_accounts(self) -> None:
        for key, account_id in self._connection.listen_keys.items():
            prefix, suffix = b"", b""
            if self._connection.target.door is Door.COMBINED:
                prefix, suffix = b'{"stream":%b,"data":' % msgspec.json.encode(key), b"}"
            standing = Standing(key, partial(self._expire, key), is_listen_key=True)
            subscription = AccountSubscription(
                account_id, self._connection, standing, self._revocations, prefix, suffix
            )
            self._accounts[key] = subscription
            await self._hub.accounts.add(subscription)
            # Whoever revoked a key between the handshake and now has removed this one first.
            if await account_of_listen_key(self._ports, key) is None:
                self._expire(key)
            self._hub.accounts.activate(subscription)

    def _expire(self, key: str) -> None:
        subscription = self._accounts.pop(key, None)
        if subscription is not None:
            self._hub.accounts.remove(subscription)
            subscription.tell({"e": "listenKeyExpired", "E": now_ms(), "listenKey": key})

    async def _watch_keys(self) -> None:
        while self._accounts:
            await asyncio.sleep(_KEY_CHECK_S)
            for key in list(self._accounts):
                try:
                    account_id = await account_of_listen_key(self._ports, key)
                except ApiError as error:
                    _log.debug("listenKey not looked up", error=error.message)
                    continue
                if account_id is None:
                    self._expire(key)
