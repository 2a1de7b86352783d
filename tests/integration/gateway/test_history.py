"""History from the database, as the ingest leaves it there."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg

from protocol import streams
from protocol.codec import encode_frame
from protocol.events import TradeExecuted
from protocol.orders import Side
from protocol.streams import EVENTS_FIELD, events
from protocol.units import AccountId, OrderId, PriceTicks, QuantityLots, Sequence, TimeMs, TradeId
from runtime import redis_clients
from stream_log.memory_log import MemoryStreamLog
from tests.integration.persist.stored import ingest_all
from tests.support.api import Api, new_account, refused
from tests.support.gateway_processes import Processes
from tests.support.market_log import MarketLog, frame, market_map

DAY_MS = 86_400_000
T0 = 1_795_392_000_000
"""Monday, 2026-11-23 00:00:00 UTC."""


@contextmanager
def rows_of(processes: Processes) -> Iterator[psycopg.Connection[Any]]:
    processes.pretend_ingested()
    with psycopg.connect(processes.database_url) as connection:
        yield connection


def add_order(connection: psycopg.Connection[Any], account: int, number: int, status: int, time: int) -> None:
    connection.execute(
        "INSERT INTO orders VALUES (%s, %s, %s, 'BTCUSDT', 1, 1, 1, 5000000, 100, 0, 2, %s, 40, 2000000000,"
        " to_timestamp(%s / 1000.0), to_timestamp(%s / 1000.0))",
        (number, account, f"old-{number}", status, time, time + 5),
    )


def add_trade(
    connection: psycopg.Connection[Any], number: int, aggregate: int, price: int, time: int
) -> None:
    connection.execute(
        "INSERT INTO trades VALUES (to_timestamp(%s / 1000.0), 'BTCUSDT', %s, %s, %s, %s, 100, %s, 2, 1, 2, "
        "3, 4)",
        (time, number, aggregate, number, price, price * 1000),
    )


def add_fill(connection: psycopg.Connection[Any], account: int, order: int, trade: int, time: int) -> None:
    connection.execute(
        "INSERT INTO fills VALUES (to_timestamp(%s / 1000.0), %s, 'BTCUSDT', %s, %s, 1, 5000000, 100, "
        "5000000000, 2, 100, 'BTC')",
        (time, account, order, trade),
    )


def test_prevented_matches(processes: Processes) -> None:
    """Scenarios B, C and D of faqs/stp_faq.md, as the ingest stores them.

    See tests/unit/engine_worker/test_prevented_matches.py.
    """
    processes.shards()
    api = new_account(processes.gateway(), USDT="1000")
    account = api.signed("GET", "/api/v3/account")["uid"]
    with rows_of(processes) as connection:
        for number, owner, maker, taker, of_maker, of_taker, mode in (
            (1, account, 2, 5, 120_000, 0, 2),
            (2, account + 1, 3, 6, 0, 300_000, 1),
            (3, account, 4, 7, 0, 300_000, 1),
            (4, account, 8, 5, 100_000, 300_000, 3),
        ):
            connection.execute(
                "INSERT INTO prevented_matches VALUES ('BTCUSDT', %s, %s, %s, %s, 120, %s, %s, %s, "
                "to_timestamp(%s / 1000.0))",
                (number, owner, maker, taker, of_maker, of_taker, mode, T0),
            )
    path, symbol = "/api/v3/myPreventedMatches", {"symbol": "BTCUSDT"}
    common = {
        "symbol": "BTCUSDT",
        "makerSymbol": "BTCUSDT",
        "tradeGroupId": -1,
        "price": "1.20000000",
        "transactTime": T0,
    }
    first = {
        **common, "preventedMatchId": 1, "takerOrderId": 5, "makerOrderId": 2,
        "selfTradePreventionMode": "EXPIRE_MAKER", "makerPreventedQuantity": "1.20000000",
    }  # fmt: skip
    third = {
        **common, "preventedMatchId": 3, "takerOrderId": 7, "makerOrderId": 4,
        "selfTradePreventionMode": "EXPIRE_TAKER", "takerPreventedQuantity": "3.00000000",
    }  # fmt: skip
    last = {
        **common, "preventedMatchId": 4, "takerOrderId": 5, "makerOrderId": 8,
        "selfTradePreventionMode": "EXPIRE_BOTH",
        "takerPreventedQuantity": "3.00000000", "makerPreventedQuantity": "1.00000000",
    }  # fmt: skip
    assert api.signed("GET", path, **symbol, preventedMatchId=3) == [third]
    assert api.signed("GET", path, **symbol, preventedMatchId=2) == [], "somebody else's"
    assert api.signed("GET", path, **symbol, orderId=5) == [first, last]
    assert api.signed("GET", path, **symbol, orderId=4) == [third]
    assert api.signed("GET", path, **symbol, orderId=5, fromPreventedMatchId=2, limit=1) == [last]
    with refused(-1102, "Mandatory parameter 'orderId' was not sent, was empty/null, or malformed."):
        api.signed("GET", path, **symbol)
    with refused(-1128, "Combination of optional parameters invalid."):
        api.signed("GET", path, **symbol, preventedMatchId=1, orderId=5)
    with refused(-1128, "Combination of optional parameters invalid."):
        api.signed("GET", path, **symbol, fromPreventedMatchId=1)
    with refused(-1121, "Invalid symbol."):
        api.signed("GET", path, symbol="NOPE", orderId=1)


def test_orders_and_fills(processes: Processes) -> None:
    processes.shards()
    api = new_account(processes.gateway(), USDT="1000")
    account = api.signed("GET", "/api/v3/account")["uid"]
    with rows_of(processes) as connection:
        for number, status in ((1, 4), (2, 3)):
            add_order(connection, account, number, status, T0 + number)
        add_order(connection, account + 1, 3, 3, T0)
        for trade in (7, 8, 9):
            add_fill(connection, account, 2, trade, T0 + trade)
        add_fill(connection, account + 1, 3, 7, T0)
    placed = api.order("BTCUSDT", "BUY", "LIMIT", quantity="0.001", price="20000")
    orders = api.signed("GET", "/api/v3/allOrders", symbol="BTCUSDT")
    assert [(order["orderId"], order["status"]) for order in orders] == [
        (1, "CANCELED"),
        (2, "FILLED"),
        (placed["orderId"], "NEW"),
    ]
    assert orders[0]["price"] == "50000.00000000"
    assert (orders[0]["time"], orders[0]["updateTime"]) == (T0 + 1, T0 + 6)
    assert [
        o["orderId"] for o in api.signed("GET", "/api/v3/allOrders", symbol="BTCUSDT", orderId=2, limit=1)
    ] == [2]
    assert api.signed("GET", "/api/v3/allOrders", symbol="ETHUSDT") == []
    assert api.signed("GET", "/api/v3/order", symbol="BTCUSDT", orderId=1)["clientOrderId"] == "old-1"
    with refused(-2013, "Order does not exist."):
        api.signed("GET", "/api/v3/order", symbol="BTCUSDT", orderId=3)
    trades = api.my_trades("BTCUSDT")
    assert [trade["id"] for trade in trades] == [7, 8, 9]
    assert trades[0] == {
        "symbol": "BTCUSDT",
        "id": 7,
        "orderId": 2,
        "orderListId": -1,
        "price": "50000.00000000",
        "qty": "0.00100000",
        "quoteQty": "50.00000000",
        "commission": "0.00000100",
        "commissionAsset": "BTC",
        "time": T0 + 7,
        "isBuyer": True,
        "isMaker": False,
        "isBestMatch": True,
    }

    def ids(**parameters: int) -> list[int]:
        return [t["id"] for t in api.signed("GET", "/api/v3/myTrades", symbol="BTCUSDT", **parameters)]

    assert ids(limit=2) == [8, 9]
    assert ids(fromId=8) == [8, 9]
    assert ids(startTime=T0 + 8, endTime=T0 + 8) == [8]
    assert ids(endTime=T0 + 8, limit=1) == [8]
    assert ids(orderId=1) == []
    with refused(-1128, "Combination of optional parameters invalid."):
        ids(fromId=1, startTime=T0)
    with refused(-1127, "More than 24 hours between startTime and endTime."):
        ids(startTime=T0, endTime=T0 + DAY_MS + 1)


def markets_shard(processes: Processes) -> int:
    return market_map(processes.shard_count).shard_of_market("BTCUSDT")


def test_public_trades(processes: Processes) -> None:
    processes.shards()
    with rows_of(processes) as connection:
        for number, aggregate, price in ((1, 1, 5_000_000), (2, 1, 5_000_000), (3, 2, 5_000_100)):
            add_trade(connection, number, aggregate, price, T0 + number)
    api = Api(processes.gateway())
    trades = api.get("/api/v3/historicalTrades", symbol="BTCUSDT", fromId=2)
    assert [trade["id"] for trade in trades] == [2, 3]
    assert trades[0] == {
        "id": 2,
        "price": "50000.00000000",
        "qty": "0.00100000",
        "quoteQty": "50.00000000",
        "time": T0 + 2,
        "isBuyerMaker": True,
        "isBestMatch": True,
    }
    assert [trade["id"] for trade in api.get("/api/v3/historicalTrades", symbol="BTCUSDT", limit=1)] == [3]
    # A read model that was lost has only what came since; the database has the others.
    with redis_clients.client(processes.redis_url) as client:
        since = TradeExecuted(
            *(
                TimeMs(T0 + 4),
                "BTCUSDT",
                Sequence(9),
                TradeId(4),
                3,
                PriceTicks(5_000_200),
                QuantityLots(100),
            ),
            *(Side.BUY, OrderId(1), OrderId(2), AccountId(1), AccountId(2)),
        )
        client.lpush(streams.trades(markets_shard(processes), "BTCUSDT"), encode_frame(since))
    for limit, ids in ((1, [4]), (3, [2, 3, 4]), (1_000, [1, 2, 3, 4])):
        assert [trade["id"] for trade in api.get("/api/v3/trades", symbol="BTCUSDT", limit=limit)] == ids
    aggregates = api.get("/api/v3/aggTrades", symbol="BTCUSDT")
    assert aggregates[0] == {
        "a": 1,
        "p": "50000.00000000",
        "q": "0.00200000",
        "f": 1,
        "l": 2,
        "T": T0 + 1,
        "m": True,
        "M": True,
    }
    for parameters in ({"fromId": 2}, {"startTime": T0 + 3}, {"limit": 1}, {"endTime": T0 + 9, "limit": 1}):
        assert [it["a"] for it in api.get("/api/v3/aggTrades", symbol="BTCUSDT", **parameters)] == [2], (
            parameters
        )
    for parameters in ({"fromId": 3}, {"startTime": T0 + 4}, {"endTime": T0}):
        assert api.get("/api/v3/aggTrades", symbol="BTCUSDT", **parameters) == [], parameters
    for parameters in ({"fromId": 0}, {"startTime": T0, "endTime": T0 + 2}, {"limit": 2}):
        first, *others = api.get("/api/v3/aggTrades", symbol="BTCUSDT", **parameters)
        assert (first["a"], first["f"], first["l"]) == (1, 1, 2), parameters
        assert [each["a"] for each in others] == ([] if "endTime" in parameters else [2])
    assert api.get("/api/v3/avgPrice", symbol="ETHUSDT")["price"] == "0.00000000"


def test_candles(processes: Processes) -> None:
    processes.shards()
    market_log, log = MarketLog(), MemoryStreamLog(lambda: T0)
    for minute, close in ((1, 5_000_000), (4, 5_000_200)):
        for price, side in (
            (close, Side.BUY),
            (close + 10, Side.SELL),
            (close - 10, Side.SELL),
            (close, Side.BUY),
        ):
            trade = market_log.trade(T0 + minute * 60_000, price, 25, side)
            log.append(events(0), {EVENTS_FIELD: frame(trade)})
    ingest_all(log, processes.database_url, market_map())
    processes.pretend_ingested()
    api = Api(processes.gateway())
    rows = api.get("/api/v3/klines", symbol="BTCUSDT", interval="1m", startTime=T0, endTime=T0 + 5 * 60_000)
    assert [(row[0] - T0) // 60_000 for row in rows] == [1, 2, 3, 4, 5]
    assert rows[0] == [
        T0 + 60_000, "50000.00000000", "50000.10000000", "49999.90000000", "50000.00000000", "0.00100000",
        T0 + 119_999, "50.00000000", 4, "0.00050000", "25.00000000", "0",
    ]  # fmt: skip
    assert [row[8] for row in rows] == [4, 0, 0, 4, 0]
    assert rows[-1][1:5] == ["50002.00000000"] * 4
    newest = api.get("/api/v3/uiKlines", symbol="BTCUSDT", interval="1m", endTime=T0 + 5 * 60_000, limit=2)
    assert newest == rows[-2:]
    for interval in ("1s", "1M", "1w", "3d"):
        assert api.get("/api/v3/klines", symbol="ETHUSDT", interval=interval) == []
        assert (
            api.get("/api/v3/klines", symbol="BTCUSDT", interval=interval, limit=1)[0][4] == "50002.00000000"
        )
    with refused(-1120, "Invalid interval."):
        api.get("/api/v3/klines", symbol="BTCUSDT", interval="7m")


def test_windows_and_averages(processes: Processes) -> None:
    """Trades of 400 and 100 minutes ago, the last at 5 USDT more: what each window has of them, and when the
    last one was."""
    processes.shards()
    now = time.time_ns() // 1_000_000
    market_log, log = MarketLog(), MemoryStreamLog(lambda: T0)
    times = [now - 400 * 60_000, now - 100 * 60_000, now - 100 * 60_000 + 1]
    for at, price in zip(times, (5_000_000, 5_001_000, 5_000_500), strict=True):
        log.append(events(0), {EVENTS_FIELD: frame(market_log.trade(at, price, 25, Side.BUY))})
    ingest_all(log, processes.database_url, market_map())
    processes.pretend_ingested()
    api = Api(processes.gateway())
    all_three = api.get("/api/v3/ticker", symbol="BTCUSDT", windowSize="1d")
    assert (all_three["openPrice"], all_three["highPrice"], all_three["lastPrice"]) == (
        "50000.00000000", "50010.00000000", "50005.00000000",
    )  # fmt: skip
    assert (all_three["priceChange"], all_three["volume"], all_three["firstId"], all_three["lastId"],
        all_three["count"]) == (
        "5.00000000", "0.00075000", 1, 3, 3,
    )  # fmt: skip
    assert all_three["openTime"] % 60_000 == 0
    assert 0 <= all_three["closeTime"] - now < 60_000
    assert [
        api.get("/api/v3/ticker", symbol="BTCUSDT", windowSize=size)["count"]
        for size in ("59m", "2h", "7h", "7d")
    ] == [0, 2, 3, 3]
    # A day of clocks that show shortly after midnight now has the first trade no more.
    hours = -(now // 3_600_000 % 24)
    zone = str(hours + 24 if hours < -12 else hours)
    day = api.get("/api/v3/ticker/tradingDay", symbols='["BTCUSDT","ETHUSDT"]', timeZone=zone)
    assert [each["count"] for each in day] == [0, 0]
    assert day[0]["openTime"] == now // 3_600_000 * 3_600_000
    assert day[0]["closeTime"] - day[0]["openTime"] == DAY_MS - 1
    average = api.get("/api/v3/avgPrice", symbol="BTCUSDT")
    assert average["closeTime"] == times[-1]
    assert api.get("/api/v3/avgPrice", symbol="ETHUSDT")["closeTime"] == 0


def test_empty_market_data(processes: Processes) -> None:
    api = Api(processes.gateway())
    assert api.get("/api/v3/depth", symbol="BTCUSDT") == {"lastUpdateId": 0, "bids": [], "asks": []}
    assert api.get("/api/v3/trades", symbol="BTCUSDT") == []
    assert api.get("/api/v3/aggTrades", symbol="BTCUSDT") == []
    assert len(api.get("/api/v3/ticker/24hr")) == len(api.get("/api/v3/ticker/bookTicker")) == 3
    assert api.get("/api/v3/ticker/price", symbol="BTCUSDT") == {"symbol": "BTCUSDT", "price": "0.00000000"}
    assert api.get("/api/v3/ticker/24hr", symbol="BTCUSDT", type="MINI")["firstId"] == -1
    assert "bidQty" in api.get("/api/v3/ticker/24hr", symbol="BTCUSDT")
    assert api.get("/api/v3/ticker/price", symbols='["ETHUSDT"]')[0]["symbol"] == "ETHUSDT"
    info = api.get("/api/v3/exchangeInfo", symbol="BTCUSDT")
    assert [symbol["symbol"] for symbol in info["symbols"]] == ["BTCUSDT"]
    assert (info["symbols"][0]["matchesMax"], info["symbols"][0]["marketSlippage"]) == (500, "0.050000")
    assert info["exchangeFilters"] == [{"filterType": "EXCHANGE_MAX_NUM_ORDERS", "maxNumOrders": 1_000}]
    assert api.get("/api/v3/exchangeInfo", permissions="MARGIN")["symbols"] == []
    assert api.get("/api/v3/exchangeInfo", symbolStatus="HALT")["symbols"] == []
    for path in ("/sapi/v1/margin/allPairs", "/sapi/v1/spot/delist-schedule"):
        assert api.get(path) == []
    schema = httpx.get(f"{api.url}/schema/openapi.json").json()
    assert {"get", "post", "delete"} <= set(schema["paths"]["/api/v3/order"])
