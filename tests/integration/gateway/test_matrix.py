"""Every function, stream and WebSocket method, times everything that may be wrong with who asks.

Each cell is refused with the documented error, never a 5xx, and says nothing of another account; its twin
with the right credential is taken. Functions come from the catalogue, so that a new one is in the matrix by
itself.
"""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from adapters.clock import now_ms
from functions.api.function import Function, Security
from functions.api.key_permissions import Scope
from functions.catalog import FUNCTIONS
from functions.users.session_cookies import COOKIE
from functions.users.sessions import csrf_token
from tests.support.api import Api, signature_of
from tests.support.gateway_processes import Processes
from tests.support.newcomers import ORIGIN, PASSWORD, Person, newcomer
from ws_edge import websocket_api

NOT_LET_IN: Final = frozenset({-1002, -1021, -1022, -2014, -2015, -9001})
"""Codes that say that it is the credential that is wrong."""
VALUES: Final = {
    "symbol": "BTCUSDT",
    "interval": "1m",
    "side": "BUY",
    "type": "LIMIT",
    "timeInForce": "GTC",
    "quantity": "0.01",
    "price": "20000",
    "coin": "BTC",
    "fromId": "0",
    "apiKey": "k" * 64,
    "listenKey": "l" * 64,
}
SIGN_OUT: Final = "/api/v1/signout"
"""Asked for last: it ends the session that all others come with."""
FORBIDDEN: Final = (403, -1002)

Change = Callable[["Request"], None]


class Request:
    """A request that may be spoilt."""

    def __init__(self, function: Function, person: Person, api: Api) -> None:
        self.function = function
        self.key, self.secret = api.key, api.secret
        self.age_ms = 0
        self.signature = ""
        self.headers: dict[str, str] = {}
        if function.security is Security.SESSION:
            self.headers = dict(person.bearer)

    def query(self) -> str:
        """Return what is asked, signed where it has to be."""
        wanted = {each.name for each in self.function.parameters if each.required}
        if self.function.places_order:
            wanted |= {"timeInForce", "quantity", "price"}
        if self.function.path == "/api/v3/order" and self.function.method != "POST":
            wanted |= {"orderId"}
        query = "&".join(f"{name}={VALUES.get(name, '1')}" for name in sorted(wanted))
        if self.function.security is Security.SIGNED or (
            self.function.security is Security.OWNER and self.key
        ):
            query = f"{query}&timestamp={now_ms() - self.age_ms}".lstrip("&")
            query += f"&signature={self.signature or signature_of(self.secret, query)}"
        return query

    def send(self, url: str) -> httpx.Response:
        """Send it."""
        headers = dict(self.headers)
        if self.function.security in (Security.SIGNED, Security.API_KEY, Security.OWNER) and self.key:
            headers["X-MBX-APIKEY"] = self.key
        body: dict[str, str] | None = {} if self.function.body is not None else None
        target = f"{url}{self.function.path}?{self.query()}".rstrip("?")
        return httpx.request(self.function.method, target, headers=headers, json=body, timeout=30)


class Cell(NamedTuple):
    """What is wrong with a request, and the answer."""

    name: str
    spoil: Change
    status: int
    code: int


def with_key(api: Api) -> Change:
    def spoil(request: Request) -> None:
        request.key, request.secret = api.key, api.secret

    return spoil


def setting(**values: Any) -> Change:
    def spoil(request: Request) -> None:
        for name, value in values.items():
            setattr(request, name, value)

    return spoil


def both(*changes: Change) -> Change:
    def spoil(request: Request) -> None:
        for change in changes:
            change(request)

    return spoil


class World(NamedTuple):
    """An exchange with somebody who is attacked, and somebody who attacks, with credentials of all kinds."""

    url: str
    edge: str
    person: Person
    api: Api
    no_key: list[Cell]
    """What may be wrong with a request with a key."""
    unsigned: list[Cell]
    """What may be wrong with a signature."""
    no_session: list[Cell]
    by_scope: dict[Scope, Api]
    """A key without the scope."""
    secrets: list[str]
    """What belongs to somebody else, and nobody is ever told."""


def of_ended_session(person: Person) -> tuple[Person, Api]:
    other = person.signed_in_again()
    made = other.ask("POST", "/api/v1/tickets").raise_for_status().json()
    other.ask("POST", "/api/v1/signout").raise_for_status()
    return other, Api(person.url, made["apiKey"], made["secret"])


