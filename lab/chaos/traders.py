"""The load: accounts that trade over HTTP and WebSocket, and query each order until its outcome is known.

Every attempt and every answer is kept for the verdict.
"""

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.frames import CloseCode

from client.signing import signed_parameters, signed_query
from functions.api.errors import STATUS_UNKNOWN
from lab.chaos.evidence import (
    NOT_DONE,
    UNKNOWN,
    Answer,
    Evidence,
    Outcome,
    Said,
    SentDeposit,
    SentOrder,
    Unanswered,
    client_order_id,
)
from lab.chaos.http_connection import HttpConnection, NotConnectedError
from lab.chaos.trading import DEPOSIT_SHARE, Cancel, Deposit, Trading
from protocol.market import Market
from protocol.orders import OrderStatus, OrderType
from protocol.units import format_decimal, parse_decimal
from protocol.windows import DEFAULT_WINDOWS
from runtime.settings import Settings
from runtime.tasks import end_tasks

ATTEMPT_S: Final = 8.0
"""How long an answer is waited for; longer than the exchange itself waits."""
RETRY_S: Final = (0.1, 0.8)
"""Pause before an order is sent again."""
GIVE_UP_S: Final = 90.0
"""How long orders are asked about once the load is over."""
WS_SHARE: Final = 0.2
"""Of the attempts, what goes by the WebSocket API."""
KEYED_SHARE_MAX: Final = 0.5
"""Of the orders, what has an idempotency key and is placed again when nobody knows; others are asked for."""
KEYED_PART: Final = 0.7
"""Of an account's idempotency keys, what the load uses."""
RECEIVE_WINDOW_MS: Final = 60_000
_DUPLICATE: Final = "Duplicate order sent."
_STATUSES: Final = {status.name: int(status) for status in OrderStatus}
_REFUSALS_OF_EVERYTHING: Final = (-1001, -1008)


class Trader(NamedTuple):
    """An account of the load, with its key and a session."""

    account_id: int
    key: str
    secret: bytes
    token: str


class _FillShape(msgspec.Struct, rename="camel", gc=False):
    trade_id: int


class _OrderShape(msgspec.Struct, rename="camel", gc=False):
    order_id: int
    status: str
    executed_qty: str
    cummulative_quote_qty: str
    fills: list[_FillShape] = []


class _Error(msgspec.Struct, gc=False):
    code: int
    msg: str


class _SocketAnswer(msgspec.Struct, gc=False):
    id: int | None = None
    """None: it is an event, which says that the server leaves."""
    status: int = 0
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: _Error | None = None


_decode_order: Final = msgspec.json.Decoder(_OrderShape).decode
_decode_error: Final = msgspec.json.Decoder(_Error).decode
_decode_socket_answer: Final = msgspec.json.Decoder(_SocketAnswer).decode
_encode: Final = msgspec.json.Encoder().encode


class _ServerLeftError(ConnectionError):
    """The server has closed the connection since it leaves."""


