"""What an order that expired says of it, where it is placed and where it is asked for."""

from typing import Any

import msgspec
import pytest

from functions.orders import order_shapes
from protocol.orders import (
    CloseReason,
    OrderCourse,
    OrderState,
    OrderStatus,
    OrderTerms,
    OrderType,
    SelfTradePrevention,
    Side,
    TimeInForce,
)
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots, TimeMs
from runtime.settings import Settings
from tests.support.order_ports import Exchange

MARKET = Settings().market_map().by_symbol["BTCUSDT"]
ORDER = OrderState(
    OrderId(1), AccountId(1), "mine", "BTCUSDT", Side.BUY, OrderType.LIMIT, TimeInForce.GTC, PriceTicks(1),
    QuantityLots(100_000),
    AssetUnits(0), SelfTradePrevention.EXPIRE_MAKER, OrderStatus.NEW, QuantityLots(0), AssetUnits(0),
    AssetUnits(0), TimeMs(1), TimeMs(1),
)  # fmt: skip


def shown(answer: Any) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(answer))
    return fields


@pytest.mark.parametrize("response", ["RESULT", "FULL"])
@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"type": "LIMIT", "timeInForce": "IOC", "price": "30000"}, "UNFILLED_IOC_QUANTITY_EXPIRED"),
        ({"type": "LIMIT", "timeInForce": "FOK", "price": "30000"}, "UNFILLED_FOK_ORDER_EXPIRED"),
        ({"type": "MARKET"}, "EXECUTION_RULE_PRICE_RANGE_EXCEEDED"),  # 40,000 is more than 5 % above 30,000
        ({"type": "MARKET", "quantity": "0.1"}, "INSUFFICIENT_LIQUIDITY"),
    ],
)
async def test_a_placed_order_says_why_it_expired(wanted: dict[str, str], reason: str, response: str) -> None:
    exchange = Exchange()
    await exchange.order(2, side="SELL", type="LIMIT", timeInForce="GTC", quantity="0.001", price="30000")
    if reason.startswith("EXECUTION"):
        await exchange.order(2, side="SELL", type="LIMIT", timeInForce="GTC", quantity="0.001", price="40000")
    answer = shown(
        await exchange.order(side="BUY", **{"quantity": "0.002", **wanted}, newOrderRespType=response)
    )
    assert (answer["status"], answer["expiryReason"]) == ("EXPIRED", reason)
    assert "preventedQuantity" not in answer


@pytest.mark.parametrize("response", ["ACK", "RESULT", "FULL"])
async def test_an_order_that_lives_says_nothing_of_it(response: str) -> None:
    wanted = {
        "type": "LIMIT",
        "timeInForce": "GTC",
        "quantity": "0.001",
        "price": "30000",
        "newOrderRespType": response,
    }
    answer = shown(await Exchange().order(side="BUY", **wanted))
    assert not {"expiryReason", "preventedQuantity"} & answer.keys()


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (CloseReason.UNFILLED_IOC, "UNFILLED_IOC_QUANTITY_EXPIRED"),
        (CloseReason.CANCELED_BY_OPERATOR, "EXCHANGE_CANCELED"),
        (CloseReason.MARKET_DELISTED, "EXCHANGE_CANCELED"),
        (CloseReason.TOO_MANY_MATCHES, "TOO_MANY_MATCHES"),
        (None, "UNFILLED_IOC_QUANTITY_EXPIRED"),  # stored by a release that kept no reason
    ],
)
def test_an_order_that_is_asked_for_says_why_it_expired(reason: CloseReason | None, text: str) -> None:
    expired = msgspec.structs.replace(
        ORDER, status=OrderStatus.EXPIRED, time_in_force=TimeInForce.IOC, close_reason=reason
    )
    assert shown(order_shapes.order_shape(expired, MARKET, 1))["expiryReason"] == text
    canceled = msgspec.structs.replace(
        ORDER, status=OrderStatus.CANCELED, close_reason=CloseReason.CANCELED_BY_OWNER
    )
    assert "expiryReason" not in shown(order_shapes.order_shape(canceled, MARKET, 1))


RESTING = {"type": "LIMIT", "timeInForce": "GTC"}


async def three_makers(exchange: Exchange) -> list[int]:
    """Return the ids of the resting orders of scenarios B and C of faqs/stp_faq.md, ten times as large."""
    orders = [("12", "1.2"), ("13", "1.1"), ("81", "1")]
    return [
        shown(await exchange.order(side="BUY", quantity=quantity, price=price, **RESTING))["orderId"]
        for quantity, price in orders
    ]


