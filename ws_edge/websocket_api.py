"""The WebSocket API: the functions of the REST API by method name, sessions, and the account's stream.

Requests of one connection run concurrently, up to a maximum; each is answered in its own frame.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import msgspec
import structlog
from websockets.frames import CloseCode

from adapters import auth
from adapters.auth import Ed25519Verifier, Signer
from adapters.clock import now_ms, now_us
from adapters.metrics import count_order
from adapters.rate_limits import Undecided
from adapters.wiring import Surroundings
from functions.account import get_account, get_commission
from functions.api.errors import ApiError, mandatory_missing, unavailable
from functions.api.function import Function, Security
from functions.api.key_permissions import Scope
from functions.api.parameters import Parameters
from functions.api.ports import Call
from functions.api.rate_limits import connections_limit, order_limits, weight_limit
from functions.market_data import (
    absent_features,
    get_aggregate_trades,
    get_average_price,
    get_book_ticker,
    get_depth,
    get_exchange_info,
    get_historical_trades,
    get_klines,
    get_ticker_24h,
    get_ticker_price,
    get_time,
    get_trades,
    get_window_ticker,
    ping,
)
from functions.market_data.get_exchange_info import ExchangeInfoShape
from functions.orders import (
    cancel_open_orders,
    cancel_order,
    check_order,
    get_all_orders,
    get_my_trades,
    get_open_orders,
    get_order,
    get_order_rate_limit,
    get_prevented_matches,
    place_order,
)
from protocol.units import AccountId, TimeMs
from ws_edge.accounts import AccountStreams, AccountSubscription, Standing
from ws_edge.conflation import text_frame
from ws_edge.connection import STREAMS, EdgeConnection, refusals

REQUESTS_MAX: Final = 256
"""Maximum of concurrent requests of one connection."""
_SUBSCRIPTIONS_MAX: Final = 1_000
_ID_LENGTH_MAX: Final = 128
"""Maximum length of a request's own id in the log."""
_WEIGHT: Final = 2
"""The weight of every method about sessions and subscriptions."""
_LEAST_WEIGHT: Final = 1
"""The weight of a request before it is parsed."""

FUNCTIONS: Final[dict[str, Function]] = {
    "ping": ping.FUNCTION,
    "time": get_time.FUNCTION,
    "exchangeInfo": get_exchange_info.FUNCTION,
    "depth": get_depth.FUNCTION,
    "trades.recent": get_trades.FUNCTION,
    "trades.historical": get_historical_trades.FUNCTION,
    "trades.aggregate": get_aggregate_trades.FUNCTION,
    "klines": get_klines.FUNCTION,
    "uiKlines": get_klines.UI_FUNCTION,
    "avgPrice": get_average_price.FUNCTION,
    "ticker.24hr": get_ticker_24h.FUNCTION,
    "ticker.price": get_ticker_price.FUNCTION,
    "ticker.book": get_book_ticker.FUNCTION,
    "ticker": get_window_ticker.FUNCTION,
    "ticker.tradingDay": get_window_ticker.TRADING_DAY_FUNCTION,
    "executionRules": absent_features.EXECUTION_RULES,
    "referencePrice": absent_features.REFERENCE_PRICE,
    "referencePrice.calculation": absent_features.REFERENCE_PRICE_CALCULATION,
    "blockTrades.historical": absent_features.BLOCK_TRADES,
    "order.place": place_order.FUNCTION,
    "order.test": check_order.FUNCTION,
    "order.status": get_order.FUNCTION,
    "order.cancel": cancel_order.FUNCTION,
    "openOrders.status": get_open_orders.FUNCTION,
    "openOrders.cancelAll": cancel_open_orders.FUNCTION,
    "allOrders": get_all_orders.FUNCTION,
    "myTrades": get_my_trades.FUNCTION,
    "myPreventedMatches": get_prevented_matches.FUNCTION,
    "account.status": get_account.FUNCTION,
    "account.commission": get_commission.FUNCTION,
    "account.rateLimits.orders": get_order_rate_limit.FUNCTION,
}
_SIGNING: Final = frozenset({"apiKey", "signature", "timestamp", "recvWindow"})

_encode: Final = msgspec.json.Encoder().encode
_decode_text: Final = msgspec.json.Decoder(str).decode
_log = structlog.get_logger()


