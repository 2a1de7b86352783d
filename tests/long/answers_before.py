"""Every finding that a client can meet: asked of an exchange of version e069486, where it must fail, and of
this one, where it must not.

Run by `make test-long`. Numbers are those of docs/reference/api.md ("Findings by number") and of the security
review; the question asked is the same in both, so what is right here is the control for what is wrong there.
TEST_OLD_RELEASE names a checkout of e069486 that is set up; without it one is made.
"""

import json
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, Final, NamedTuple

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from rich.console import Console
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from cli.local.own_exchange import OwnExchange, own_environment, own_exchange
from tests.long.upgrade_from_the_first import old_program
from tests.support.api import Api, RefusedError, new_account, now_ms, refused, signature_of
from tests.support.data_dirs import data_dir_of_its_own
from tests.support.eventually import eventually

__all__ = ["old_program"]

MARKETS: Final = """
[[markets]]
symbol = "BTCUSDT"
base = "BTC"
quote = "USDT"
tick_size = "0.01"
lot_size = "0.00001"
price_max = "1000000"
quantity_min = "0.00001"
quantity_max = "9000"
notional_min = "5"

[[markets]]
symbol = "ETHUSDT"
base = "ETH"
quote = "USDT"
tick_size = "0.01"
lot_size = "0.0001"
price_max = "1000000"
quantity_min = "0.0001"
quantity_max = "9000"
notional_min = "5"

[[markets]]
symbol = "LOTUSDT"
base = "LOT"
quote = "USDT"
tick_size = "0.0001"
lot_size = "1"
price_max = "1000"
quantity_min = "1"
quantity_max = "100000"
notional_min = "1"
"""
BTC, ETH, LOT = "BTCUSDT", "ETHUSDT", "LOTUSDT"
FORM: Final = {"Content-Type": "application/x-www-form-urlencoded"}
QUIET_S: Final = 6
CONSOLE: Final = Console()
WAIT_S: Final = 10.0
RED: Final = (
    AssertionError,
    RefusedError,
    WebSocketException,
    TimeoutError,
    KeyError,
    IndexError,
    httpx.HTTPError,
)
"""How a question fails where the answer is wrong."""

pytestmark = pytest.mark.timeout(1_200)


class World:
    """A running exchange, and two accounts with money."""

    def __init__(self, exchange: OwnExchange) -> None:
        self.exchange, self.url = exchange, exchange.url
        self.ws = exchange.settings.ws_url()
        self.public = Api(self.url)
        self.maker = new_account(self.url, BTC="10", LOT="100000", USDT="1000000")
        self.taker = new_account(self.url, BTC="10", LOT="100000", USDT="1000000")

    def clear(self) -> None:
        """Take back what rests."""
        for account in (self.maker, self.taker):
            for symbol in (BTC, ETH, LOT):
                try:
                    account.signed("DELETE", "/api/v3/openOrders", symbol=symbol)
                except RefusedError as error:
                    if error.code != -2011:
                        raise

    def rest(self, side: str, quantity: str, price: str, symbol: str = BTC) -> Any:
        """Let the maker's order rest."""
        return self.maker.order(symbol, side, "LIMIT", quantity=quantity, price=price)

    def trade(self, price: str, symbol: str = BTC, quantity: str = "0.01") -> Any:
        """Let maker and taker trade; return the taker's order."""
        self.rest("SELL", quantity, price, symbol)
        return self.taker.order(symbol, "BUY", "LIMIT", quantity=quantity, price=price)

    def weight(self) -> int:
        """Return the weight that is used up, this question included."""
        return int(self.public.http.get("/api/v3/ping").headers["X-MBX-USED-WEIGHT-1M"])

    @contextmanager
    def stream(self, path: str, **more: Any) -> Iterator["Listener"]:
        """Yield what listens to an address of the edge."""
        with connect(f"{self.ws}{path}", proxy=None, **more) as connection:
            yield Listener(connection)


