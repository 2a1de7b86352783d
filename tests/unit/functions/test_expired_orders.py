"""What an order that expired says of it, where it is placed and where it is asked for."""

from typing import Any

import msgspec
import pytest

from functions import order_shapes
from protocol.orders import CloseReason, OrderState, OrderStatus, OrderType, SelfTradePrevention, Side, TimeInForce
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots, TimeMs
from runtime.settings import Settings
from tests.unit.functions.test_place_order import Exchange

MARKET = Settings().market_map().by_symbol["BTCUSDT"]
ORDER = OrderState(
    OrderId(1), AccountId(1), "mine", "BTCUSDT", Side.BUY, OrderType.LIMIT, TimeInForce.GTC, PriceTicks(1), QuantityLots(100_000),
    AssetUnits(0), SelfTradePrevention.EXPIRE_MAKER, OrderStatus.NEW, QuantityLots(0), AssetUnits(0), AssetUnits(0), TimeMs(1), TimeMs(1),
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
    answer = shown(await exchange.order(side="BUY", **{"quantity": "0.002", **wanted}, newOrderRespType=response))
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
    canceled = msgspec.structs.replace(ORDER, status=OrderStatus.CANCELED, close_reason=CloseReason.CANCELED_BY_OWNER)
    assert "expiryReason" not in shown(order_shapes.order_shape(canceled, MARKET, 1))


async def test_what_self_trade_prevention_took_off() -> None:
    """Scenario C of faqs/stp_faq.md: the arriving order of 3 meets an own one of 1.2 with EXPIRE_TAKER, and all of its 3 expire."""
    exchange = Exchange()
    resting = {"type": "LIMIT", "timeInForce": "GTC", "price": "1"}
    await exchange.order(side="BUY", quantity="12", **resting)
    taker = {"side": "SELL", "quantity": "30", "selfTradePreventionMode": "EXPIRE_TAKER"}
    answer = shown(await exchange.order(**taker, **resting))
    assert (answer["status"], answer["preventedQuantity"]) == ("EXPIRED_IN_MATCH", "30.00000000")
    assert "expiryReason" not in answer


def test_prevented_quantity_is_what_was_left() -> None:
    order = msgspec.structs.replace(ORDER, status=OrderStatus.EXPIRED_IN_MATCH, cum_quantity=QuantityLots(25_000))
    assert shown(order_shapes.order_shape(order, MARKET, 1))["preventedQuantity"] == "0.75000000"
    # Of an order by quote quantity the quantity becomes what it executed when it closes.
    by_quote = msgspec.structs.replace(order, quote_quantity=AssetUnits(5), quantity=QuantityLots(25_000))
    assert "preventedQuantity" not in shown(order_shapes.order_shape(by_quote, MARKET, 1))
