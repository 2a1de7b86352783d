"""ccxt's Binance client as it is, with nothing but its URLs changed, against the whole exchange.

Every amount exactly.
"""

from decimal import ROUND_CEILING, Decimal
from typing import Any

import ccxt
import pytest

from examples.trade_with_ccxt import connect, trade
from tests.e2e.market_data import candles_of
from tests.support.api import Api, new_account
from tests.support.eventually import eventually

pytestmark = [pytest.mark.shard_counts(1, 3), pytest.mark.usefixtures("liquid")]

SYMBOL = "BTC/USDT"
UNIT = Decimal("0.00000001")
FEE_RATE = Decimal("0.001")
USDT = Decimal(1_000_000)
BTC = Decimal(20)


@pytest.fixture(scope="module")
def client(exchange_url: str) -> ccxt.binance:
    account = new_account(exchange_url, USDT=str(USDT), BTC=str(BTC))
    client = connect(exchange_url, account.key, account.secret)
    # Its own pacing only costs time here; the exchange's limits still count.
    client.enableRateLimit = False
    client.load_markets()
    return client


@pytest.fixture(scope="module")
def public(exchange_url: str) -> Api:
    return Api(exchange_url)


def balance(client: ccxt.binance) -> dict[str, tuple[Decimal, Decimal]]:
    """Return (free, locked) of what the account owns, as the exchange wrote it."""
    rows = client.fetch_balance()["info"]["balances"]
    return {each["asset"]: (Decimal(each["free"]), Decimal(each["locked"])) for each in rows}


def fee(received: Decimal) -> Decimal:
    """Return the fee on what one fill brings in: rounded up to the unit, in the house's favour."""
    return (received * FEE_RATE).quantize(UNIT, ROUND_CEILING)


def far_below(client: ccxt.binance) -> float:
    """Return a price, on the grid, at which nobody sells."""
    return float(
        client.price_to_precision(SYMBOL, client.fetch_order_book(SYMBOL, limit=5)["bids"][0][0] * 0.8)
    )


def test_markets_say_what_they_are(client: ccxt.binance) -> None:
    assert {"BTC/USDT", "ETH/USDT", "SOL/USDT"} <= set(client.markets)
    market = client.market(SYMBOL)
    assert market["active"]
    assert market["spot"]
    assert (market["precision"]["price"], market["precision"]["amount"]) == (0.01, 0.00001)
    assert market["limits"]["cost"]["min"] == 5
    assert market["limits"]["amount"]["min"] == 0.00001
    assert set(client.currencies) >= {"BTC", "ETH", "SOL", "USDT"}


def test_time_status_and_fees(client: ccxt.binance) -> None:
    assert abs(client.fetch_time() - client.milliseconds()) < 5_000
    assert client.fetch_status()["status"] == "ok"
    assert client.fetch_trading_fees()[SYMBOL]["maker"] == 0.001
    assert client.fetch_trading_fee("ETH/USDT")["symbol"] == "ETH/USDT"


def test_public_market_data(client: ccxt.binance) -> None:
    book = client.fetch_order_book(SYMBOL, limit=20)
    assert book["bids"][0][0] < book["asks"][0][0]
    assert len(book["bids"]) >= 10
    assert len(book["asks"]) >= 10
    trades = eventually("trades", lambda: client.fetch_trades(SYMBOL, limit=5))
    assert all(each["amount"] > 0 and each["side"] in ("buy", "sell") for each in trades)
    ticker = client.fetch_ticker(SYMBOL)
    assert ticker["low"] <= ticker["last"] <= ticker["high"]
    assert ticker["bid"] < ticker["ask"]
    assert set(client.fetch_tickers([SYMBOL, "ETH/USDT"])) == {SYMBOL, "ETH/USDT"}
    assert client.fetch_bids_asks([SYMBOL])[SYMBOL]["bid"] > 0
    assert client.fetch_last_prices([SYMBOL])[SYMBOL]["price"] > 0