class Listener:
    """A connection to the edge."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    def next(self, is_it: Callable[[Any], bool] = lambda _message: True, within_s: float = WAIT_S) -> Any:
        """Return the next message of a kind; TimeoutError when there is none."""
        deadline = time.monotonic() + within_s
        while True:
            message = json.loads(self._connection.recv(max(0.0, deadline - time.monotonic())))
            if is_it(message):
                return message

    def ask(self, method: str, **more: Any) -> Any:
        """Return the answer to a request."""
        self._connection.send(json.dumps({"id": 7, "method": method, **more}))
        return self.next(lambda message: isinstance(message, dict) and message.get("id") == 7)


class Question(NamedTuple):
    """What is asked about a finding."""

    number: str
    ask: Callable[[World], None]


QUESTIONS: Final[list[Question]] = []


def finding(*numbers: str) -> Callable[[Callable[[World], None]], Callable[[World], None]]:
    """Register a question about findings."""

    def register(ask: Callable[[World], None]) -> Callable[[World], None]:
        QUESTIONS.append(Question(" ".join(numbers), ask))
        return ask

    return register


def signed_parameters(account: Api, **parameters: str) -> dict[str, str]:
    """Return the parameters of a signed request of the WebSocket API."""
    given = {**parameters, "apiKey": account.key, "timestamp": str(now_ms())}
    payload = "&".join(f"{name}={value}" for name, value in sorted(given.items()))
    return {**given, "signature": signature_of(account.secret, payload)}


# Orders


@finding("F2")
def market_sell_for_more_than_there_is(world: World) -> None:
    poor = new_account(world.url, BTC="0.0001")
    world.trade("90000")
    world.rest("BUY", "1", "90000")
    with refused(-2010, "Account has insufficient balance for requested action."):
        poor.order(BTC, "SELL", "MARKET", quoteOrderQty="100")


@finding("F3", "6")
def a_budget_below_one_lot(world: World) -> None:
    world.trade("1.04", LOT, "10")
    world.rest("SELL", "100", "1.04", LOT)
    with refused(-2010, "Order book liquidity is less than `LOT_SIZE` filter minimum quantity."):
        world.taker.order(LOT, "BUY", "MARKET", quoteOrderQty="1.01")


@finding("F4")
def a_budget_that_is_used_up_is_filled(world: World) -> None:
    world.trade("1", LOT, "10")
    world.rest("SELL", "10", "1", LOT)
    world.rest("SELL", "1000", "1.04", LOT)
    order = world.taker.order(LOT, "BUY", "MARKET", quoteOrderQty="11.03")
    assert (order["status"], Decimal(order["cummulativeQuoteQty"])) == ("FILLED", Decimal(10))


@finding("F5", "5")
def a_budget_on_an_empty_side(world: World) -> None:
    world.trade("1", LOT, "10")
    with refused(-2010, "Order book liquidity is less than symbol minimum quantity."):
        world.taker.order(LOT, "BUY", "MARKET", quoteOrderQty="100")


@finding("7")
def a_market_order_is_worth_the_last_price(world: World) -> None:
    world.trade("90000")
    with refused(-1013, "Filter failure: NOTIONAL"):
        world.taker.order(BTC, "BUY", "MARKET", quantity="0.00001")


@finding("8")
def a_market_that_never_traded_has_no_market_orders(world: World) -> None:
    with pytest.raises(RefusedError):
        world.taker.order(ETH, "BUY", "MARKET", quantity="1")


@finding("F8")
def a_deadline_passes_while_redis_stands_still(world: World) -> None:
    world.trade("90000")
    world.rest("SELL", "1", "90000")
    servers = [each.pid for each in world.exchange.processes() if each.name == "redis"]
    answers: list[Any] = []

    def order() -> None:
        try:
            answers.append(world.taker.order(BTC, "BUY", "MARKET", quantity="0.001", recvWindow=300))
        except RefusedError as error:
            answers.append(error)

    for pid in servers:
        os.kill(pid, signal.SIGSTOP)
    try:
        thread = threading.Thread(target=order)
        thread.start()
        time.sleep(1.2)
    finally:
        for pid in servers:
            os.kill(pid, signal.SIGCONT)
    thread.join()
    (answer,) = answers
    assert isinstance(answer, RefusedError), answer
    assert answer.code == -1021


@finding("F14a", "10")
def a_client_order_id_is_free_again(world: World) -> None:
    for _ in range(2):
        world.maker.order(BTC, "BUY", "LIMIT", quantity="0.01", price="80000", newClientOrderId="again")
        world.maker.signed("DELETE", "/api/v3/order", symbol=BTC, origClientOrderId="again")


@finding("F11", "1")
def an_order_that_expired_says_why(world: World) -> None:
    placed = world.taker.order(
        BTC, "BUY", "LIMIT", quantity="0.01", price="80000", timeInForce="IOC", newOrderRespType="RESULT"
    )
    assert placed["status"] == "EXPIRED"
    assert placed["expiryReason"]
    asked = eventually(
        "it is stored",
        lambda: world.taker.signed("GET", "/api/v3/allOrders", symbol=BTC, orderId=placed["orderId"]),
    )
    assert asked[0]["expiryReason"] == placed["expiryReason"]


@finding("F11", "2")
def strategies_are_told(world: World) -> None:
    placed = world.maker.order(
        BTC, "BUY", "LIMIT", quantity="0.01", price="80000", strategyId=37463720, strategyType=1000000
    )
    assert (placed["strategyId"], placed["strategyType"]) == (37463720, 1000000)


@finding("F12", "3")
def a_mode_that_is_not_allowed(world: World) -> None:
    with refused(-1013, "This symbol does not allow the specified self-trade prevention mode."):
        world.maker.order(
            BTC, "BUY", "LIMIT", quantity="0.01", price="80000", selfTradePreventionMode="DECREMENT"
        )


@finding("F11", "4")
def a_match_that_was_prevented(world: World) -> None:
    resting = world.rest("SELL", "0.5", "90000")
    order = world.maker.order(
        BTC, "BUY", "LIMIT", quantity="0.2", price="90000", selfTradePreventionMode="EXPIRE_TAKER"
    )
    assert (order["status"], Decimal(order["preventedQuantity"])) == ("EXPIRED_IN_MATCH", Decimal("0.2"))
    (match,) = order["preventedMatches"]
    assert match["makerOrderId"] == resting["orderId"]


@finding("11")
def pegs_are_not_supported(world: World) -> None:
    with refused(-1013, "Pegged orders are not supported for this symbol."):
        world.maker.order(BTC, "BUY", "LIMIT", quantity="0.01", price="80000", pegPriceType="PRIMARY_PEG")


@finding("F12", "13")
def numbers_of_two_orders(world: World) -> None:
    order = world.rest("BUY", "0.01", "80000")
    with refused(-2039, "Client order ID is not correct for this order ID."):
        world.maker.signed(
            "GET", "/api/v3/order", symbol=BTC, orderId=order["orderId"], origClientOrderId="another"
        )


def weighs(world: World, ask: Callable[[], object]) -> int:
    """Return the weight of a request, which is asked again when a minute ended between."""
    while True:
        before = world.weight()
        ask()
        if (after := world.weight()) > before:
            return after - before - 1


@finding("14")
def what_succeeds_weighs_nothing(world: World) -> None:
    assert weighs(world, lambda: world.rest("BUY", "0.01", "80000")) == 0


@finding("15")
def a_test_without_commissions_weighs_one(world: World) -> None:
    def ask() -> object:
        return world.maker.signed(
            "POST",
            "/api/v3/order/test",
            symbol=BTC,
            side="BUY",
            type="LIMIT",
            timeInForce="GTC",
            quantity="0.01",
            price="80000",
            computeCommissionRates="false",
        )

    assert weighs(world, ask) == 1


@finding("16")
def an_account_has_changed_when_it_did(world: World) -> None:
    first = world.maker.signed("GET", "/api/v3/account")["updateTime"]
    time.sleep(0.01)
    assert world.maker.signed("GET", "/api/v3/account")["updateTime"] == first


# Market data


@finding("F6")
def three_days_open_on_the_grid(world: World) -> None:
    world.trade("90000")
    (candle,) = world.public.get("/api/v3/klines", symbol=BTC, interval="3d", limit=1)
    assert candle[0] // 86_400_000 % 3 == 1


@finding("F7", "27")
def candles_go_on_where_nothing_trades(world: World) -> None:
    world.trade("90000")
    with world.stream(f"/ws/{BTC.lower()}@kline_1s") as stream:
        opened = {stream.next(within_s=QUIET_S)["k"]["t"] for _ in range(QUIET_S)}
    assert len(opened) >= QUIET_S / 2


@finding("18")
def an_average_closes_with_its_last_trade(world: World) -> None:
    """Where nothing was traded for five minutes it was the time of the request; here nothing ever was."""
    assert world.public.get("/api/v3/avgPrice", symbol=ETH)["closeTime"] == 0


@finding("F14b", "19")
def candles_by_other_clocks(world: World) -> None:
    world.trade("90000")
    (candle,) = world.public.get("/api/v3/klines", symbol=BTC, interval="1d", limit=1, timeZone="8")
    assert candle[0] % 86_400_000 == 16 * 3_600_000


@finding("20")
def windows_days_and_rules(world: World) -> None:
    world.trade("90000")
    for path, more in (
        ("/api/v3/ticker", {"symbol": BTC}),
        ("/api/v3/ticker/tradingDay", {"symbol": BTC}),
        ("/api/v3/executionRules", {"symbol": BTC}),
    ):
        assert world.public.http.get(path, params=more).status_code == 200, path


@finding("21")
def the_day_moves_without_trades(world: World) -> None:
    world.trade("90000")
    first = world.public.get("/api/v3/ticker/24hr", symbol=BTC)["closeTime"]
    time.sleep(2)
    assert world.public.get("/api/v3/ticker/24hr", symbol=BTC)["closeTime"] > first


@finding("23")
def symbols_beyond_ascii(world: World) -> None:
    with refused(-1121, "Invalid symbol."):
        world.public.get("/api/v3/depth", symbol="币安人生USDT")


# Streams and the WebSocket API


@finding("24")
def encoded_addresses(world: World) -> None:
    with world.stream(f"/ws/{BTC.lower()}%40bookTicker") as stream:
        world.rest("BUY", "0.01", "80000")
        assert stream.next()["s"] == BTC


@finding("25")
def tickers_of_windows(world: World) -> None:
    with world.stream(f"/ws/{BTC.lower()}@ticker_1h") as stream:
        world.trade("90000")
        assert stream.next()["e"] == "1hTicker"


@finding("26", "B: unknown streams")
def unknown_streams_harm_nothing(world: World) -> None:
    with world.stream("/ws") as stream:
        answer = stream.ask("SUBSCRIBE", params=["foousdt@trade", f"{BTC.lower()}@trade"])
        assert answer["result"] is None
        world.trade("90000")
        assert stream.next()["s"] == BTC


@finding("28")
def time_units_that_there_are_not(world: World) -> None:
    with pytest.raises(WebSocketException), world.stream(f"/ws/{BTC.lower()}@trade?timeUnit=foo"):
        pass


@finding("29")
def handshakes_weigh_two(world: World) -> None:
    with world.stream("/ws-api/v3", source_address=("127.0.0.29", 0)) as api:
        answer = api.ask("ping")
        assert [each["count"] for each in answer["rateLimits"]] == [3]


@finding("30")
def orders_are_counted_in_refusals(world: World) -> None:
    with world.stream("/ws-api/v3") as api:
        order = {"symbol": BTC, "side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "quantity": "90000"}
        answer = api.ask("order.place", params=signed_parameters(world.maker, **order, price="90000"))
        assert answer["status"] == 400
        assert "ORDERS" in {each["rateLimitType"] for each in answer["rateLimits"]}


@finding("31")
def connections_are_a_limit(world: World) -> None:
    with world.stream("/ws-api/v3") as api:
        limits = api.ask("exchangeInfo", params={"symbol": BTC})["result"]["rateLimits"]
        assert "CONNECTIONS" in {each["rateLimitType"] for each in limits}


@finding("32")
def no_params_in_the_api(world: World) -> None:
    with world.stream("/ws-api/v3") as api:
        assert api.ask("ping", params=None)["status"] == 200


@finding("33")
def no_params_in_streams(world: World) -> None:
    with world.stream("/ws") as stream:
        assert stream.ask("LIST_SUBSCRIPTIONS", params=None)["result"] == []


@contextmanager
def events_of(world: World, account: Api) -> Iterator[Listener]:
    """Yield what hears an account's events."""
    key = account.http.post("/api/v3/userDataStream").json()["listenKey"]
    with world.stream(f"/ws/{key}") as stream:
        yield stream