class _ApiSocket:
    """A connection to the WebSocket API, reopened to the next server when it is lost.

    Many requests may be in progress at once.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = itertools.cycle(f"{url}/ws-api/v3" for url in urls)
        self._socket: ClientConnection | None = None
        self._waiting: dict[int, asyncio.Future[_SocketAnswer]] = {}
        self._numbers = itertools.count(1)

    async def run(self) -> None:
        for url in self._urls:
            code = None
            with suppress(OSError, WebSocketException, TimeoutError):
                async with connect(url, open_timeout=ATTEMPT_S, close_timeout=1) as socket:
                    self._socket = socket
                    try:
                        async for message in socket:
                            answer = _decode_socket_answer(message)
                            future = self._waiting.pop(answer.id or 0, None)
                            if future is not None and not future.done():
                                future.set_result(answer)
                    finally:
                        code = socket.close_code
            self._socket = None
            waiting, self._waiting = self._waiting, {}
            lost = _ServerLeftError if code == CloseCode.GOING_AWAY else ConnectionError
            for future in waiting.values():
                if not future.done():
                    future.set_exception(lost("connection lost"))
            await asyncio.sleep(RETRY_S[0])

    async def ask(self, method: str, parameters: Mapping[str, object]) -> _SocketAnswer:
        if self._socket is None:
            raise NotConnectedError("not connected")
        number = next(self._numbers)
        future: asyncio.Future[_SocketAnswer] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            async with asyncio.timeout(ATTEMPT_S):
                await self._socket.send(
                    _encode({"id": number, "method": method, "params": parameters}).decode()
                )
                return await future
        except ConnectionClosed as error:
            left = error.rcvd is not None and error.rcvd.code == CloseCode.GOING_AWAY
            raise (_ServerLeftError if left else ConnectionError)(str(error)) from error
        except WebSocketException as error:
            raise ConnectionError(str(error)) from error
        finally:
            self._waiting.pop(number, None)
            if future.done() and not future.cancelled():
                future.exception()  # it may have failed while the sending did


class Load:
    """The number of orders, their maximum rate, and the number of connections."""

    def __init__(
        self,
        settings: Settings,
        traders: list[Trader],
        evidence: Evidence,
        *,
        seed: int,
        orders_max: int,
        rate: float,
        lanes: int,
        double_share: float,
        keyed_share_max: float = KEYED_SHARE_MAX,
        deposit_share: float = DEPOSIT_SHARE,
        may_end: Callable[[], bool],
    ) -> None:
        """`may_end` says whether the load may end when all orders have their answer."""
        self._settings = settings
        self._evidence = evidence
        self._traders = {trader.account_id: trader for trader in traders}
        self.trading = Trading(evidence.markets, evidence.accounts, seed, deposit_share)
        self._random = random.Random(seed + 1)
        self._orders_max = orders_max
        self._interval_s = 1 / rate
        self._lanes = lanes
        self._double_share = double_share
        # Few enough that no account ever has more keys than its shard keeps: those would be refused.
        keys_per_s = KEYED_PART * DEFAULT_WINDOWS.keys_max * len(traders) / (DEFAULT_WINDOWS.key_ms / 1_000)
        self._keyed_share = min(keyed_share_max, keys_per_s / rate)
        self._may_end = may_end
        self._gateways = [(settings.host, port) for port in settings.rest_ports()]
        urls = edge_urls(settings)
        self._sockets = [
            _ApiSocket(urls[number % len(urls) :] + urls[: number % len(urls)]) for number in range(2)
        ]
        self._next_s = 0.0
        self._ended = False
        self._gives_up_s = float("inf")
        self.settled = 0
        """Orders that have their answer."""
        self.last_answer_s = time.monotonic()
        """When an order got its answer last."""
        self.accepted: list[float] = []
        """When orders were accepted, in seconds since the epoch."""

    async def run(self) -> None:
        """Place orders until `orders_max` have their answer and `may_end` agrees."""
        sockets = [asyncio.create_task(socket.run()) for socket in self._sockets]
        try:
            await asyncio.gather(*(self._lane(number) for number in range(self._lanes)))
        finally:
            await end_tasks(sockets)

    def end(self, give_up_s: float = GIVE_UP_S) -> None:
        """Send nothing new; go on asking about orders without an answer for so long."""
        self._ended = True
        self._gives_up_s = min(self._gives_up_s, time.monotonic() + give_up_s)

    async def _lane(self, number: int) -> None:
        http = HttpConnection(self._gateways, number)
        try:
            while not self._ended:
                await self._wait_for_turn()
                account_id, wish = self.trading.wish()
                trader = self._traders[account_id]
                if isinstance(wish, SentOrder):
                    await self._place(http, trader, wish)
                elif isinstance(wish, Cancel):
                    await self._cancel(http, trader, wish.order)
                else:
                    await self._deposit(http, trader, wish)
                if self.settled >= self._orders_max and self._may_end():
                    self.end()
        finally:
            http.close()

    async def _wait_for_turn(self) -> None:
        now = time.monotonic()
        # What could not be sent in time is not sent all at once later.
        self._next_s = max(self._next_s + self._interval_s, now - 0.05)
        await asyncio.sleep(max(0.0, self._next_s - now))

    def _gives_up(self) -> bool:
        return time.monotonic() > self._gives_up_s

    async def _pause(self) -> None:
        await asyncio.sleep(self._random.uniform(*RETRY_S))

    async def _place(self, http: HttpConnection, trader: Trader, order: SentOrder) -> None:
        self._evidence.orders.append(order)
        parameters = _order_parameters(self._evidence.markets.by_symbol[order.market], order)
        has_key = self._random.random() < self._keyed_share
        if has_key:
            parameters["idempotencyKey"] = client_order_id(order.number)
        if has_key and self._random.random() < self._double_share / self._keyed_share:
            order.answers += await asyncio.gather(
                self._attempt(http, None, trader, "POST", "order.place", parameters, order),
                self._attempt(
                    http, self._random.choice(self._sockets), trader, "POST", "order.place", parameters, order
                ),
            )
        while not (_is_known(order.answers) or self._gives_up()):
            if order.answers:
                await self._pause()
            may_be_there = any(answer.outcome is not Outcome.NOT_DONE for answer in order.answers)
            is_duplicate = bool(order.answers) and order.answers[-1].outcome is Outcome.DUPLICATE
            if is_duplicate or (may_be_there and not has_key):
                # Without a key, to place it again could make two orders of it.
                asked = {"symbol": order.market, "origClientOrderId": client_order_id(order.number)}
                answer = await self._attempt(
                    http, self._socket(), trader, "GET", "order.status", asked, order
                )
                order.answers.append(UNKNOWN if answer.outcome is Outcome.NOT_DONE else answer)
                continue
            order.answers.append(
                await self._attempt(http, self._socket(), trader, "POST", "order.place", parameters, order)
            )
        self.settled += 1
        self.last_answer_s = time.monotonic()
        if order.acknowledged is not None:
            self.accepted.append(time.time())
        self.trading.placed(order)

    async def _cancel(self, http: HttpConnection, trader: Trader, order: SentOrder) -> None:
        answers: list[Answer] = []
        acknowledged = order.acknowledged
        assert acknowledged is not None, "only what was acknowledged is canceled"
        parameters = {"symbol": order.market, "orderId": str(acknowledged.order_id)}
        while not (_is_known(answers) or self._gives_up()):
            if answers:
                await self._pause()
            answers.append(
                await self._attempt(http, self._socket(), trader, "DELETE", "order.cancel", parameters, order)
            )
        order.cancels = answers

    async def _deposit(self, http: HttpConnection, trader: Trader, deposit: Deposit) -> None:
        body = _encode({"asset": deposit.asset, "amount": format_decimal(deposit.amount)})
        request = (
            f"POST /api/v1/faucet HTTP/1.1\r\nHost: {self._settings.host}\r\nAuthorization: Bearer "
            f"{trader.token}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        answer = await self._http(http, request, None)
        self._evidence.deposits.append(
            SentDeposit(trader.account_id, deposit.asset, deposit.amount, answer.outcome)
        )

    def _socket(self) -> _ApiSocket | None:
        return self._random.choice(self._sockets) if self._random.random() < WS_SHARE else None

    async def _attempt(
        self,
        http: HttpConnection,
        socket: _ApiSocket | None,
        trader: Trader,
        method: str,
        socket_method: str,
        parameters: Mapping[str, str],
        order: SentOrder,
    ) -> Answer:
        windowed: dict[str, str | int] = {**parameters, "recvWindow": RECEIVE_WINDOW_MS}
        now_ms = time.time_ns() // 1_000_000
        market = self._evidence.markets.by_symbol[order.market]
        if socket is not None:
            return await self._by_socket(
                socket, socket_method, signed_parameters(trader.key, trader.secret, windowed, now_ms), market
            )
        query = signed_query(trader.secret, windowed, now_ms)
        request = (
            f"{method} /api/v3/order?{query} HTTP/1.1\r\nHost: {self._settings.host}\r\n"
            f"X-MBX-APIKEY: {trader.key}\r\nContent-Length: 0\r\n\r\n"
        ).encode()
        return await self._http(http, request, market)

    async def _http(self, http: HttpConnection, request: bytes, market: Market | None) -> Answer:
        try:
            answer = await http.ask(request, ATTEMPT_S)
        except (OSError, TimeoutError) as lost:
            return self._no_answer("http", lost)
        error = None if answer.status == 200 else _error_of(answer.body)
        self._evidence.said[
            Said("http", answer.status, error.code if error else None, answer.retry_after)
        ] += 1
        if answer.status == 200:
            return _order_answer(answer.body, market) if market else Answer(Outcome.ACKNOWLEDGED)
        return self._refusal("http", answer.status, error)

    async def _by_socket(
        self, socket: _ApiSocket, method: str, parameters: Mapping[str, object], market: Market
    ) -> Answer:
        try:
            answer = await socket.ask(method, parameters)
        except (OSError, TimeoutError) as lost:
            return self._no_answer("ws", lost)
        error = answer.error
        self._evidence.said[Said("ws", answer.status, error.code if error else None, retry_after=False)] += 1
        if answer.status == 200:
            return _order_answer(bytes(answer.result), market)
        return self._refusal("ws", answer.status, error)

    def _no_answer(self, channel: str, error: OSError | TimeoutError) -> Answer:
        match error:
            case NotConnectedError():
                why = Unanswered.MOVING if channel == "ws" else Unanswered.REFUSED
            case _ServerLeftError():
                why = Unanswered.MOVED
            case TimeoutError():
                why = Unanswered.SILENCE
            case _:
                why = Unanswered.CUT_OFF
        self._evidence.unanswered[channel, why] += 1
        return NOT_DONE if isinstance(error, NotConnectedError) else UNKNOWN

    def _refusal(self, channel: str, status: int, error: "_Error | None") -> Answer:
        answer = _refusal(status, error)
        if answer.outcome is Outcome.NOT_DONE:
            self._evidence.unanswered[channel, Unanswered.NOW_NOT] += 1
        elif answer.outcome is Outcome.UNKNOWN:
            self._evidence.unanswered[channel, Unanswered.NOBODY_KNOWS] += 1
        return answer


def edge_urls(settings: Settings) -> list[str]:
    """Return the WebSocket URLs of the edges."""
    return [f"ws://{settings.host}:{port}" for port in settings.ws_ports()]


def _is_known(answers: list[Answer]) -> bool:
    return any(answer.outcome is Outcome.ACKNOWLEDGED for answer in answers) or (
        bool(answers) and answers[-1].outcome is Outcome.REFUSED
    )


def _order_parameters(market: Market, order: SentOrder) -> dict[str, str]:
    parameters = {
        "symbol": order.market,
        "side": order.side.name,
        "type": order.order_type.name,
        "newClientOrderId": client_order_id(order.number),
        "newOrderRespType": "FULL",
    }
    if order.quote_quantity:
        parameters["quoteOrderQty"] = format_decimal(order.quote_quantity)
    else:
        parameters["quantity"] = market.format_quantity(order.quantity)  # type: ignore[arg-type]
    if order.order_type is not OrderType.MARKET:
        parameters["price"] = market.format_price(order.price)  # type: ignore[arg-type]
    if order.order_type is OrderType.LIMIT:
        parameters["timeInForce"] = order.time_in_force.name
    return parameters


def signed_subscription(trader: Trader) -> dict[str, str | int]:
    """Return the parameters that subscribe to an account's own events."""
    windowed = {"recvWindow": RECEIVE_WINDOW_MS}
    return signed_parameters(trader.key, trader.secret, windowed, time.time_ns() // 1_000_000)


def _order_answer(body: bytes, market: Market) -> Answer:
    shape = _decode_order(body)
    return Answer(
        Outcome.ACKNOWLEDGED,
        0,
        shape.order_id,
        _STATUSES[shape.status],
        parse_decimal(shape.executed_qty) // market.lot_size,
        parse_decimal(shape.cummulative_quote_qty),
        tuple(fill.trade_id for fill in shape.fills),
    )


def _error_of(body: bytes) -> _Error | None:
    try:
        return _decode_error(body)
    except msgspec.MsgspecError:
        return None


def _refusal(status: int, error: _Error | None) -> Answer:
    code, message = (error.code, error.msg) if error else (0, "")
    if message == _DUPLICATE:
        return Answer(Outcome.DUPLICATE, code)
    if 400 <= status < 500:
        return Answer(Outcome.REFUSED, code)
    if status == 503 and code in _REFUSALS_OF_EVERYTHING and code != STATUS_UNKNOWN:
        return Answer(Outcome.NOT_DONE, code)
    return Answer(Outcome.UNKNOWN, code)
