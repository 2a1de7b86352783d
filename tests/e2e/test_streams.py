"""Unmodified stream clients, and the listenKeys of older ones: only addresses are changed."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import ccxt.pro
import httpx
import pytest
from binance import AsyncClient, BinanceSocketManager, DepthCacheManager
from websockets.asyncio.client import connect as connect_socket

from examples.watch_with_ccxt_pro import connect
from examples.watch_with_websockets import watch
from tests.e2e.market_data import candles_of, ticker_of
from tests.support.api import POLL_S, Api, new_account
from tests.support.eventually import eventually
from tests.support.running_exchange import RunningExchange

pytestmark = pytest.mark.usefixtures("liquid")

SYMBOL = "BTC/USDT"
TIMEOUT_S = 60


@pytest.fixture(scope="module")
def account(exchange_url: str) -> Api:
    return new_account(exchange_url, USDT="1000000", BTC="20")


@pytest.fixture(scope="module")
def ws_url(exchange: RunningExchange) -> str:
    return exchange.settings.ws_url()


@pytest.fixture
async def client(account: Api, ws_url: str) -> AsyncIterator[ccxt.pro.binance]:
    client = connect(account.url, ws_url, account.key, account.secret)
    client.enableRateLimit = False
    yield client
    await client.close()


async def test_ccxt_pro_watches_the_market(client: ccxt.pro.binance) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        book = await client.watch_order_book(SYMBOL)
        for _ in range(5):
            book = await client.watch_order_book(SYMBOL)
            assert book["bids"][0][0] < book["asks"][0][0]
        # The market maker trades all the time; once something was heard, nothing can be missed.
        await client.watch_trades(SYMBOL)
        candles = asyncio.ensure_future(client.watch_ohlcv(SYMBOL, "1m"))
        ticker = asyncio.ensure_future(client.watch_ticker(SYMBOL))
        order = await client.create_order(SYMBOL, "market", "buy", 0.01)
        mine = [str(fill["tradeId"]) for fill in order["info"]["fills"]]
        sides: dict[str, str] = {}
        while mine[-1] not in sides:
            sides |= {each["id"]: each["side"] for each in await client.watch_trades(SYMBOL)}
        assert sides[mine[-1]] == "buy"
        assert (await candles)[-1][5] > 0
        assert (await ticker)["low"] <= (await ticker)["last"] <= (await ticker)["high"]


async def test_ccxt_pro_s_book_is_the_rest_book(client: ccxt.pro.binance, account: Api) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        for _ in range(3):  # the book that ccxt fetched, and updates on it
            book = await client.watch_order_book(SYMBOL)
        while (rest := account.get("/api/v3/depth", symbol="BTCUSDT", limit=5000))["lastUpdateId"] != book[
            "nonce"
        ]:
            # Either is ahead: this waits for the next update, and asks again while nothing has happened
            # since.
            book = await client.watch_order_book(SYMBOL)
        for side in ("bids", "asks"):
            wanted = [[float(price), float(quantity)] for price, quantity in rest[side]]
            assert [list(row[:2]) for row in book[side]] == wanted


async def test_ccxt_pro_watches_its_own_account(client: ccxt.pro.binance) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        await client.authenticate()
        before = (await client.fetch_balance())["BTC"]["total"]
        orders = asyncio.ensure_future(client.watch_orders(SYMBOL))
        trades = asyncio.ensure_future(client.watch_my_trades(SYMBOL))
        balance = asyncio.ensure_future(client.watch_balance())
        await asyncio.sleep(0)
        bought = await client.create_order(SYMBOL, "market", "buy", 0.02)
        order = (await orders)[-1]
        while order["status"] != "closed":
            order = (await client.watch_orders(SYMBOL))[-1]
        assert (order["id"], order["filled"]) == (bought["id"], 0.02)
        mine = [each for each in await trades if each["order"] == bought["id"]]
        assert mine[0]["side"] == "buy"
        assert mine[0]["fee"]["currency"] == "BTC"
        funds = await balance
        while "BTC" not in funds or funds["BTC"]["total"] <= before:
            funds = await client.watch_balance()

        resting = await client.create_order(
            SYMBOL, "limit", "buy", 0.001, round(bought["average"] * 0.8, 2), {"clientOrderId": "resting-1"}
        )
        await client.cancel_order(resting["id"], SYMBOL, {"newClientOrderId": "stop-1"})
        # It may have been heard before anybody could wait for it.
        while (order["id"], order["status"]) != (resting["id"], "canceled"):
            await asyncio.sleep(POLL_S)
            order = client.orders[-1]
        assert order["clientOrderId"] == "resting-1"
        assert (order["info"]["c"], order["info"]["C"]) == ("stop-1", "resting-1")


async def test_ccxt_pro_trades_by_websocket(client: ccxt.pro.binance) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        await client.load_markets()
        price = round(client.safe_number(await client.fetch_ticker(SYMBOL), "bid") * 0.8, 2)
        order = await client.create_order_ws(SYMBOL, "limit", "buy", 0.001, price)
        assert order["id"] in [each["id"] for each in await client.fetch_open_orders_ws(SYMBOL)]
        assert (await client.fetch_order_ws(order["id"], SYMBOL))["status"] == "open"
        assert (await client.cancel_order_ws(order["id"], SYMBOL))["status"] == "canceled"
        with pytest.raises(ccxt.InsufficientFunds):
            await client.create_order_ws(SYMBOL, "limit", "buy", 1_000, price)


async def test_python_binance_keeps_its_depth_cache_and_hears_of_its_orders(
    account: Api, ws_url: str
) -> None:
    client = AsyncClient(account.key, account.secret)
    client.API_URL = f"{account.url}/api"
    client.ws_api._url = f"{ws_url}/ws-api/v3"
    sockets = BinanceSocketManager(client)
    sockets.STREAM_URL = f"{ws_url}/"
    try:
        async with asyncio.timeout(TIMEOUT_S):
            async with DepthCacheManager(client, "BTCUSDT", bm=sockets, ws_interval=100) as manager:
                for _ in range(5):
                    cache = await manager.recv()
                    assert cache.get_bids()[0][0] < cache.get_asks()[0][0]
            async with sockets.user_socket() as own:
                order = await client.create_order(
                    symbol="BTCUSDT", side="BUY", type="MARKET", quantity="0.001"
                )
                reports: list[Any] = []
                while not reports or reports[-1]["X"] != "FILLED":
                    event = await own.recv()
                    if event["e"] == "executionReport":
                        reports.append(event)
                assert [each["x"] for each in reports][:2] == ["NEW", "TRADE"]
                assert {each["i"] for each in reports} == {order["orderId"]}
    finally:
        await client.close_connection()


async def test_a_listen_key_opens_the_account_s_stream_until_it_is_closed(account: Api, ws_url: str) -> None:
    def call(method: str, **parameters: str) -> httpx.Response:
        return account.http.request(method, "/api/v3/userDataStream", params=parameters)

    key = call("POST").json()["listenKey"]
    assert call("POST").json()["listenKey"] == key
    assert call("PUT", listenKey=key).json() == {}
    async with asyncio.timeout(TIMEOUT_S), connect_socket(f"{ws_url}/ws/{key}") as socket:
        await socket.send('{"method":"LIST_SUBSCRIPTIONS","id":1}')
        assert json.loads(await socket.recv())["result"] == [key]
        order = await asyncio.to_thread(account.order, "BTCUSDT", "BUY", "MARKET", quantity="0.001")
        heard: list[Any] = [json.loads(await socket.recv()) for _ in range(4)]
    assert [each["e"] for each in heard] == ["executionReport", "outboundAccountPosition"] * 2
    assert heard[0]["i"] == order["orderId"]
    stranger = new_account(account.url)
    assert stranger.http.put("/api/v3/userDataStream", params={"listenKey": key}).json()["code"] == -1125
    assert Api(account.url).http.post("/api/v3/userDataStream").json()["code"] == -2014
    assert call("DELETE", listenKey=key).json() == {}
    assert call("PUT", listenKey=key).json() == {"code": -1125, "msg": "This listenKey does not exist."}


async def test_candles_and_tickers_are_those_of_the_trades_in_the_database(account: Api, ws_url: str) -> None:
    heard: dict[str, list[Any]] = {kind: [] for kind in ("kline_1s", "kline_1m", "ticker", "miniTicker")}
    closed: list[Any] = []
    names = "/".join(f"btcusdt@{kind}" for kind in heard)

    async def trade() -> None:
        for side in itertools.cycle(("BUY", "BUY", "SELL")):
            await asyncio.to_thread(account.order, "BTCUSDT", side, "MARKET", quantity="0.0003")

    async with asyncio.timeout(TIMEOUT_S), connect_socket(f"{ws_url}/stream?streams={names}") as socket:
        trading = asyncio.create_task(trade())
        while len(closed) < 5 or min(len(each) for each in heard.values()) < 4:
            message = json.loads(await socket.recv())
            stream, event = message["stream"].partition("@")[2], message["data"]
            heard[stream].append(event.get("k", event))
            if stream == "kline_1s" and event["k"]["x"]:
                closed.append(event["k"])
        trading.cancel()
        await asyncio.gather(trading, return_exceptions=True)
    tickers = {each["C"]: each for each in heard["ticker"]}
    last = max(each["L"] for kind in ("kline_1s", "kline_1m", "ticker") for each in heard[kind])

    def stored() -> list[Any]:
        trades = account.historical_trades("BTCUSDT")
        return trades if trades[-1]["id"] >= last else []

    trades = await asyncio.to_thread(eventually, "the trades in the database", stored)
    assert [each["id"] for each in trades] == list(range(1, len(trades) + 1))

    by_second = {each[0]: each for each in candles_of(trades, 1_000)}
    assert [row(each) for each in closed] == [by_second[each["t"]] for each in closed]
    assert [each["f"] for each in closed[1:]] == [each["L"] + 1 for each in closed[:-1]]
    minute = heard["kline_1m"][-1]
    assert row(minute) == candles_of(trades[: minute["L"]], 60_000)[-1]
    for ticker in tickers.values():
        inside = [each for each in trades[: ticker["L"]] if each["time"] >= ticker["O"]]
        expected = ticker_of(inside)
        assert {name: ticker[name] for name in expected} == expected
        assert all(each["time"] >= ticker["C"] for each in trades[ticker["L"] :])
    for mini in heard["miniTicker"]:
        ticker = tickers[mini["E"]]
        assert {name: mini[name] for name in "ohlcvq"} == {name: ticker[name] for name in "ohlcvq"}


def row(candle: Any) -> list[Any]:
    """Return a stream's candle as a kline of REST."""
    return [candle[name] for name in ("t", "o", "h", "l", "c", "v", "T", "q", "n", "V", "Q")]


async def test_the_plain_example_keeps_a_book(
    account: Api, ws_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        book = await watch(account.url, ws_url, "BTCUSDT", 5)
    assert max(book.bids) < min(book.asks)
    assert "bid" in capsys.readouterr().out
