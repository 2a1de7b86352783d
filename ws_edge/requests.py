"""The requests of an open connection: about streams, or of the WebSocket API."""

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Final

import msgspec
import structlog
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from adapters.clock import now_ms
from adapters.wiring import Surroundings
from functions.api.errors import ApiError
from functions.users.listen_keys import ListenKey, find_listen_key, listen_key_unknown
from ws_edge.accounts import AccountSubscription, Standing
from ws_edge.conflation import text_frame
from ws_edge.connection import STREAMS, EdgeConnection, refusals
from ws_edge.hub import Hub
from ws_edge.subscriptions import (
    LISTEN_KEYS_MAX,
    STREAMS_MAX,
    Door,
    Request,
    RequestError,
    failure,
    is_listen_key,
    parse_request,
    success,
)
from ws_edge.websocket_api import ApiSession

_KEY_CHECK_S: Final = 30.0
"""Interval at which a connection's listenKey is looked up."""

_log = structlog.get_logger()


async def serve_connection(hub: Hub, surroundings: Surroundings, connection: EdgeConnection) -> None:
    """Serve one connection until it ends."""
    hub.enter(connection)
    try:
        if connection.target.door is Door.API:
            await ApiSession(
                connection, surroundings, hub.accounts, partial(hub.streams_of, connection.address)
            ).run()
        else:
            await _StreamSession(connection, surroundings, hub).run()
    except ConnectionClosed:
        pass  # any way in which a client disconnects is fine
    finally:
        hub.leave(connection)


class _StreamSession:
    """One connection to market streams, and by listenKeys to accounts' streams."""

    def __init__(self, connection: EdgeConnection, surroundings: Surroundings, hub: Hub) -> None:
        self._connection = connection
        self._ports, self._revocations = surroundings.ports, surroundings.revocations
        self._hub = hub
        self._accounts: dict[str, AccountSubscription] = {}
        self._watch: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Answer requests until the connection ends."""
        connection = self._connection
        try:
            for name in connection.target.names:
                if name not in connection.listen_keys:
                    self._hub.subscribe(name, connection)
                    self._hub.show_current(name, connection)
            await self._open_accounts(connection.listen_keys)
            self._begin_to_hear(connection.listen_keys)
            async for message in connection:
                if isinstance(message, bytes):
                    connection.close_soon(CloseCode.UNSUPPORTED_DATA, "requests are text frames")
                    return
                await self._answer(message)
        except ApiError:
            connection.close_soon(CloseCode.TRY_AGAIN_LATER, "not available now; connect again")
        finally:
            if self._watch is not None:
                self._watch.cancel()
            accounts, self._accounts = self._accounts, {}
            for subscription in accounts.values():
                self._hub.accounts.remove(subscription)

    async def _answer(self, message: str) -> None:
        try:
            request = parse_request(message)
            result = await self._do(request)
        except RequestError as error:
            self._connection.deliver_frame(text_frame(failure(error)))
            return
        self._connection.deliver_frame(text_frame(success(result, request.request_id)))
        if request.method == "SUBSCRIBE":
            self._begin_to_hear(request.params)
            for stream in request.params:
                self._hub.show_current(stream, self._connection)

    async def _do(self, request: Request) -> object:
        connection = self._connection
        match request.method:
            case "SUBSCRIBE":
                await self._subscribe(request)
            case "UNSUBSCRIBE":
                for stream in request.params:
                    self._hub.unsubscribe(stream, connection)
                    subscription = self._accounts.pop(stream, None)
                    if subscription is not None:
                        self._hub.accounts.remove(subscription)
            case "LIST_SUBSCRIPTIONS":
                return [*connection.streams, *self._accounts]
            case "SET_PROPERTY":
                connection.form = (request.params[1], connection.form[1])
                for key, subscription in self._accounts.items():
                    subscription.wrap(*self._wrapping(key))
            case _:
                return connection.form[0]
        return None

    async def _subscribe(self, request: Request) -> None:
        """Subscribe the connection to the requested streams.

        A stream that does not exist (yet) sends nothing, as at Binance.
        """
        connection = self._connection
        keys = {name for name in request.params if is_listen_key(name)}
        names = set(request.params) - keys
        # Everything is checked before anything is opened: a refused request changes nothing.
        if len(connection.streams.keys() | names) + len(self._accounts.keys() | keys) > STREAMS_MAX:
            raise RequestError(2, f"Invalid request: more than {STREAMS_MAX} streams", request.request_id)
        if len(keys) > LISTEN_KEYS_MAX:
            raise RequestError(
                2, f"Invalid request: more than {LISTEN_KEYS_MAX} listenKeys at once", request.request_id
            )
        most = self._ports.settings.ws_streams_per_address_max
        more = len(names - connection.streams.keys()) + len(keys - self._accounts.keys())
        if self._hub.streams_of(connection.address) + more > most:
            refusals[STREAMS].inc()
            raise RequestError(
                2, f"Invalid request: more than {most} streams of one network", request.request_id
            )
        listen_keys: dict[str, ListenKey] = {}
        for key in keys - self._accounts.keys():
            listen_key = await find_listen_key(self._ports, key)
            if listen_key is None:
                unknown = listen_key_unknown()
                raise RequestError(unknown.code, unknown.message, request.request_id)
            listen_keys[key] = listen_key
        await self._open_accounts(listen_keys)
        for stream in request.params:
            if stream in names:
                self._hub.subscribe(stream, connection)

    async def _open_accounts(self, listen_keys: Mapping[str, ListenKey]) -> None:
        for key, (account_id, credential) in listen_keys.items():
            standing = Standing(credential, partial(self._expire, key))
            subscription = AccountSubscription(
                account_id, self._connection, standing, self._revocations, *self._wrapping(key)
            )
            self._accounts[key] = subscription
            await self._hub.accounts.add(subscription)
            # Its credential may have been revoked since it was looked up.
            if await find_listen_key(self._ports, key) is None:
                self._expire(key)
        if listen_keys and (self._watch is None or self._watch.done()):
            self._watch = asyncio.create_task(self._watch_keys())

    def _begin_to_hear(self, names: Iterable[str]) -> None:
        """Let accounts' events through, after the request for them is answered."""
        for name in names:
            if name in self._accounts:
                self._hub.accounts.activate(self._accounts[name])

    def _wrapping(self, key: str) -> tuple[bytes, bytes]:
        """Return the text before and after an account's event."""
        if not self._connection.form[0]:
            return b"", b""
        return b'{"stream":%b,"data":' % msgspec.json.encode(key), b"}"

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
                    listen_key = await find_listen_key(self._ports, key)
                except ApiError as error:
                    _log.debug("listenKey not looked up", error=error.message)
                    continue
                if listen_key is None:
                    self._expire(key)
