"""Shapes of streams, against the fields that Binance's reference lists."""

from typing import Any

import msgspec
import pytest

from protocol.events import (
    AccountEvent,
    FundsReleased,
    FundsWithdrawn,
    OrderAccepted,
    OrderClosed,
    OrderFilled,
)
from protocol.market_data import BookTicker, Candle, DepthDiff, Ticker, WindowTicker
from protocol.orders import (
    Balance,
    CloseReason,
    Liquidity,
    OrderCourse,
    OrderStatus,
    OrderTerms,
    OrderType,
    Prevented,
    Side,
    TimeInForce,
)
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots, Sequence, TimeMs, TradeId
from tests.support.currencies import currencies
from tests.support.market_log import BTC, START_MS, MarketLog, accepted, deposit, market_map
from ws_edge import payloads

MARKETS = market_map()
MARKET = MARKETS.by_symbol[BTC]
NOW = TimeMs(START_MS + 7)
PRICE, ONE = PriceTicks(10_000_000), QuantityLots(100_000)


def test_trades_and_their_aggregates() -> None:
    log = MarketLog()
    first, second, other = (
        log.trade(START_MS, 10_000_000, quantity, side)
        for quantity, side in ((1, Side.SELL), (2, Side.SELL), (4, Side.BUY))
    )
    second = msgspec.structs.replace(second, aggregate_id=first.aggregate_id)
    assert payloads.trade(MARKET, first, NOW, 1) == {
        "e": "trade", "E": NOW, "s": BTC, "t": 1, "p": "100000.00000000", "q": "0.00001000", "T": START_MS,
        "m": True, "M": True,
    }  # fmt: skip
    groups = payloads.aggregates([first, second, other])
    assert [payloads.aggregate_trade(MARKET, group, NOW, 1000) for group in groups] == [
        {
            "e": "aggTrade", "E": NOW * 1000, "s": BTC, "a": 1, "p": "100000.00000000", "q": "0.00003000",
            "f": 1, "l": 2,
            "T": START_MS * 1000, "m": True, "M": True,
        },
        {
            "e": "aggTrade", "E": NOW * 1000, "s": BTC, "a": 3, "p": "100000.00000000", "q": "0.00004000",
            "f": 3, "l": 3,
            "T": START_MS * 1000, "m": False, "M": True,
        },
    ]  # fmt: skip


def test_depth() -> None:
    diff = DepthDiff(NOW, BTC, Sequence(4), Sequence(9), ((PRICE, ONE),), ((PriceTicks(1), QuantityLots(0)),))
    assert payloads.depth_update(MARKET, diff, 1) == {
        "e": "depthUpdate", "E": NOW, "s": BTC, "U": 4, "u": 9,
        "b": [("100000.00000000", "1.00000000")], "a": [("0.01000000", "0.00000000")],
    }  # fmt: skip
    assert payloads.partial_depth(MARKET, 9, diff.bids, ()) == {
        "lastUpdateId": 9, "bids": [("100000.00000000", "1.00000000")], "asks": [],
    }  # fmt: skip


def test_tickers_and_candles() -> None:
    best = BookTicker(NOW, BTC, Sequence(9), PRICE, ONE, PriceTicks(0), QuantityLots(0))
    assert payloads.book_ticker(MARKET, best) == {
        "u": 9, "s": BTC, "b": "100000.00000000", "B": "1.00000000", "a": "0.00000000", "A": "0.00000000",
    }  # fmt: skip
    ticker = Ticker(
        BTC, TimeMs(1), NOW, PriceTicks(8_000_000), PRICE, PriceTicks(7_000_000), PRICE, ONE, PriceTicks(9),
            ONE, 10**13, 3, 5, 3
    )  # fmt: skip
    full = payloads.full_ticker(MARKET, ticker, best, 1)
    assert "".join(full) == "eEspPwxcQbBaAohlvqOCFLn"
    assert (full["p"], full["P"], full["w"], full["c"]) == (
        "20000.00000000",
        "25.000",
        "100000.00000000",
        "100000.00000000",
    )
    assert "".join(payloads.mini_ticker(MARKET, ticker, 1)) == "eEscohlvq"
    candle = Candle(
        BTC,
        "1m",
        TimeMs(60_000),
        TimeMs(119_999),
        PRICE,
        PRICE,
        PRICE,
        PRICE,
        ONE,
        10**13,
        1,
        ONE,
        10**13,
        7,
        7,
        True,
    )
    row = payloads.kline(MARKET, candle, NOW, 1000)["k"]
    assert "".join(row) == "tTsifLochlvnxqVQB"
    assert (row["t"], row["T"], row["x"]) == (60_000_000, 119_999_999, True)