async def test_what_self_trade_prevention_took_off() -> None:
    """Scenario C: the arriving order of 30 meets an own one of 12 with EXPIRE_TAKER, and all of its 30
    expire; the others stay."""
    exchange = Exchange()
    first, *_ = await three_makers(exchange)
    taker = {"side": "SELL", "quantity": "30", "price": "1", "selfTradePreventionMode": "EXPIRE_TAKER"}
    answer = shown(await exchange.order(**taker, **RESTING))
    assert (answer["status"], answer["preventedQuantity"]) == ("EXPIRED_IN_MATCH", "30.00000000")
    match = {"preventedMatchId": 1, "makerSymbol": "BTCUSDT", "makerOrderId": first, "price": "1.20000000"}
    assert answer["preventedMatches"] == [{**match, "takerPreventedQuantity": "30.00000000"}]
    assert "expiryReason" not in answer


async def test_matches_that_makers_were_ended_for() -> None:
    """Scenario B: three makers expire, and the arriving order rests."""
    exchange = Exchange()
    makers = await three_makers(exchange)
    answer = shown(await exchange.order(side="SELL", quantity="30", price="1", **RESTING))
    assert (answer["status"], "preventedQuantity" in answer) == ("NEW", False)
    assert answer["preventedMatches"] == [
        {
            "preventedMatchId": number, "makerSymbol": "BTCUSDT", "makerOrderId": maker, "price": price,
            "makerPreventedQuantity": quantity,
        }
        for number, (maker, price, quantity) in enumerate(
            zip(makers, ("1.20000000", "1.10000000", "1.00000000"), ("12.00000000", "13.00000000",
                "81.00000000"), strict=True), 1
        )
    ]  # fmt: skip


async def test_matches_that_both_were_ended_for() -> None:
    """Scenario D: a maker of 10 and a taker of 30 expire."""
    exchange = Exchange()
    await exchange.order(side="BUY", quantity="10", price="1", **RESTING)
    both = {"selfTradePreventionMode": "EXPIRE_BOTH", "newOrderRespType": "RESULT"}
    answer = shown(await exchange.order(side="SELL", quantity="30", price="1", **RESTING, **both))
    assert (answer["status"], answer["preventedQuantity"]) == ("EXPIRED_IN_MATCH", "30.00000000")
    (match,) = answer["preventedMatches"]
    assert (match["takerPreventedQuantity"], match["makerPreventedQuantity"]) == (
        "30.00000000",
        "10.00000000",
    )


async def test_what_was_prevented_of_an_order_by_quote_quantity() -> None:
    """20 USDT meet an own order at 2: they would have bought 10, of which 4 were there.

    As Binance, all that is left counts.
    """
    exchange = Exchange()
    await exchange.order(side="SELL", quantity="4", price="2", **RESTING)
    order = {"type": "MARKET", "quoteOrderQty": "20", "selfTradePreventionMode": "EXPIRE_TAKER"}
    answer = shown(await exchange.order(side="BUY", **order))
    assert (answer["status"], answer["preventedQuantity"]) == ("EXPIRED_IN_MATCH", "10.00000000")
    assert answer["preventedMatches"][0]["takerPreventedQuantity"] == "10.00000000"


async def test_answers_name_the_strategy() -> None:
    strategy = {"strategyId": "37463720", "strategyType": "1000000"}
    for response in ("RESULT", "FULL"):
        order = {"side": "BUY", "quantity": "10", "price": "1", "newOrderRespType": response}
        answer = shown(await Exchange().order(**order, **RESTING, **strategy))
        assert (answer["strategyId"], answer["strategyType"]) == (37_463_720, 1_000_000)
    named = msgspec.structs.replace(ORDER, terms=OrderTerms(strategy_id=0))
    for shape in (order_shapes.order_shape(named, MARKET, 1), order_shapes.canceled(named, MARKET, "c", 1)):
        assert shown(shape)["strategyId"] == 0
        assert "strategyType" not in shown(shape)


def test_prevented_quantity_is_what_was_left() -> None:
    order = msgspec.structs.replace(
        ORDER, status=OrderStatus.EXPIRED_IN_MATCH, cum_quantity=QuantityLots(25_000)
    )
    assert shown(order_shapes.order_shape(order, MARKET, 1))["preventedQuantity"] == "0.75000000"
    numbered = msgspec.structs.replace(
        order, course=OrderCourse(prevented_quantity=QuantityLots(75_000), prevented_match_id=9)
    )
    asked = shown(order_shapes.order_shape(numbered, MARKET, 1))
    assert (asked["preventedQuantity"], asked["preventedMatchId"]) == ("0.75000000", 9)
    # Of an order by quote quantity the quantity becomes what it executed when it closes.
    by_quote = msgspec.structs.replace(order, quote_quantity=AssetUnits(5), quantity=QuantityLots(25_000))
    assert "preventedQuantity" not in shown(order_shapes.order_shape(by_quote, MARKET, 1))
