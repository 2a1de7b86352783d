"""The market maker's HTTP client against a server that misbehaves in every way that the exchange may."""

import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from client.rest import ApiError, Client, Keys, StatusUnknownError, UnavailableError

KEYS = Keys("key", "secret")

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Exchange:
    """Answers every request with whatever `answer` is at the moment."""

    def __init__(self) -> None:
        self.answer: Answer = refuse(404, -1, "")
        self.requests: list[web.Request] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        return await self.answer(request)


def refuse(status: int, code: int, message: str, **headers: str) -> Answer:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"code": code, "msg": message}, status=status, headers=headers)

    return answer


async def accept(_request: web.Request) -> web.StreamResponse:
    return web.json_response({"orderId": 1})


@pytest.fixture
async def exchange() -> Exchange:
    return Exchange()


@pytest.fixture
async def client(exchange: Exchange) -> AsyncIterator[Client]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", exchange.handle)
    async with TestServer(application) as server, Client(str(server.make_url("/"))) as client:
        yield client


async def place(client: Client) -> object:
    return await client.signed(KEYS, "POST", "/api/v3/order", symbol="BTCUSDT", price="1.5")


async def test_the_signature_is_over_the_query_as_sent(client: Client, exchange: Exchange) -> None:
    exchange.answer = accept
    assert await place(client) == {"orderId": 1}
    (request,) = exchange.requests
    query, _, signature = request.query_string.rpartition("&signature=")
    assert query.startswith("symbol=BTCUSDT&price=1.5&timestamp=")
    assert signature == hmac.new(b"secret", query.encode(), hashlib.sha256).hexdigest()
    assert request.headers["X-MBX-APIKEY"] == "key"


async def test_a_refusal_has_its_code(client: Client, exchange: Exchange) -> None:
    exchange.answer = refuse(400, -2010, "Duplicate order sent.")
    with pytest.raises(ApiError, match=r"-2010: Duplicate order sent\.") as refusal:
        await place(client)
    assert (refusal.value.status, refusal.value.code) == (400, -2010)


async def test_a_timeout_behind_the_gateway_leaves_the_status_unknown(
    client: Client, exchange: Exchange
) -> None:
    exchange.answer = refuse(503, -1007, "Timeout waiting for response from backend server.")
    with pytest.raises(StatusUnknownError):
        await place(client)


async def test_a_connection_lost_after_sending_leaves_the_status_unknown(
    client: Client, exchange: Exchange
) -> None:
    async def hang_up(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    exchange.answer = hang_up
    with pytest.raises(StatusUnknownError):
        await place(client)


async def test_overload_and_an_exchange_that_is_not_there_changed_nothing(
    client: Client, exchange: Exchange
) -> None:
    exchange.answer = refuse(503, -1008, "Server is currently overloaded with other requests.")
    with pytest.raises(UnavailableError):
        await place(client)
    async with Client("http://127.0.0.1:1") as nowhere:
        with pytest.raises(UnavailableError):
            await place(nowhere)


@pytest.mark.parametrize("status", [418, 429])
async def test_after_a_rate_limit_nothing_is_sent_before_its_end(
    client: Client, exchange: Exchange, status: int
) -> None:
    exchange.answer = refuse(status, -1003, "Too many requests.", **{"Retry-After": "1"})
    with pytest.raises(UnavailableError):
        await place(client)
    exchange.answer = accept
    start = time.monotonic()
    assert await place(client) == {"orderId": 1}
    assert time.monotonic() - start >= 0.9
    assert len(exchange.requests) == 2


async def test_a_clock_that_is_off_is_set_by_the_exchange(client: Client, exchange: Exchange) -> None:
    ahead_ms = 3_600_000

    async def an_hour_ahead(request: web.Request) -> web.StreamResponse:
        now = time.time_ns() // 1_000_000 + ahead_ms
        if request.path == "/api/v3/time":
            return web.json_response({"serverTime": now})
        if abs(int(request.query["timestamp"]) - now) > 5_000:
            return await refuse(400, -1021, "Timestamp for this request is outside of the recvWindow.")(
                request
            )
        return await accept(request)

    exchange.answer = an_hour_ahead
    with pytest.raises(UnavailableError):
        await place(client)
    assert await place(client) == {"orderId": 1}