def report(kind: str) -> Callable[[Any], bool]:
    return lambda event: event.get("e") == "executionReport" and event["x"] == kind


@finding("F11", "34")
def executions_have_numbers_of_their_own(world: World) -> None:
    with events_of(world, world.taker) as stream:
        world.trade("90000")
        placed, traded = stream.next(report("NEW")), stream.next(report("TRADE"))
    assert placed["I"] != traded["I"]


@finding("F11", "2, in reports")
def strategies_are_told_in_reports(world: World) -> None:
    with events_of(world, world.maker) as stream:
        world.maker.order(
            BTC, "BUY", "LIMIT", quantity="0.01", price="80000", strategyId=1, strategyType=1000000
        )
        placed = stream.next(report("NEW"))
    assert (placed["j"], placed["J"]) == (1, 1000000)


@finding("B: SUBSCRIBE of a listenKey")
def listen_keys_can_be_subscribed_to(world: World) -> None:
    key = world.maker.http.post("/api/v3/userDataStream").json()["listenKey"]
    with world.stream("/ws") as stream:
        assert stream.ask("SUBSCRIBE", params=[key])["result"] is None
        world.rest("BUY", "0.01", "80000")
        assert stream.next(report("NEW"))["s"] == BTC


# Limits, headers, what libraries ask first