def of_page(token: str) -> dict[str, str]:
    """Return the headers of the exchange's own page, with a session's token."""
    return {"Cookie": f"{COOKIE}={token}", "Origin": ORIGIN, "X-CSRF-Token": csrf_token(token)}


@pytest.fixture
def world(processes: Processes) -> World:
    processes.shards()
    processes.pretend_ingested()
    url, edge = processes.gateway(), processes.edge()
    person, victim = newcomer(url), newcomer(url)
    api, theirs = person.key(), victim.key(label="their label")
    for each in (person, victim):
        each.ask("POST", "/api/v1/faucet", {"asset": "USDT", "amount": "77777"}).raise_for_status()
    order = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "price": "10000"}
    theirs.signed("POST", "/api/v3/order", **order, quantity="0.5", newClientOrderId="their-order")
    revoked, expiring = person.key(), person.key(expiresTime=now_ms() + 1_000)
    person.ask("DELETE", "/api/v1/api-keys", apiKey=revoked.key).raise_for_status()
    ended, ticket = of_ended_session(person)
    time.sleep(1.1)
    refused = (401, -2015)
    no_key = [
        Cell("no key", setting(key=""), 401, -2014),
        Cell("a key that cannot be one", setting(key="k?"), 401, -2014),
        Cell("a key that there is not", setting(key="k" * 64), *refused),
        Cell("a key of another network", with_key(person.key(networks=["192.0.2.0/24"])), *refused),
        Cell("a key that has ended", with_key(expiring), *refused),
        Cell("a revoked key", with_key(revoked), *refused),
        Cell("a ticket of a session that has ended", with_key(ticket), *refused),
    ]
    unsigned = [
        Cell("a wrong signature", setting(signature="0" * 64), 400, -1022),
        Cell("somebody else's signature", setting(secret=theirs.secret), 400, -1022),
        Cell("replayed, or too late", setting(age_ms=6_000), 400, -1021),
        Cell("from the future", setting(age_ms=-5_000), 400, -1021),
    ]
    cookie = {"Cookie": f"{COOKIE}={person.token}"}
    no_session = [
        Cell("nobody", setting(headers={}), 401, -1002),
        Cell("a token that there is not", setting(headers={"Authorization": "Bearer nonsense"}), 401, -1002),
        Cell("a session that has ended", setting(headers=ended.bearer), 401, -1002),
        Cell("a cookie that there is not", setting(headers=of_page("nonsense")), 401, -1002),
        Cell("the cookie of a session that has ended", setting(headers=of_page(ended.token)), 401, -1002),
        Cell(
            "a page of another origin", setting(headers={**cookie, "Origin": "https://evil.test"}), *FORBIDDEN
        ),
        Cell(
            "another site",
            setting(headers={**cookie, "Origin": ORIGIN, "Sec-Fetch-Site": "cross-site"}),
            *FORBIDDEN,
        ),
        Cell("no token against forgeries", setting(headers={**cookie, "Origin": ORIGIN}), *FORBIDDEN),
        Cell(
            "a wrong token against forgeries",
            setting(headers={**cookie, "Origin": ORIGIN, "X-CSRF-Token": "0" * 64}),
            *FORBIDDEN,
        ),
    ]
    without = {
        scope: person.key(scopes=[each for each in ("read", "trade", "withdraw") if each != scope])
        for scope in Scope
    }
    secrets = [victim.email, theirs.key, theirs.secret, victim.token, "their-order", "their label"]
    return World(url, edge, person, api, no_key, unsigned, no_session, without, secrets)


def check(response: httpx.Response, where: str, status: int, code: int) -> None:
    assert (response.status_code, response.json()["code"]) == (status, code), f"{where}: {response.text}"


def cells_of(world: World, function: Function) -> Iterator[Cell]:
    if function.security in (Security.SIGNED, Security.API_KEY, Security.OWNER):
        yield from (
            each for each in world.no_key if function.security is not Security.OWNER or each.name != "no key"
        )
        yield Cell("a key without the scope", with_key(world.by_scope[function.scope]), 401, -2015)
    if function.security in (Security.SIGNED, Security.OWNER):
        yield from world.unsigned
    if function.security in (Security.SESSION, Security.OWNER):
        for cell in world.no_session:
            # Whoever reads needs no token against forgeries: no other page can read the answer.
            if function.method != "GET" or "forgeries" not in cell.name:
                yield (
                    cell
                    if function.security is Security.SESSION
                    else Cell(cell.name, both(setting(key=""), cell.spoil), cell.status, cell.code)
                )