def test_a_ticker_of_a_window() -> None:
    """From 80,000 to 100,000 is 20,000 or 25 %; 1 BTC for 90,000 USDT is 90,000 on average."""
    low, volume = PriceTicks(7_000_000), 90_000 * 10**8
    window = WindowTicker(
        "4h", TimeMs(60_000), PriceTicks(8_000_000), PRICE, low, PRICE, ONE, volume, 3, 5, 3
    )
    assert payloads.window_ticker(MARKET, window, NOW, NOW, 1000) == {
        "e": "4hTicker", "E": NOW * 1000, "s": BTC, "p": "20000.00000000", "P": "25.000",
        "o": "80000.00000000",
        "h": "100000.00000000", "l": "70000.00000000", "c": "100000.00000000", "w": "90000.00000000",
        "v": "1.00000000",
        "q": "90000.00000000", "O": 60_000_000, "C": NOW * 1000, "F": 3, "L": 5, "n": 3,
    }  # fmt: skip


def told(event: AccountEvent) -> list[dict[str, Any]]:
    return list(payloads.account_events(MARKETS, event, NOW))


ORDER = accepted(START_MS, 7).order
BALANCES = (Balance("USDT", AssetUnits(5), AssetUnits(10)),)


def test_a_new_order() -> None:
    report, position = told(accepted(START_MS, 7))
    assert " ".join(report) == "e E s c S o f q p P F g C x X r i l z L n N T t I w m M O Z Y Q W V"
    assert (report["x"], report["X"], report["c"], report["C"], report["w"], report["N"]) == (
        "NEW", "NEW", "mine", "", True, None,
    )  # fmt: skip
    assert position == {
        "e": "outboundAccountPosition", "E": NOW, "u": START_MS,
        "B": [{"a": "USDT", "f": "0.00000005", "l": "0.00000010"}],
    }  # fmt: skip


def test_a_fill() -> None:
    order = msgspec.structs.replace(ORDER, status=OrderStatus.FILLED, cum_quantity=ONE)
    fill = OrderFilled(
        TimeMs(START_MS),
        order,
        TradeId(5),
        PRICE,
        ONE,
        AssetUnits(10**13),
        Liquidity.MAKER,
        AssetUnits(100),
        "BTC",
        BALANCES,
    )
    report = told(fill)[0]
    assert (report["x"], report["X"], report["t"], report["m"], report["w"]) == (
        "TRADE",
        "FILLED",
        5,
        True,
        False,
    )
    assert (report["l"], report["L"], report["Y"]) == ("1.00000000", "100000.00000000", "100000.00000000")
    assert (report["n"], report["N"]) == ("0.00000100", "BTC")


@pytest.mark.parametrize(
    ("reason", "status", "order_type", "time_in_force", "expected"),
    [
        (CloseReason.CANCELED_BY_OWNER, OrderStatus.CANCELED, OrderType.LIMIT, TimeInForce.GTC, ("CANCELED",
            "mine", None)),
        (CloseReason.EXPIRED, OrderStatus.EXPIRED, OrderType.LIMIT, TimeInForce.IOC, ("EXPIRED", "",
            "UNFILLED_IOC_QUANTITY_EXPIRED")),
        (CloseReason.EXPIRED, OrderStatus.EXPIRED, OrderType.LIMIT, TimeInForce.FOK, ("EXPIRED", "",
            "UNFILLED_FOK_ORDER_EXPIRED")),
        (CloseReason.EXPIRED, OrderStatus.EXPIRED, OrderType.MARKET, TimeInForce.IOC, ("EXPIRED", "",
            "INSUFFICIENT_LIQUIDITY")),
        (CloseReason.PRICE_RANGE_EXCEEDED, OrderStatus.EXPIRED, OrderType.MARKET, TimeInForce.IOC,
         ("EXPIRED", "", "EXECUTION_RULE_PRICE_RANGE_EXCEEDED")),
        (CloseReason.TOO_MANY_MATCHES, OrderStatus.EXPIRED, OrderType.LIMIT, TimeInForce.GTC, ("EXPIRED", "",
            "TOO_MANY_MATCHES")),
        (CloseReason.SELF_TRADE_PREVENTED, OrderStatus.EXPIRED_IN_MATCH, OrderType.LIMIT, TimeInForce.GTC,
            ("TRADE_PREVENTION", "", None)),
    ],
)  # fmt: skip
def test_an_order_that_closes(
    reason: CloseReason,
    status: OrderStatus,
    order_type: OrderType,
    time_in_force: TimeInForce,
    expected: tuple[str, str, str | None],
) -> None:
    order = msgspec.structs.replace(
        ORDER, status=status, order_type=order_type, time_in_force=time_in_force, close_reason=reason
    )
    report = told(OrderClosed(TimeMs(START_MS), order, reason, ()))[0]
    assert (report["x"], report["C"], report.get("eR")) == expected
    assert (report["X"], report["c"]) == (status.name, "mine")


