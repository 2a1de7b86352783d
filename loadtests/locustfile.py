"""The users of the load test: traders on the REST API, watchers on the streams, and the steps of the load.

`exchange load` runs it with a summary at the end; for locust's own pages: `.venv/bin/locust -f
loadtests/locustfile.py`.
"""

import time
import urllib.request
from argparse import ArgumentParser
from collections.abc import Mapping
from contextlib import ExitStack
from http import HTTPStatus
from random import Random
from typing import Any, Final, NamedTuple

# Before all else: locust replaces what blocks by what does not.
from locust import FastHttpUser, LoadTestShape, User, events, task  # isort: skip

import gevent
import msgspec
from gevent.queue import Empty, Queue
from locust.contrib.fasthttp import ResponseContextManager
from locust.env import Environment
from locust.exception import StopUser
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection

from cli.local.state_file import settings_of_running
from client.signing import signed_parameters, signed_query
from loadtests.connections import BoundClients, connect_socket
from loadtests.steps import Plan
from loadtests.summary import LIMITED, OWN_ORDER, TRADE
from loadtests.trading import (
    Action,
    Touch,
    choose,
    funds,
    order_pause_ms,
    order_quantity,
    quote_price,
    sent_ns,
    timed_id,
)
from mm.markets import orders_per_10s, plans_of
from protocol.market import Market
from protocol.orders import Side
from protocol.units import PriceTicks, format_decimal, parse_decimal

PAUSE_S: Final = (0.05, 0.35)
"""Between two actions of a trader."""
INFO_S: Final = 10
WATCH_S: Final = 0.5
"""How long a watcher listens before it looks whether it should stop."""
RECONNECT_S: Final = 1.0
SPAWN_PER_S: Final = 10
DEPTH_LEVELS: Final = 100
UNKNOWN_ORDER: Final = -2011
"""The code of a cancel that came too late: the order has been filled."""

_SETTINGS: Final = settings_of_running()


class Keys(NamedTuple):
    """What an account's requests are signed with."""

    key: str
    secret: str


class _Traders:
    """The traders' accounts, for watchers to take: each is watched once."""

    def __init__(self) -> None:
        self._new = Queue()

    def joined(self, keys: Keys) -> None:
        self._new.put(keys)

    def take(self, timeout_s: float) -> Keys | None:
        try:
            keys: Keys = self._new.get(timeout=timeout_s)
        except Empty:
            return None
        return keys

    def forget(self) -> None:
        self._new = Queue()


_traders = _Traders()


class _Refusal(msgspec.Struct, frozen=True):
    code: int = 0
    msg: str = ""