def test_a_limit_order_holds_and_its_cancel_releases_exactly(client: ccxt.binance) -> None:
    before = balance(client)["USDT"]
    price = far_below(client)
    order = client.create_order(SYMBOL, "limit", "buy", 0.01, price)
    assert (order["status"], order["filled"], order["price"], order["amount"]) == ("open", 0, price, 0.01)
    held = Decimal(client.price_to_precision(SYMBOL, price)) * Decimal("0.01")
    assert balance(client)["USDT"] == (before[0] - held, before[1] + held)

    assert order["id"] in [each["id"] for each in client.fetch_open_orders(SYMBOL)]
    client.options["warnOnFetchOpenOrdersWithoutSymbol"] = False
    assert order["id"] in [each["id"] for each in client.fetch_open_orders()]
    assert client.fetch_order(order["id"], SYMBOL)["status"] == "open"
    assert client.cancel_order(order["id"], SYMBOL)["status"] == "canceled"
    assert client.fetch_order(order["id"], SYMBOL)["status"] == "canceled"
    assert order["id"] not in [each["id"] for each in client.fetch_open_orders(SYMBOL)]
    assert balance(client)["USDT"] == before


def test_a_market_order_moves_exactly_what_its_fills_say(client: ccxt.binance) -> None:
    before = balance(client)
    order = client.create_order(SYMBOL, "market", "buy", 0.05)
    assert (order["status"], order["filled"]) == ("closed", 0.05)
    fills = order["info"]["fills"]
    cost = sum(Decimal(fill["price"]) * Decimal(fill["qty"]) for fill in fills)
    fees = [(Decimal(fill["commission"]), fee(Decimal(fill["qty"]))) for fill in fills]
    assert all(charged == due for charged, due in fees)
    assert {fill["commissionAsset"] for fill in fills} == {"BTC"}
    assert sum(Decimal(fill["qty"]) for fill in fills) == Decimal("0.05")
    assert Decimal(order["info"]["cummulativeQuoteQty"]) == cost

    after = balance(client)
    assert after["USDT"] == (before["USDT"][0] - cost, before["USDT"][1])
    assert after["BTC"] == (
        before["BTC"][0] + Decimal("0.05") - sum(charged for charged, _ in fees),
        before["BTC"][1],
    )

    def mine() -> list[Any] | None:
        trades = client.fetch_my_trades(SYMBOL, params={"orderId": order["id"]})
        return trades if len(trades) == len(fills) else None

    # ccxt sorts trades of one moment by their ids as texts.
    trades = sorted(eventually("the order's trades in the history", mine), key=lambda trade: int(trade["id"]))
    assert [(each["id"], each["info"]["price"], each["info"]["qty"]) for each in trades] == [
        (str(fill["tradeId"]), fill["price"], fill["qty"]) for fill in fills
    ]
    assert [each["info"]["commission"] for each in trades] == [fill["commission"] for fill in fills]
    assert all(each["side"] == "buy" and each["takerOrMaker"] == "taker" for each in trades)


def test_a_market_sell_pays_its_fee_in_quote(client: ccxt.binance) -> None:
    before = balance(client)
    order = client.create_order(SYMBOL, "market", "sell", 0.02)
    fills = order["info"]["fills"]
    received = sum(Decimal(fill["price"]) * Decimal(fill["qty"]) for fill in fills)
    fees = sum(fee(Decimal(fill["price"]) * Decimal(fill["qty"])) for fill in fills)
    assert sum(Decimal(fill["commission"]) for fill in fills) == fees
    after = balance(client)
    assert after["USDT"][0] == before["USDT"][0] + received - fees
    assert after["BTC"][0] == before["BTC"][0] - Decimal("0.02")


def test_a_market_buy_by_cost_spends_at_most_that(client: ccxt.binance) -> None:
    before = balance(client)["USDT"][0]
    order = client.create_market_buy_order_with_cost(SYMBOL, 250)
    spent = before - balance(client)["USDT"][0]
    assert spent == Decimal(order["info"]["cummulativeQuoteQty"])
    last_price = max(Decimal(fill["price"]) for fill in order["info"]["fills"])
    assert 250 - last_price * Decimal("0.00001") < spent <= 250


def test_a_limit_order_that_crosses_trades_at_the_resting_price(client: ccxt.binance) -> None:
    best_ask = client.fetch_order_book(SYMBOL, limit=5)["asks"][0][0]
    order = client.create_order(
        SYMBOL,
        "limit",
        "buy",
        0.001,
        round(best_ask * 1.01, 2),
        {"timeInForce": "IOC", "clientOrderId": "crossing-1"},
    )
    assert (order["clientOrderId"], order["status"], order["filled"]) == ("crossing-1", "closed", 0.001)
    assert order["average"] < best_ask * 1.01
    assert client.fetch_order("", SYMBOL, {"clientOrderId": "crossing-1"})["id"] == order["id"]


