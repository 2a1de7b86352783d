"""Assets of eight, two and no decimals over HTTP: what is written has eight, what is read has as many as the
asset."""

from typing import Any

import httpx
import pytest

from protocol.orders import Side
from protocol.streams import EVENTS_FIELD, events
from stream_log.memory_log import MemoryStreamLog
from tests.integration.persist.stored import ingest_all, query
from tests.support.api import Api, new_account, refused
from tests.support.currencies import CURRENCIES_FILE, currencies
from tests.support.gateway_processes import Processes
from tests.support.market_log import MarketLog, frame

T0 = 1_795_392_000_000
"""Monday, 2026-11-23 00:00:00 UTC."""


@pytest.fixture
def url(processes: Processes) -> str:
    processes.shards(MARKETS_FILE=str(CURRENCIES_FILE))
    return processes.gateway(MARKETS_FILE=str(CURRENCIES_FILE))


def free(api: Api, asset: str) -> str:
    balances: list[dict[str, str]] = api.signed("GET", "/api/v3/account")["balances"]
    (text,) = [each["free"] for each in balances if each["asset"] == asset]
    return text


def test_orders_in_assets_of_two_decimals_and_of_none(url: str) -> None:
    seller, buyer = new_account(url, BTC="1"), new_account(url, IDR="5000000", JPY="200000.00", USDT="100")
    assert free(buyer, "IDR") == "5000000.00000000"

    # 0.001 BTC at 1,600,000,000: the buyer holds 1,600,001.00 IDR and gets one back. 0.1 % of what each
    # receives is the fee.
    seller.order("BTCIDR", "SELL", "LIMIT", quantity="0.001", price="1600000000")
    bought = buyer.order("BTCIDR", "BUY", "LIMIT", quantity="0.001", price="1600001000")
    assert (bought["status"], bought["cummulativeQuoteQty"]) == ("FILLED", "1600000.00000000")
    (fill,) = bought["fills"]
    assert (fill["price"], fill["qty"], fill["commission"]) == (
        "1600000000.00000000",
        "0.00100000",
        "0.00000100",
    )
    assert (free(buyer, "IDR"), free(seller, "IDR")) == ("3400000.00000000", "1598400.00000000")

    # 0.00001 BTC for 16,000.01 IDR; the fee of 16.00001 is rounded up to 16.01.
    seller.order("BTCIDR", "SELL", "LIMIT", quantity="0.00001", price="1600001000")
    bought = buyer.order("BTCIDR", "BUY", "MARKET", quoteOrderQty="20000.55")
    assert (bought["status"], bought["executedQty"]) == ("FILLED", "0.00001000")
    assert (bought["origQuoteOrderQty"], bought["cummulativeQuoteQty"]) == (
        "20000.55000000",
        "16000.01000000",
    )
    assert (free(buyer, "IDR"), free(seller, "IDR")) == ("3383999.99000000", "1614384.00000000")

    # 15,123,000 x 0.007 = 105,861 JPY; the fee of 105.861 is rounded up to 106.
    buyer.order("BTCJPY", "BUY", "LIMIT", quantity="0.007", price="15123000")
    sold = seller.order("BTCJPY", "SELL", "LIMIT", quantity="0.007", price="15123000")
    assert sold["fills"][0]["commission"] == "106.00000000"
    assert (free(buyer, "JPY"), free(seller, "JPY")) == ("94139.00000000", "105755.00000000")

    # 0.00001234 x 1,000,000 SHIB = 12.34 USDT; SHIB has two decimals, and its fee of 1,000.00 is one of them.
    other = new_account(url, SHIB="2000000.25")
    other.order("SHIBUSDT", "SELL", "LIMIT", quantity="1000000", price="0.00001234")
    bought = buyer.order("SHIBUSDT", "BUY", "LIMIT", quantity="1000000", price="0.00001234")
    assert (bought["cummulativeQuoteQty"], bought["fills"][0]["commission"]) == (
        "12.34000000",
        "1000.00000000",
    )
    assert (free(other, "SHIB"), free(buyer, "SHIB")) == ("1000000.25000000", "999000.00000000")
    assert (free(other, "USDT"), free(buyer, "USDT")) == ("12.32766000", "87.66000000")