@finding("35", "B: counts of other processes")
def orders_are_counted_everywhere(world: World) -> None:
    account = new_account(world.url, USDT="100000")
    for _ in range(5):
        account.order(BTC, "BUY", "LIMIT", quantity="0.001", price="80000")
    with world.stream("/ws-api/v3") as api:

        def day() -> int:
            rows = api.ask("account.rateLimits.orders", params=signed_parameters(account))["result"]
            return int(next(row["count"] for row in rows if row["interval"] == "DAY"))

        time.sleep(1)
        assert day() == 5


@finding("36")
def who_is_over_the_weight_is_so_everywhere(world: World) -> None:
    transport = httpx.HTTPTransport(local_address="127.0.0.36")
    with httpx.Client(base_url=world.url, transport=transport) as client:
        while client.get("/api/v3/depth", params={"symbol": BTC, "limit": 5000}).status_code == 200:
            pass
    try:
        with world.stream("/ws-api/v3", source_address=("127.0.0.36", 0)) as api:
            status = api.ask("ping")["status"]
    except WebSocketException:
        status = 429
    assert status != 200


@finding("37", "1.7", "B: Date and headers in every answer")
def every_answer_has_its_headers(world: World) -> None:
    for method, path in (
        ("GET", "/api/v3/nothing"),
        ("PATCH", "/api/v3/order"),
        ("GET", "/api/v3/depth?limit=x"),
    ):
        headers = world.public.http.request(method, path).headers
        for name in ("Date", "X-Request-Id", "X-MBX-USED-WEIGHT", "X-MBX-USED-WEIGHT-1M"):
            assert name in headers, (path, name)