class Trader(FastHttpUser):
    """Signs up, places orders near one market's touch, cancels most of them, and queries their outcome."""

    host = _SETTINGS.rest_url()
    weight = 1

    def __init__(self, environment: Environment) -> None:
        self.client_pool = BoundClients()
        super().__init__(environment)
        self._random = Random()
        self._open: list[int] = []
        self._sent = 0
        self._quiet_until = 0.0
        self._no_orders_until = 0.0

    def wait_time(self) -> float:
        """Return how long to pause; as long as the exchange asks for after a 429."""
        return max(self._random.uniform(*PAUSE_S), self._quiet_until - time.monotonic())

    def on_start(self) -> None:
        """Choose a market, sign up, fund the account, look around, and take a first position."""
        info = self._insist("GET", "/api/v3/exchangeInfo")
        prices = self._insist("GET", "/api/v3/ticker/price")
        self._orders_max = orders_per_10s(info)
        plan = self._random.choice(plans_of(info, prices, levels=1))
        self._market: Market = plan.market
        self._touch = Touch(plan.anchor, PriceTicks(plan.anchor + 1))
        name, password = self._random.randbytes(8).hex(), self._random.randbytes(16).hex()
        person = {"email": f"load-{name}@example.com", "password": password}
        self._insist("POST", "/api/v1/signup", body=person)
        token = self._insist("POST", "/api/v1/signin", body=person)["token"]
        for asset, amount in funds(self._market, plan.anchor).items():
            self._insist(
                "POST", "/api/v1/faucet", body={"asset": asset, "amount": format_decimal(amount)}, token=token
            )
        made = self._insist(
            "POST", "/api/v1/api-keys", body={"label": "load", "password": password}, token=token
        )
        self._keys = Keys(made["apiKey"], made["secret"])
        _traders.joined(self._keys)
        for action in (Action.ACCOUNT, Action.DEPTH, Action.KLINES, Action.OPEN_ORDERS, Action.TAKE):
            self._do(action)

    def on_stop(self) -> None:
        """Leave nothing in the book."""
        if self._open:
            self._signed("DELETE", "/api/v3/openOrders", symbol=self._market.symbol)

    @task
    def act(self) -> None:
        """Do one thing."""
        self._do(choose(self._random, len(self._open)))

    def _do(self, action: Action) -> None:
        symbol = self._market.symbol
        match action:
            case Action.QUOTE:
                self._place("LIMIT")
            case Action.TAKE:
                self._place("MARKET")
            case Action.CANCEL:
                self._cancel()
            case Action.DEPTH:
                self._look_at_depth()
            case Action.OPEN_ORDERS:
                found = self._signed("GET", "/api/v3/openOrders", symbol=symbol)
                if found is not None:
                    self._open = [each["orderId"] for each in found]
            case Action.ACCOUNT:
                self._signed("GET", "/api/v3/account")
            case Action.KLINES:
                self._request("GET", "/api/v3/klines", f"symbol={symbol}&interval=1m&limit=100")

    def _place(self, order_type: str) -> None:
        if time.monotonic() < self._no_orders_until:
            return
        side = self._random.choice((Side.BUY, Side.SELL))
        price = quote_price(self._random, side, self._touch)
        quantity = order_quantity(self._random, self._market, price)
        limit = (
            {"price": self._market.format_price(price), "timeInForce": "GTC"} if order_type == "LIMIT" else {}
        )
        self._sent += 1
        placed = self._signed(
            "POST",
            "/api/v3/order",
            f"order {order_type}",
            symbol=self._market.symbol,
            side=side.name,
            type=order_type,
            quantity=self._market.format_quantity(quantity),
            newOrderRespType="RESULT",
            newClientOrderId=timed_id(time.time_ns(), self._sent),
            **limit,
        )
        if placed is not None and placed["status"] in ("NEW", "PARTIALLY_FILLED"):
            self._open.append(placed["orderId"])

    def _cancel(self) -> None:
        order_id = self._open.pop(self._random.randrange(len(self._open)))
        self._signed("DELETE", "/api/v3/order", symbol=self._market.symbol, orderId=order_id)

    def _look_at_depth(self) -> None:
        depth = self._request("GET", "/api/v3/depth", f"symbol={self._market.symbol}&limit={DEPTH_LEVELS}")
        if depth and depth["bids"] and depth["asks"]:
            bid, ask = (
                parse_decimal(depth[side][0][0]) // self._market.tick_size for side in ("bids", "asks")
            )
            self._touch = Touch(PriceTicks(bid), PriceTicks(ask))

    def _signed(self, method: str, path: str, name: str = "", **parameters: str | int) -> Any:
        query = signed_query(self._keys.secret, parameters, time.time_ns() // 1_000_000)
        return self._request(method, path, query, name, headers={"X-MBX-APIKEY": self._keys.key})

    def _insist(self, method: str, path: str, body: Mapping[str, str] | None = None, token: str = "") -> Any:
        """Return the answer, waiting as long as the exchange asks for.

        Without one the trader does not come.
        """
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        while True:
            answer = self._request(method, path, body=body, headers=headers)
            left = self._quiet_until - time.monotonic()
            if answer is None and left <= 0:
                raise StopUser
            if answer is not None:
                return answer
            gevent.sleep(left)

    def _request(
        self,
        method: str,
        path: str,
        query: str = "",
        name: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, str] | None = None,
    ) -> Any:
        """Return the decoded answer; None when there is none, which locust's statistics then tell why."""
        with self.client.request(
            method,
            f"{path}?{query}" if query else path,
            name or path.rpartition("/")[2],
            json=body,
            headers=dict(headers or {}),
            catch_response=True,
        ) as response:
            if response.status_code == HTTPStatus.OK:
                self._mind_order_limit(response)
                return msgspec.json.decode(response.content)
            self._refused(response)
        return None

    def _refused(self, response: ResponseContextManager) -> None:
        """Distinguish refusals that are part of trading from failures."""
        if not response.status_code:
            return
        refusal = _refusal_of(response.content)
        if response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
            response.request_meta["request_type"], response.request_meta["name"] = LIMITED
            self._quiet_until = time.monotonic() + float(_header(response, "Retry-After") or 1)
            response.success()
        elif refusal.code == UNKNOWN_ORDER:
            response.request_meta["name"] = "order, gone"
            response.success()
        else:
            response.failure(f"{response.status_code} {refusal.code} {refusal.msg}")

    def _mind_order_limit(self, response: ResponseContextManager) -> None:
        count = _header(response, "X-MBX-ORDER-COUNT-10S")
        if count:
            pause_ms = order_pause_ms(int(count), self._orders_max, time.time_ns() // 1_000_000)
            self._no_orders_until = time.monotonic() + pause_ms / 1000


def _refusal_of(content: bytes | None) -> _Refusal:
    try:
        return msgspec.json.decode(content or b"", type=_Refusal)
    except msgspec.MsgspecError:
        return _Refusal(msg=(content or b"").decode(errors="replace")[:100])


def _header(response: ResponseContextManager, name: str) -> str:
    return str(response.headers.get(name) or "") if response.headers else ""


class _Watcher(User):
    """Holds one connection, and opens it again when it is lost."""

    abstract = True
    weight = 0  # there are as many as planned, from the start
    ws_url = _SETTINGS.ws_url()
    path = ""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._socket: ClientConnection | None = None
        self._open = ExitStack()

    def ready(self) -> bool:
        """Return whether there is anything to watch yet."""
        return True

    def subscribe(self, connection: ClientConnection) -> None:
        """Ask for what to watch."""
        raise NotImplementedError

    def heard(self, message: bytes, now_ns: int) -> None:
        """Measure."""
        raise NotImplementedError

    def on_stop(self) -> None:
        """Leave."""
        self._close()

    @task
    def watch(self) -> None:
        """Listen for a while."""
        try:
            if self._socket is not None:
                self._listen(self._socket)
            elif self.ready():
                connection = self._open.enter_context(connect_socket(f"{self.ws_url}{self.path}"))
                self.subscribe(connection)
                self._socket = connection
        except (WebSocketException, OSError, msgspec.MsgspecError) as error:
            self._close()
            self.fire(("WS", "connection"), 0, error)
            gevent.sleep(RECONNECT_S)

    def fire(self, kind: tuple[str, str], ms: float, error: Exception | None = None) -> None:
        """Put a latency into locust's statistics."""
        self.environment.events.request.fire(
            request_type=kind[0],
            name=kind[1],
            response_time=ms,
            response_length=0,
            exception=error,
            context={},
        )

    def _close(self) -> None:
        self._socket = None
        self._open.close()

    def _listen(self, connection: ClientConnection) -> None:
        until = time.monotonic() + WATCH_S
        while (left := until - time.monotonic()) > 0:
            try:
                message = connection.recv(left, decode=False)
            except TimeoutError:
                return
            self.heard(message, time.time_ns())


class _Trade(msgspec.Struct, frozen=True):
    e: str = ""
    T: int = 0


class MarketWatcher(_Watcher):
    """Watches every market's trades and best prices; measures how old a trade is when it arrives."""

    fixed_count = Plan().market_watchers()
    path = "/ws"
    _decoder = msgspec.json.Decoder(_Trade)

    def subscribe(self, connection: ClientConnection) -> None:
        """Subscribe to all markets."""
        url = f"{self.environment.host or _SETTINGS.rest_url()}/api/v3/exchangeInfo"
        with urllib.request.urlopen(url, timeout=INFO_S) as answer:  # noqa: S310 - the exchange under load
            symbols = msgspec.json.decode(answer.read())["symbols"]
        names = [each["symbol"].lower() for each in symbols]
        streams = [f"{name}@{stream}" for name in names for stream in ("trade", "bookTicker", "depth@100ms")]
        connection.send(msgspec.json.encode({"method": "SUBSCRIBE", "params": streams, "id": 1}).decode())

    def heard(self, message: bytes, now_ns: int) -> None:
        """Measure trades: `T` is the millisecond in which the taker's order was accepted."""
        heard = self._decoder.decode(message)
        if heard.e == "trade":
            self.fire(TRADE, now_ns / 1_000_000 - heard.T)


class _Report(msgspec.Struct, frozen=True):
    e: str = ""
    x: str = ""
    c: str = ""


class _OwnEvent(msgspec.Struct, frozen=True):
    event: _Report = _Report()
    status: int = 200
    error: _Refusal = _Refusal()


class AccountWatcher(_Watcher):
    """Watches one trader's account; measures from sending an order to hearing that it is there."""

    fixed_count = Plan().account_watchers()
    path = "/ws-api/v3"
    _decoder = msgspec.json.Decoder(_OwnEvent)

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._keys: Keys | None = None

    def ready(self) -> bool:
        """Take the account of an unwatched trader; wait a while if there is none."""
        self._keys = self._keys or _traders.take(WATCH_S)
        return self._keys is not None

    def subscribe(self, connection: ClientConnection) -> None:
        """Subscribe to the account."""
        assert self._keys is not None
        request = {
            "id": "watch",
            "method": "userDataStream.subscribe.signature",
            "params": signed_parameters(self._keys.key, self._keys.secret, {}, time.time_ns() // 1_000_000),
        }
        connection.send(msgspec.json.encode(request).decode())

    def heard(self, message: bytes, now_ns: int) -> None:
        """Measure the first report of every order; its client order id has its sending time."""
        heard = self._decoder.decode(message)
        if heard.status != HTTPStatus.OK:
            raise OSError(f"{heard.status} {heard.error.code} {heard.error.msg}")
        report = heard.event
        if report.e == "executionReport" and report.x == "NEW" and (sent := sent_ns(report.c)) is not None:
            self.fire(OWN_ORDER, (now_ns - sent) / 1_000_000)


def set_watchers(plan: Plan) -> None:
    """Have as many watchers as planned, whatever the step."""
    MarketWatcher.fixed_count = plan.market_watchers()
    AccountWatcher.fixed_count = plan.account_watchers()


class Steps(LoadTestShape):
    """Adds traders in steps; watchers are there from the start."""

    use_common_options = True

    def __init__(self, plan: Plan | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._plan = plan

    def tick(self) -> tuple[int, float] | None:
        """Return how many users there should be now; None at the end."""
        plan = self._plan or self._plan_of_options()
        step = plan.step_at(self.get_run_time())  # type: ignore[no-untyped-call]
        if step is None:
            return None
        set_watchers(plan)
        return plan.traders_in(step) + plan.watchers, SPAWN_PER_S

    def _plan_of_options(self) -> Plan:
        """Return the plan that locust's command line or page describes."""
        assert self.runner is not None
        options, usual = self.runner.environment.parsed_options, Plan()
        assert options is not None
        return Plan(options.num_users or usual.traders, options.watchers, options.run_time or usual.seconds)


def _add_options(parser: ArgumentParser) -> None:
    usual = Plan()
    parser.set_defaults(num_users=usual.traders)
    parser.add_argument(
        "--watchers", type=int, default=usual.watchers, help="Watchers of streams, beside the traders"
    )
    parser.add_argument("--ws-url", default=_Watcher.ws_url, help="Base URL of the WebSocket servers")


def _begin(environment: Environment, **_others: object) -> None:
    _traders.forget()
    if environment.parsed_options is not None:
        _Watcher.ws_url = environment.parsed_options.ws_url


events.init_command_line_parser.add_listener(_add_options)
events.test_start.add_listener(_begin)