def test_a_report_has_the_id_of_its_execution_and_not_of_its_order() -> None:
    """A client that removes doubles by order and execution must lose none of several fills."""
    fills = [
        OrderFilled(
            TimeMs(START_MS), msgspec.structs.replace(ORDER, execution_id=execution_id), TradeId(5), PRICE,
            ONE,
            AssetUnits(1), Liquidity.MAKER, AssetUnits(1), "BTC", BALANCES,
        )
        for execution_id in (300, 500)
    ]  # fmt: skip
    assert [told(fill)[0]["I"] for fill in fills] == [300, 500]


def test_an_order_that_expired_in_a_match_says_how_much_of_it() -> None:
    """1 BTC of which 0.4 were filled: 0.6 are prevented. The account is in no trade group."""
    order = msgspec.structs.replace(
        ORDER,
        status=OrderStatus.EXPIRED_IN_MATCH,
        quantity=ONE,
        cum_quantity=QuantityLots(40_000),
        close_reason=CloseReason.SELF_TRADE_PREVENTED,
    )
    report = told(OrderClosed(TimeMs(START_MS), order, CloseReason.SELF_TRADE_PREVENTED, ()))[0]
    assert (report["A"], report["B"], report["u"], report["Cs"]) == ("0.60000000", "0.60000000", -1, BTC)
    assert payloads.in_microseconds(report)["u"] == -1
    assert not {"v", "U", "pl", "pL", "pY"} & report.keys(), "written before matches were numbered"
    canceled = msgspec.structs.replace(ORDER, status=OrderStatus.CANCELED)
    other = told(OrderClosed(TimeMs(START_MS), canceled, CloseReason.CANCELED_BY_OWNER, ()))[0]
    assert not {"A", "B", "u", "Cs"} & other.keys()


def test_an_order_that_expired_in_a_match_says_in_which() -> None:
    """An order by quote quantity has 0.6 BTC left and meets an own one of 0.2 at 100,000: 0.2 BTC, 20,000
    USDT would have been traded."""
    lots = QuantityLots(60_000)
    course = OrderCourse(prevented_quantity=lots, prevented_match_id=3)
    order = msgspec.structs.replace(
        ORDER, status=OrderStatus.EXPIRED_IN_MATCH, quote_quantity=AssetUnits(10**13), course=course
    )
    match = Prevented(3, OrderId(500), PRICE, lots, QuantityLots(0), QuantityLots(20_000))
    reason = CloseReason.SELF_TRADE_PREVENTED
    report = told(OrderClosed(TimeMs(START_MS), order, reason, (), "", match, OrderId(500)))[0]
    assert (report["x"], report["A"], report["B"]) == ("TRADE_PREVENTION", "0.60000000", "0.60000000")
    assert (report["v"], report["U"], report["pl"]) == (3, 500, "0.20000000")
    assert (report["pL"], report["pY"]) == ("100000.00000000", "20000.00000000")


def test_reports_name_the_strategy() -> None:
    order = msgspec.structs.replace(ORDER, terms=OrderTerms(strategy_id=7, strategy_type=1_000_000))
    report = told(OrderAccepted(TimeMs(START_MS), order, ()))[0]
    assert (report["j"], report["J"]) == (7, 1_000_000)
    report = told(
        OrderAccepted(TimeMs(START_MS), msgspec.structs.replace(order, terms=OrderTerms(strategy_id=0)), ())
    )[0]
    assert report["j"] == 0
    assert "J" not in report