@finding("38")
def makers_orders_count_no_more_when_they_trade(world: World) -> None:
    account = new_account(world.url, BTC="1")
    account.order(BTC, "SELL", "LIMIT", quantity="0.01", price="90000")
    world.taker.order(BTC, "BUY", "LIMIT", quantity="0.01", price="90000")

    def day() -> int:
        rows = account.signed("GET", "/api/v3/rateLimit/order")
        return int(next(row["count"] for row in rows if row["interval"] == "DAY"))

    for _ in range(20):
        if day() == 0:
            return
        time.sleep(0.25)
    assert day() == 0


@finding("40")
def pages_may_keep_a_listen_key(world: World) -> None:
    asked = {"Origin": world.exchange.settings.frontend_url(), "Access-Control-Request-Method": "PUT"}
    assert world.public.http.options("/api/v3/userDataStream", headers=asked).is_success


@finding("B: start-up questions")
def libraries_get_answers(world: World) -> None:
    for method, path, more in (
        ("GET", "/sapi/v1/account/apiRestrictions", {}),
        ("GET", "/sapi/v1/account/status", {}),
        ("GET", "/sapi/v1/account/apiTradingStatus", {}),
        ("POST", "/sapi/v3/asset/getUserAsset", {}),
        ("GET", "/sapi/v1/capital/deposit/hisrec", {}),
        ("GET", "/sapi/v1/capital/withdraw/history", {}),
        ("GET", "/sapi/v1/asset/wallet/balance", {}),
        ("GET", "/sapi/v1/capital/deposit/address", {"coin": "BTC"}),
        ("GET", "/sapi/v1/asset/assetDetail", {}),
    ):
        world.maker.signed(method, path, **more)


# Security


def session_of(world: World, password: str) -> tuple[str, httpx.Response]:
    """Sign up with a password; return the address and the answer."""
    email = f"{secrets.token_hex(8)}@example.com"
    return email, world.public.http.post("/api/v1/signup", json={"email": email, "password": password})


@finding("F13")
def signatures_without_decoration(world: World) -> None:
    query = f"timestamp={now_ms()}"
    plain = signature_of(world.maker.secret, query)
    answer = world.maker.http.get(f"/api/v3/account?{query}&signature={plain[:8]}%20{plain[8:]}")
    assert (answer.status_code, answer.json()["code"]) == (400, -1022)


@finding("M2")
def passwords_that_everybody_guesses(world: World) -> None:
    for password in ("password", "12345678", "aaaaaaaa"):
        assert session_of(world, password)[1].status_code == 400, password