class _Frame(msgspec.Struct):
    """A request as received; parameters keep the text that the client has signed."""

    method: str
    id: int | str | None = None
    params: dict[str, msgspec.Raw] | None = None


_decode_frame: Final = msgspec.json.Decoder(_Frame).decode


class _Logon(NamedTuple):
    """The key of a session."""

    key: str
    account_id: AccountId
    time: int


class ApiSession:
    """One connection to the WebSocket API."""

    def __init__(
        self,
        connection: EdgeConnection,
        surroundings: Surroundings,
        accounts: AccountStreams,
        streams_of_network: Callable[[], int],
    ) -> None:
        self._streams_of_network = streams_of_network
        self._connection = connection
        self._ports, self._limits, self._signers = (
            surroundings.ports,
            surroundings.limits,
            surroundings.signers,
        )
        self._revocations = surroundings.revocations
        self._accounts = accounts
        self._connected_since = now_us() // 1000
        self._time_scale = connection.target.time_scale
        self._logon: _Logon | None = None
        self._logon_subscription: int | None = None
        self._subscriptions: dict[int, AccountSubscription] = {}
        self._next_subscription = 0
        self._methods = {
            "session.logon": self._log_on,
            "session.status": self._status,
            "session.logout": self._log_out,
            "session.subscriptions": self._list_subscriptions,
            "userDataStream.subscribe": self._subscribe_session,
            "userDataStream.subscribe.signature": self._subscribe_signed,
            "userDataStream.unsubscribe": self._unsubscribe,
        }

    async def run(self) -> None:
        """Answer requests until the connection ends."""
        places = asyncio.Semaphore(REQUESTS_MAX)
        under_way = self._connection.under_way
        try:
            async for message in self._connection:
                if self._connection.closing:
                    return  # the client receives no answer and assumes that nothing was done
                if isinstance(message, bytes):
                    self._connection.close_soon(1003, "requests are text frames")
                    return
                await places.acquire()
                task = asyncio.create_task(self._answer(message))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
                task.add_done_callback(lambda _: places.release())
        finally:
            for subscription in self._subscriptions.values():
                self._accounts.remove(subscription)

    async def _answer(self, message: str) -> None:
        """Answer one request; never raises."""
        now = now_us()
        now_in_ms = TimeMs(now // 1000)
        answer: dict[str, Any] = {"id": None}
        with_limits = self._connection.target.rate_limits
        placed_by: list[AccountId] = []
        activate: AccountSubscription | None = None
        is_banned = False
        try:
            refusal: ApiError | None = None
            try:
                await self._decided(self._limits.charge(self._connection.address, _LEAST_WEIGHT, now_in_ms))
            except ApiError as error:
                refusal = error  # sent when its request is known
            try:
                frame = _decode_frame(message)
            except (msgspec.MsgspecError, RecursionError) as error:
                raise refusal or ApiError(-1135, "Invalid JSON Request") from error
            answer["id"] = frame.id
            if refusal is not None:
                raise refusal
            if self._connection.leaving:
                raise unavailable()
            parameters = Parameters({name: _text(name, raw) for name, raw in (frame.params or {}).items()})
            with_limits = parameters.boolean("returnRateLimits", default=with_limits)
            method = frame.method.removeprefix("v3/")
            function = FUNCTIONS.get(method)
            weight = function.weight_of(parameters) if function else _WEIGHT
            if weight > _LEAST_WEIGHT:
                more = weight - _LEAST_WEIGHT
                await self._decided(self._limits.correct(self._connection.address, more, now_in_ms))
            if function is not None:
                result = await self._call(function, parameters, now, placed_by)
                if isinstance(result, ExchangeInfoShape):
                    result.rate_limits.append(connections_limit(self._ports.settings))
                if function.weighs_nothing_done:
                    await self._decided(self._limits.correct(self._connection.address, -weight, now_in_ms))
            elif method in self._methods:
                result, activate = await self._methods[method](parameters, now)
            else:
                raise ApiError(-1020, "This operation is not supported.")
            answer |= {"status": 200, "result": result}
        except ApiError as error:
            is_banned = error.status == HTTPStatus.IM_A_TEAPOT
            answer |= {"status": error.status, "error": _error(error, now)}
        except Exception:
            # The last resort of a process that serves other clients, too; an error that ends here is a bug.
            _log.exception("request failed", request_id=str(answer["id"])[:_ID_LENGTH_MAX])
            internal = ApiError(-1000, "An unknown error occurred while processing the request.", 500)
            answer |= {"status": 500, "error": _error(internal, now)}
        if with_limits and self._limits.enabled:
            answer["rateLimits"] = await self._rate_limits(placed_by, now_in_ms)
        self._connection.deliver_frame(text_frame(_encode(answer)))
        if is_banned:
            self._connection.close_soon(CloseCode.POLICY_VIOLATION, "IP banned")
        # After the answer: a client must know the subscription's number before it receives an event of it.
        if activate is not None:
            self._accounts.activate(activate)

    async def _decided(self, undecided: Undecided | None) -> None:
        if undecided is not None:
            await undecided

    async def _call(
        self, function: Function, parameters: Parameters, now: int, placed_by: list[AccountId]
    ) -> object:
        """Return the result; add the account of a placed order, even a refused one, to `placed_by`."""
        account_id, deadline_us, credential = AccountId(0), 0, ""
        if function.security is Security.SIGNED:
            signer, deadline_us = await self._authorize(parameters, now)
            auth.check_permission(signer, function.scope, self._connection.address, now)
            account_id, credential = signer.account_id, signer.credential
            if function.places_order:
                placed_by.append(account_id)
        names = function.known_parameters() | _SIGNING | {"returnRateLimits"}
        if not function.lenient:
            parameters.refuse_unknown(names)
        call = Call(
            parameters,
            TimeMs(now // 1000),
            account_id,
            self._time_scale,
            deadline_us=deadline_us,
            credential=credential,
            address=self._connection.address,
        )
        try:
            result = await function.handle(self._ports, call)
        except ApiError as error:
            if function.places_order:
                count_order(error)
            raise
        if function.places_order:
            count_order(None)
        return result

    async def _authorize(self, parameters: Parameters, now: int) -> tuple[Signer, int]:
        """Return the request's signer (its own, else the session's) and its deadline (µs)."""
        if "apiKey" in parameters or self._logon is None:
            return await self._signer(parameters, now)
        signer = await self._signers.signer(self._logon.key)
        self._note_use(self._logon.key, signer, now)
        timestamp = parameters.integer("timestamp")
        if timestamp is None:
            raise mandatory_missing("timestamp")
        return signer, auth.check_timing(timestamp, auth.receive_window_us(parameters), now)

    def _note_use(self, key: str, signer: Signer, now: int) -> None:
        if not signer.is_ticket:
            self._signers.note_use(key, now)

    async def _signer(self, parameters: Parameters, now: int) -> tuple[Signer, int]:
        """Return the signer and the deadline (µs) of a request.

        All parameters but the signature are signed, sorted by name, as `name=value&…`.
        """
        key = auth.check_key_format(parameters.required("apiKey"))
        signer = self._signers.cached(key) or await self._signers.signer(key)
        pairs = sorted((name, text) for name, text in parameters.values.items() if name != "signature")
        payload = "&".join(f"{name}={text}" for name, text in pairs)
        deadline_us = auth.check_request(signer, payload.encode(), b"", parameters, now)
        self._note_use(key, signer, now)
        return signer, deadline_us

    async def _log_on(self, parameters: Parameters, now: int) -> tuple[object, None]:
        signer, _ = await self._signer(parameters, now)
        auth.check_permission(signer, Scope.READ, self._connection.address, now)
        if not isinstance(signer.verifier, Ed25519Verifier):
            raise ApiError(-4056, "HMAC_SHA256 API key is not supported.")
        self._logon = _Logon(parameters.required("apiKey"), signer.account_id, now // 1000)
        return self._session(now), None

    async def _status(self, _parameters: Parameters, now: int) -> tuple[object, None]:
        return self._session(now), None

    async def _log_out(self, _parameters: Parameters, now: int) -> tuple[object, None]:
        self._logon = None
        if self._logon_subscription is not None:
            self._end(self._logon_subscription)
        return self._session(now), None

    def _session(self, now: int) -> dict[str, object]:
        scale = self._time_scale
        return {
            "apiKey": self._logon.key if self._logon else None,
            "authorizedSince": self._logon.time * scale if self._logon else None,
            "connectedSince": self._connected_since * scale,
            "returnRateLimits": self._connection.target.rate_limits,
            "serverTime": now // 1000 * scale,
            "userDataStream": bool(self._subscriptions),
        }

    async def _list_subscriptions(self, _parameters: Parameters, _now: int) -> tuple[object, None]:
        return [{"subscriptionId": number} for number in self._subscriptions], None

    async def _subscribe_session(
        self, _parameters: Parameters, now: int
    ) -> tuple[object, AccountSubscription]:
        if self._logon is None:
            raise ApiError(-1002, "You are not authorized to execute this request.", 401)
        number, subscription = await self._subscribe(await self._signers.signer(self._logon.key), now)
        self._logon_subscription = number
        return {"subscriptionId": number}, subscription

    async def _subscribe_signed(self, parameters: Parameters, now: int) -> tuple[object, AccountSubscription]:
        parameters.refuse_unknown(_SIGNING | {"returnRateLimits"})
        signer, _ = await self._signer(parameters, now)
        number, subscription = await self._subscribe(signer, now)
        return {"subscriptionId": number}, subscription

    async def _subscribe(self, signer: Signer, now: int) -> tuple[int, AccountSubscription]:
        auth.check_permission(signer, Scope.READ, self._connection.address, now)
        account_id = signer.account_id
        if any(subscription.account_id == account_id for subscription in self._subscriptions.values()):
            raise ApiError(-2035, "User Data Stream subscription already active.")
        if len(self._subscriptions) >= _SUBSCRIPTIONS_MAX:
            raise ApiError(-1191, "Too many subscriptions; unsubscribe from one first.")
        most = self._ports.settings.ws_streams_per_address_max
        if self._streams_of_network() >= most:
            refusals[STREAMS].inc()
            raise ApiError(
                -1034, f"Too many streams; current limit is '{most}'.", HTTPStatus.TOO_MANY_REQUESTS
            )
        number, self._next_subscription = self._next_subscription, self._next_subscription + 1
        standing = Standing(signer.credential, partial(self._end, number), signer.stands_until_ms)
        subscription = AccountSubscription(
            account_id,
            self._connection,
            standing,
            self._revocations,
            b'{"subscriptionId":%d,"event":' % number,
            b"}",
        )
        # Entered before the wait: parallel requests of this connection must count it.
        self._subscriptions[number] = subscription
        try:
            await self._accounts.add(subscription)
        except ApiError:
            self._subscriptions.pop(number, None)
            self._accounts.remove(subscription)
            raise
        # During the wait the client may have left, or the credential may have ended.
        if self._connection.closing or number not in self._subscriptions:
            self._accounts.remove(subscription)
            raise unavailable()
        return number, subscription

    async def _unsubscribe(self, parameters: Parameters, _now: int) -> tuple[object, None]:
        chosen = parameters.integer("subscriptionId")
        if chosen is not None and chosen not in self._subscriptions:
            raise ApiError(-2036, "User Data Stream subscription not active.")
        for number in [chosen] if chosen is not None else list(self._subscriptions):
            self._end(number)
        return {}, None

    def _end(self, number: int) -> None:
        subscription = self._subscriptions.pop(number, None)
        if number == self._logon_subscription:
            self._logon_subscription = None
        if subscription is not None:
            self._accounts.remove(subscription)
            subscription.tell({"e": "eventStreamTerminated", "E": now_ms()})

    async def _rate_limits(self, placed_by: list[AccountId], now: TimeMs) -> list[dict[str, object]]:
        settings, rows = self._ports.settings, list[dict[str, object]]()
        for account_id in placed_by:
            await self._decided(self._limits.know_orders(account_id, now))
            counts = self._limits.order_counts(account_id, now)
            rows += (
                {**limit, "count": count} for limit, count in zip(order_limits(settings), counts, strict=True)
            )
        return [
            *rows,
            {**weight_limit(settings), "count": self._limits.weight_used(self._connection.address, now)},
        ]


def _text(name: str, raw: msgspec.Raw) -> str:
    """Return a parameter as the REST API would carry it, and as it was signed."""
    value = bytes(raw)
    if value.startswith(b'"'):
        return _decode_text(value)
    if value == b"null":
        raise mandatory_missing(name)
    return value.decode()


def _error(error: ApiError, now: int) -> dict[str, object]:
    shape: dict[str, object] = {"code": error.code, "msg": error.message}
    if error.status in (418, 429) and error.retry_after_s is not None:
        shape["data"] = {"serverTime": now // 1000, "retryAfter": now // 1000 + error.retry_after_s * 1000}
    return shape