def test_a_cancel_names_itself_and_the_order() -> None:
    order = msgspec.structs.replace(ORDER, status=OrderStatus.CANCELED)
    report = told(OrderClosed(TimeMs(START_MS), order, CloseReason.CANCELED_BY_OWNER, (), "stop"))[0]
    assert (report["c"], report["C"], report["i"]) == ("stop", "mine", order.order_id)


def test_transfers_and_releases() -> None:
    assert [each["e"] for each in told(deposit(START_MS, 7))] == ["balanceUpdate", "outboundAccountPosition"]
    withdrawn = FundsWithdrawn(TimeMs(START_MS), AccountId(7), "USDT", AssetUnits(5), "t", BALANCES)
    assert told(withdrawn)[0]["d"] == "-0.00000005"
    assert [each["e"] for each in told(FundsReleased(TimeMs(START_MS), AccountId(7), BALANCES))] == [
        "outboundAccountPosition"
    ]


def test_microseconds() -> None:
    report, position = map(payloads.in_microseconds, told(accepted(START_MS, 7)))
    assert (report["E"], report["T"], report["O"]) == (NOW * 1000, START_MS * 1000, START_MS * 1000)
    assert position["u"] == START_MS * 1000


def test_money_of_assets_with_few_decimals() -> None:
    """BTC for IDR of two decimals: 0.5 BTC at 1,600,000,000 are 80,000,000,000 units, 800,000,000.00 IDR.

    JPY has none.
    """
    markets = currencies()
    idr = markets.by_symbol["BTCIDR"]
    price, half = PriceTicks(1_600_000), QuantityLots(50_000)
    ticker = Ticker(
        "BTCIDR", TimeMs(1), NOW, price, price, price, price, half, price, half, 80_000_000_000, 1, 1, 1
    )
    assert payloads.mini_ticker(idr, ticker, 1)["q"] == "800000000.00000000"
    full = payloads.full_ticker(idr, ticker, None, 1)
    assert (full["q"], full["w"], full["v"]) == ("800000000.00000000", "1600000000.00000000", "0.50000000")
    candle = Candle(
        "BTCIDR", "1m", TimeMs(60_000), TimeMs(119_999), price, price, price, price, half, 80_000_000_000, 1,
            half, 1_600_000_01, 7, 7, True
    )  # fmt: skip
    row = payloads.kline(idr, candle, NOW, 1)["k"]
    assert (row["q"], row["Q"]) == ("800000000.00000000", "1600000.01000000")
    moved = FundsWithdrawn(
        NOW, AccountId(1), "JPY", AssetUnits(105), "w", (Balance("JPY", AssetUnits(7), AssetUnits(0)),)
    )
    balance, position = payloads.account_events(markets, moved, NOW)
    assert balance["d"] == "-105.00000000"
    assert position["B"] == [{"a": "JPY", "f": "7.00000000", "l": "0.00000000"}]


def test_a_fill_in_an_asset_with_two_decimals() -> None:
    """The seller of 0.5 BTC gets 800,000,000 IDR and pays 800,000.00 of them."""
    markets = currencies()
    order = msgspec.structs.replace(
        accepted(START_MS, 7).order, market="BTCIDR", cum_quote=AssetUnits(80_000_000_000),
    )  # fmt: skip
    balances = (
        Balance("BTC", AssetUnits(5), AssetUnits(0)),
        Balance("IDR", AssetUnits(7_992_000_000_001), AssetUnits(0)),
    )
    fill = OrderFilled(
        NOW, order, TradeId(1), PriceTicks(1_600_000), QuantityLots(50_000), AssetUnits(80_000_000_000),
        Liquidity.MAKER,
        AssetUnits(80_000_000), "IDR", balances,
    )  # fmt: skip
    report, position = payloads.account_events(markets, fill, NOW)
    assert (report["n"], report["N"], report["Y"], report["Z"]) == (
        "800000.00000000",
        "IDR",
        *2 * ("800000000.00000000",),
    )
    assert [row["f"] for row in position["B"]] == ["0.00000005", "79920000000.01000000"]