def test_more_decimals_than_an_asset_has_are_refused(url: str) -> None:
    buyer = new_account(url, IDR="100000", JPY="100000")
    too_precise = "Parameter 'quoteOrderQty' has too much precision."
    for symbol, amount in (("BTCIDR", "20000.555"), ("BTCJPY", "20000.5")):
        with refused(-1111, too_precise):
            buyer.order(symbol, "BUY", "MARKET", quoteOrderQty=amount)
    with refused(
        -2010, "Order book liquidity is less than symbol minimum quantity."
    ):  # as many decimals as IDR has
        buyer.order("BTCIDR", "BUY", "MARKET", quoteOrderQty="20000.55000000")
    credentials = {"email": "precise@example.com", "password": "correct horse"}
    with httpx.Client(base_url=url) as http:
        http.post("/api/v1/signup", json=credentials)
        session = {"Authorization": f"Bearer {http.post('/api/v1/signin', json=credentials).json()['token']}"}

        def faucet(asset: str, amount: str) -> Any:
            return http.post(
                "/api/v1/faucet", json={"asset": asset, "amount": amount}, headers=session
            ).json()

        for asset, amount in (("IDR", "1.005"), ("JPY", "0.5"), ("PEPE", "1.5"), ("BTC", "0.000000001")):
            assert faucet(asset, amount)["code"] == -1111, asset
        assert faucet("IDR", "1.05") == {"asset": "IDR", "free": "1.05000000", "locked": "0.00000000"}
        assert faucet("PEPE", "10000000") == {
            "asset": "PEPE",
            "free": "10000000.00000000",
            "locked": "0.00000000",
        }
        assert (
            faucet("PEPE", "10000001")["code"] == -1130
        )  # more than the faucet grants at once, of any asset


def test_what_is_said_of_such_markets(url: str) -> None:
    (symbol,) = Api(url).get("/api/v3/exchangeInfo", symbol="BTCIDR")["symbols"]
    precisions = ("baseAssetPrecision", "quoteAssetPrecision", "quotePrecision", "baseCommissionPrecision")
    assert [symbol[name] for name in precisions] == [8, 8, 8, 8]
    filters = {each["filterType"]: each for each in symbol["filters"]}
    assert filters["PRICE_FILTER"]["tickSize"] == "1000.00000000"
    assert filters["LOT_SIZE"]["stepSize"] == "0.00001000"
    assert filters["NOTIONAL"]["minNotional"] == filters["MIN_NOTIONAL"]["minNotional"] == "15000.50000000"


def test_stored_trades_and_klines_of_such_a_market(processes: Processes, url: str) -> None:
    """0.5 BTC at 1,600,000,000 IDR are 800,000,000.00; 0.00001 at 1,600,001,000 are 16,000.01.

    JPY has no decimals.
    """
    market_log, log, markets = MarketLog(), MemoryStreamLog(lambda: T0), currencies(processes.shard_count)
    for trade in (
        market_log.trade(T0 + 1_000, 1_600_000, 50_000, Side.BUY, "BTCIDR"),
        market_log.trade(T0 + 2_000, 1_600_001, 1, Side.SELL, "BTCIDR"),
        market_log.trade(T0 + 3_000, 15_123, 7, Side.SELL, "BTCJPY"),
    ):
        shard = markets.shard_of_market(trade.market)
        log.append(events(shard), {EVENTS_FIELD: frame(trade)})
    ingest_all(log, processes.database_url, markets, range(processes.shard_count))
    assert query(processes.database_url, "SELECT market, trade_id, quote FROM trades ORDER BY 1, 2") == [
        ("BTCIDR", 1, 80_000_000_000),
        ("BTCIDR", 2, 1_600_001),
        ("BTCJPY", 1, 105_861),
    ]
    processes.pretend_ingested()
    api = new_account(url)
    (row,) = api.get("/api/v3/klines", symbol="BTCIDR", interval="1m", startTime=T0, endTime=T0)
    assert row == [
        T0, "1600000000.00000000", "1600001000.00000000", "1600000000.00000000", "1600001000.00000000",
        "0.50001000",
        T0 + 59_999, "800016000.01000000", 2, "0.50000000", "800000000.00000000", "0",
    ]  # fmt: skip
    (row,) = api.get("/api/v3/klines", symbol="BTCJPY", interval="1h", startTime=T0, endTime=T0)
    assert (row[5], row[7], row[10]) == ("0.00700000", "105861.00000000", "0.00000000")
    assert [each["quoteQty"] for each in api.historical_trades("BTCIDR")] == [
        "800000000.00000000",
        "16000.01000000",
    ]