def test_every_function_refuses_whoever_may_not_and_takes_whoever_may(world: World) -> None:
    cells = 0
    protected = [each for each in FUNCTIONS if each.security is not Security.PUBLIC]
    for function in sorted(protected, key=lambda each: each.path == SIGN_OUT):
        for cell in cells_of(world, function):
            request = Request(function, world.person, world.api)
            cell.spoil(request)
            response = request.send(world.url)
            where = f"{function.method} {function.path}, {cell.name}"
            # An unsigned request to a function that asks for a key alone has nothing to sign.
            check(response, where, cell.status, cell.code)
            assert not any(secret in response.text for secret in world.secrets), where
            cells += 1
        request = Request(function, world.person, world.api)
        if function.security is Security.OWNER:
            request.key, request.headers = "", dict(world.person.bearer)
            assert request.send(world.url).status_code == 200, function.path
            request.key, request.headers = world.api.key, {}
        if function.security is Security.SESSION and function.path != SIGN_OUT:
            request.headers = of_page(world.person.token)
            assert request.send(world.url).status_code < 500
            request.headers = dict(world.person.bearer)
        twin = request.send(world.url)
        where = f"{function.method} {function.path}, as it should be: {twin.text}"
        assert twin.status_code < 500, where
        if twin.status_code != 200:
            # `confirm` asks for the password again, which the body here lacks.
            assert twin.json()["code"] not in NOT_LET_IN, where
        assert not any(secret in twin.text for secret in world.secrets), where
    assert cells > 300


def test_what_is_public_is_the_same_for_everybody(world: World) -> None:
    """Credentials that are wrong change nothing where none is asked for."""
    for function in (each for each in FUNCTIONS if each.security is Security.PUBLIC and each.body is None):
        request = Request(function, world.person, world.api)
        plain = request.send(world.url)
        request.headers = {
            "X-MBX-APIKEY": "k" * 64,
            "Authorization": "Bearer nonsense",
            "Cookie": f"{COOKIE}=nonsense",
        }
        spoilt = request.send(world.url)
        assert spoilt.status_code == plain.status_code, function.path
        assert plain.status_code < 500, function.path


def test_what_belongs_to_somebody_else_is_not_there(processes: Processes, world: World) -> None:
    victim = newcomer(world.url)
    victim.ask("POST", "/api/v1/faucet", {"asset": "USDT", "amount": "1000"}).raise_for_status()
    theirs, other = victim.key(), victim.signed_in_again()
    order = theirs.order("BTCUSDT", "BUY", "LIMIT", price="10000", quantity="0.05", newClientOrderId="mine")
    listen_key = theirs.http.post("/api/v3/userDataStream").json()["listenKey"]
    session_id = other.ask("GET", "/api/v1/me").json()["sessionId"]

    def refused(method: str, path: str, code: int, **parameters: Any) -> None:
        query = "&".join(f"{name}={value}" for name, value in {**parameters, "timestamp": now_ms()}.items())
        response = world.api.send(method, path, query)
        check(response, f"{method} {path}", 400, code)

    number = order["orderId"]
    for names in ({"orderId": number}, {"origClientOrderId": "mine"}):
        refused("GET", "/api/v3/order", -2013, symbol="BTCUSDT", **names)
        refused("DELETE", "/api/v3/order", -2011, symbol="BTCUSDT", **names)
    refused("DELETE", "/api/v3/openOrders", -2011, symbol="BTCUSDT")
    for path in ("/api/v3/allOrders", "/api/v3/openOrders", "/api/v3/myTrades"):
        assert world.api.signed("GET", path, symbol="BTCUSDT") == [], path
    for path in ("/api/v3/allOrders", "/api/v3/myTrades"):
        assert world.api.signed("GET", path, symbol="BTCUSDT", orderId=number) == [], path
    for method in ("PUT", "DELETE"):
        response = world.api.http.request(method, f"/api/v3/userDataStream?listenKey={listen_key}")
        check(response, "listenKey", 400, -1125)
    check(world.person.ask("DELETE", "/api/v1/api-keys", apiKey=theirs.key), "key", 400, -1130)
    check(world.person.ask("DELETE", "/api/v1/sessions", sessionId=session_id), "session", 400, -1130)
    # All of it is still its owner's.
    assert theirs.signed("GET", "/api/v3/order", symbol="BTCUSDT", orderId=number)["status"] == "NEW"
    assert theirs.http.put(f"/api/v3/userDataStream?listenKey={listen_key}").status_code == 200
    assert other.ask("GET", "/api/v1/me").status_code == 200