def test_time_in_force_post_only_and_client_order_ids(client: ccxt.binance) -> None:
    price = far_below(client)
    missed = client.create_order(SYMBOL, "limit", "buy", 0.001, price, {"timeInForce": "FOK"})
    assert (missed["status"], missed["filled"]) == ("expired", 0)
    resting = client.create_order(
        SYMBOL, "limit", "buy", 0.001, price, {"postOnly": True, "clientOrderId": "mine-1"}
    )
    assert (resting["clientOrderId"], client.fetch_order(resting["id"], SYMBOL)["status"]) == (
        "mine-1",
        "open",
    )
    with pytest.raises(ccxt.OrderImmediatelyFillable):
        client.create_order(SYMBOL, "limit", "buy", 0.001, round(price * 1.5, 2), {"postOnly": True})
    with pytest.raises(ccxt.InvalidOrder, match="Duplicate order sent"):
        client.create_order(SYMBOL, "limit", "buy", 0.001, price, {"clientOrderId": "mine-1"})
    canceled = client.cancel_all_orders(SYMBOL)
    assert [each["id"] for each in canceled] == [resting["id"]]
    assert client.fetch_open_orders(SYMBOL) == []


def test_history_has_every_order_once(client: ccxt.binance) -> None:
    placed = [client.create_order(SYMBOL, "limit", "buy", 0.001, far_below(client)) for _ in range(3)]
    for order in placed:
        client.cancel_order(order["id"], SYMBOL)

    def statuses() -> dict[str, str]:
        return {each["id"]: each["status"] for each in client.fetch_orders(SYMBOL)}

    eventually(
        "canceled in the history", lambda: all(statuses().get(each["id"]) == "canceled" for each in placed)
    )
    history = [each["id"] for each in client.fetch_orders(SYMBOL)]
    assert len(history) == len(set(history))


def test_errors_are_those_that_ccxt_knows(client: ccxt.binance, exchange_url: str) -> None:
    with pytest.raises(ccxt.InsufficientFunds):
        client.create_order(SYMBOL, "limit", "buy", 1_000, far_below(client))
    with pytest.raises(ccxt.OrderNotFound):
        client.fetch_order("1", SYMBOL)
    with pytest.raises(ccxt.OrderNotFound):
        client.cancel_order("1", SYMBOL)
    stranger = connect(exchange_url, client.apiKey, "not the secret")
    with pytest.raises(ccxt.AuthenticationError):
        stranger.fetch_balance()


def test_candles_equal_what_the_trades_say(client: ccxt.binance, public: Api, exchange_url: str) -> None:
    reader = Api(exchange_url, client.apiKey, client.secret)

    for interval, interval_ms in (("1s", 1_000), ("1m", 60_000), ("1h", 3_600_000)):

        def equal(interval: str = interval, interval_ms: int = interval_ms) -> bool:
            klines = recent(public.get("/api/v3/klines", symbol="BTCUSDT", interval=interval))
            if not klines:
                return False
            trades = up_to(reader.historical_trades("BTCUSDT"), klines[-1])
            return recent(candles_of(trades, interval_ms)) == klines

        eventually(f"candles of {interval} that equal the trades", equal)
    # The newest minute may have begun a moment ago, without a trade yet.
    assert any(volume > 0 for *_, volume in client.fetch_ohlcv(SYMBOL, "1m", limit=3))


def test_the_example_runs(client: ccxt.binance, capsys: pytest.CaptureFixture[str]) -> None:
    trade(client, SYMBOL)
    assert "my trade" in capsys.readouterr().out


def up_to(trades: list[Any], kline: list[Any]) -> list[Any]:
    """Return the trades that were there when `kline`, the newest, was read.

    Others came while the trades were.
    """
    before = [each for each in trades if each["time"] < kline[0]]
    within = [each for each in trades if kline[0] <= each["time"] <= kline[6]]
    return before + within[: kline[8]]


def recent(klines: list[list[Any]]) -> list[list[Any]]:
    """Return the newest of those klines that have trades, without the column that says nothing."""
    return [each[:11] for each in klines if each[8]][-50:]