@finding("M13")
def an_address_that_has_an_account_is_not_told(world: World) -> None:
    email, first = session_of(world, "an entirely different staple")
    again = world.public.http.post(
        "/api/v1/signup", json={"email": email, "password": "another different staple"}
    )
    assert (again.status_code, again.json()) == (first.status_code, first.json())


def bearer(world: World, password: str = "an entirely different staple") -> dict[str, str]:
    """Return the header of a new account's session."""
    email, _ = session_of(world, password)
    answer = world.public.http.post("/api/v1/signin", json={"email": email, "password": password})
    return {"Authorization": f"Bearer {answer.json()['token']}"}


@finding("L2")
def signing_out_with_an_empty_object(world: World) -> None:
    session = bearer(world)
    assert world.public.http.post("/api/v1/signout", json={}, headers=session).is_success
    assert world.public.http.get("/api/v1/me", headers=session).status_code == 401


@finding("L3")
def answers_about_accounts_are_not_kept(world: World) -> None:
    query = f"timestamp={now_ms()}"
    assert "no-store" in world.maker.send("GET", "/api/v3/account", query).headers["Cache-Control"]


@finding("M4")
def a_session_alone_makes_no_key(world: World) -> None:
    answer = world.public.http.post("/api/v1/api-keys", json={"label": "thief"}, headers=bearer(world))
    assert not answer.is_success


@finding("M8")
def keys_that_are_dear_to_check(world: World) -> None:
    numbers = rsa.RSAPublicNumbers(3, rsa.generate_private_key(65_537, 2_048).public_key().public_numbers().n)
    pem = numbers.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    password = "an entirely different staple"
    body = {"label": "dear", "publicKey": pem}
    session = bearer(world, password)
    answers = [
        world.public.http.post("/api/v1/api-keys", json=each, headers=session)
        for each in (body, {**body, "password": password})
    ]
    assert not any(answer.is_success for answer in answers)


@finding("M6")
def paths_that_there_are_not_weigh_something(world: World) -> None:
    assert weighs(world, lambda: world.public.http.get("/api/v3/nothing")) >= 1


@finding("H6")
def who_is_revoked_hears_no_more(world: World) -> None:
    credentials = {"email": f"{secrets.token_hex(8)}@example.com", "password": "an entirely different staple"}
    http = world.public.http
    http.post("/api/v1/signup", json=credentials)
    session = {"Authorization": f"Bearer {http.post('/api/v1/signin', json=credentials).json()['token']}"}
    made: Any = {}
    for more in ({"password": credentials["password"]}, {}):
        made = http.post("/api/v1/api-keys", json={"label": "lost", **more}, headers=session).json()
        if "apiKey" in made:
            break
    listen_key = http.post("/api/v3/userDataStream", headers={"X-MBX-APIKEY": made["apiKey"]}).json()[
        "listenKey"
    ]
    with world.stream(f"/ws/{listen_key}") as stream:
        assert http.delete("/api/v1/api-keys", params={"apiKey": made["apiKey"]}, headers=session).is_success
        assert stream.next(lambda event: event["e"] == "listenKeyExpired")["listenKey"] == listen_key


@finding("H1")
def a_percent_bomb_is_not_read(world: World) -> None:
    answer = world.public.http.post("/api/v3/order", content=b"a=" + b"%41" * 330_000, headers=FORM)
    assert answer.status_code == 413


@pytest.fixture(scope="module")
def worlds(
    old_program: Sequence[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[World, World]]:
    """An exchange of the old version, and one of this."""
    file = tmp_path_factory.mktemp("markets") / "markets.toml"
    file.write_text(MARKETS)
    file.parent.chmod(0o755)
    settings = {"mm_enabled": "false", "frontend_enabled": "false", "markets_file": str(file)}
    with data_dir_of_its_own() as one, data_dir_of_its_own() as two:
        before = own_environment(one, **settings, request_weight_per_minute="6000")
        del before["EXCHANGE_CACHE_PORT"]  # it has one Redis
        now = own_environment(two, **settings, request_weight_per_minute="6000")
        with own_exchange(before, (*old_program, "up")) as first, own_exchange(now) as second:
            yield World(first), World(second)


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda each: each.ask.__name__)
def test_wrong_before_and_right_now(question: Question, worlds: tuple[World, World]) -> None:
    before, now = worlds
    now.clear()
    question.ask(now)
    before.clear()
    with pytest.raises((*RED, pytest.fail.Exception)) as wrong:
        question.ask(before)
    said = str(wrong.value).splitlines() or [wrong.type.__name__]
    CONSOLE.print(f"{question.number}: {said[0][:150]}", markup=False)