def ask(socket: ClientConnection, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
    socket.send(json.dumps({"id": 1, "method": method, "params": parameters}))
    while True:
        answer: dict[str, Any] = json.loads(socket.recv(timeout=30))
        if "id" in answer:
            return answer


def signed(request: Request) -> dict[str, Any]:
    """Return the request's parameters as the WebSocket API takes them."""
    names = {each.name for each in request.function.parameters if each.required}
    if request.function.places_order:
        names |= {"timeInForce", "quantity", "price"}
    if request.function.path == "/api/v3/order" and request.function.method != "POST":
        names |= {"orderId"}
    parameters: dict[str, Any] = {name: VALUES.get(name, 1) for name in names}
    parameters["timestamp"] = now_ms() - request.age_ms
    if request.key:
        parameters["apiKey"] = request.key
    payload = "&".join(f"{name}={parameters[name]}" for name in sorted(parameters))
    parameters["signature"] = request.signature or signature_of(request.secret, payload)
    return parameters


def test_every_method_of_the_websocket_api_does_so_too(world: World) -> None:
    subscribe = Function("", "", FUNCTIONS[0].group, "", FUNCTIONS[0].handle, security=Security.SIGNED)
    methods = {
        name: each for name, each in websocket_api.FUNCTIONS.items() if each.security is Security.SIGNED
    }
    methods |= {"userDataStream.subscribe.signature": subscribe}
    cells = 0
    with connect(f"{world.edge}/ws-api/v3") as socket:
        for method, function in methods.items():
            for cell in cells_of(world, function):
                request = Request(function, world.person, world.api)
                cell.spoil(request)
                answer = ask(socket, method, signed(request))
                code = -1102 if cell.name == "no key" else cell.code  # a parameter here, not a header
                status = 400 if cell.name == "no key" else cell.status
                assert (answer["status"], answer.get("error", {}).get("code")) == (status, code), (
                    method,
                    cell.name,
                )
                assert not any(secret in json.dumps(answer) for secret in world.secrets), (method, cell.name)
                cells += 1
            twin = ask(socket, method, signed(Request(function, world.person, world.api)))
            assert twin["status"] < 500, (method, twin)
            assert twin.get("error", {}).get("code") not in NOT_LET_IN, (method, twin)
        for method in ("userDataStream.subscribe",):
            assert ask(socket, method, {})["error"]["code"] == -1002
        logon = {"apiKey": world.api.key, "timestamp": now_ms(), "signature": "0" * 64}
        assert ask(socket, "session.logon", logon)["error"]["code"] == -1022
        assert ask(socket, "session.status", {})["result"]["apiKey"] is None
    assert cells > 100


def test_streams_open_with_what_is_public_or_ones_own(world: World) -> None:
    mine = world.api.http.post("/api/v3/userDataStream").json()["listenKey"]
    for path in ("/ws/btcusdt@trade", f"/ws/{mine}", f"/stream?streams=btcusdt@trade/{mine}"):
        with connect(f"{world.edge}{path}"):
            pass
    for path in (f"/ws/{'l' * 64}", f"/stream?streams=btcusdt@trade/{'l' * 64}", f"/ws/{mine[:-1]}"):
        with pytest.raises(InvalidStatus) as refused:
            connect(f"{world.edge}{path}")
        assert refused.value.response.status_code == 400, path
        assert json.loads(refused.value.response.body)["code"] in (-1125, -1130), path


def test_an_unverified_account_is_refused_what_it_must_be_verified_for(processes: Processes) -> None:
    processes.shards()
    url = processes.gateway(VERIFICATION_REQUIRED="true")
    person = newcomer(url)
    bodies: dict[str, object] = {
        "/api/v1/api-keys": {"password": PASSWORD},
        "/api/v1/tickets": None,
        "/api/v1/faucet": {"asset": "USDT", "amount": "1"},
    }
    for path, body in bodies.items():
        check(person.ask("POST", path, body), path, *FORBIDDEN)
    for path in ("/api/v1/me", "/api/v1/sessions", "/api/v1/activity", "/api/v1/api-keys"):
        assert person.ask("GET", path).status_code == 200, path
