"""Trades near the limit of an amount, whose sums are beyond 64 bits: stored by one batch, and answered."""

import time
from contextlib import closing

from protocol.orders import Side
from protocol.streams import EVENTS_FIELD, events
from protocol.units import AMOUNT_UNITS_MAX
from stream_log.redis_log import RedisStreamLog
from tests.integration.persist.stored import ingest_all, query
from tests.support.api import Api
from tests.support.gateway_processes import Processes
from tests.support.market_log import BTC, MarketLog, frame, market_map

TRADES = 14
PRICE, QUANTITY = 8_100_000_000_00, 100_000
"""In ticks of 0.01 USDT and lots of 0.00001 BTC: one BTC for 8.1 x 10^9 USDT, the most a trade may have being
9.2 x 10^9."""
DEADLINE_S = 90


def test_a_batch_of_large_trades_is_stored_and_answered(processes: Processes) -> None:
    markets, market_log = market_map(processes.shard_count), MarketLog()
    shard = markets.shard_of_market(BTC)
    now = time.time_ns() // 1_000_000
    trades = [market_log.trade(now, PRICE, QUANTITY, Side.BUY) for _ in range(TRADES)]
    notional = markets.by_symbol[BTC].notional(trades[0].price, trades[0].quantity)
    assert notional == 81 * 10**16
    assert notional * TRADES > AMOUNT_UNITS_MAX
    url = processes.gateway()
    with closing(RedisStreamLog.connect(processes.redis_url)) as log:
        log.append(events(shard), {EVENTS_FIELD: frame(*trades)})
        ingest_all(log, processes.database_url, markets, range(processes.shard_count))
    assert query(processes.database_url, "SELECT reason FROM dead_events") == []
    assert query(processes.database_url, "SELECT count(*), sum(quote) FROM trades") == [
        (14, 14 * 81 * 10**16)
    ]
    processes.pretend_ingested()
    processes.feeds()
    api = Api(url)
    for interval in ("1s", "1m", "1d", "1w", "1M"):
        (candle,) = (
            api.get("/api/v3/klines", symbol=BTC, interval=interval, limit=1, startTime=now - now % 1_000)
            if (interval == "1s")
            else api.get("/api/v3/klines", symbol=BTC, interval=interval, limit=1)
        )
        assert candle[1:6] == [*4 * ["8100000000.00000000"], "14.00000000"], interval
        assert candle[7:11] == ["113400000000.00000000", 14, "14.00000000", "113400000000.00000000"], interval
    assert api.get("/api/v3/avgPrice", symbol=BTC)["price"] == "8100000000.00000000"
    aggregates = api.get("/api/v3/aggTrades", symbol=BTC)
    assert [each["q"] for each in aggregates] == TRADES * ["1.00000000"]
    deadline = time.monotonic() + DEADLINE_S
    while (ticker := api.get("/api/v3/ticker/24hr", symbol=BTC))[
        "count"
    ] < TRADES and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (ticker["count"], ticker["volume"], ticker["lastPrice"]) == (
        14,
        "14.00000000",
        "8100000000.00000000",
    )
    # What is published has 63 bits: the sum stays at the largest amount.
    assert ticker["quoteVolume"] == "92233720368.54775807"
