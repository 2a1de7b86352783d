"""An order from whoever has it: its shard, the database, or nobody for now."""

from typing import Any, cast

import pytest

from functions.api.errors import ApiError
from functions.api.parameters import Parameters
from functions.api.ports import Call
from functions.orders.get_order import get_order
from protocol.orders import (
    OrderState,
    OrderStatus,
    OrderType,
    RejectReason,
    SelfTradePrevention,
    Side,
    TimeInForce,
)
from protocol.replies import OrderQuery, OrderReply, Refused, Reply
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots, TimeMs
from tests.unit.functions.repositories import MemoryOrders, ports_of

CLOSED, OPEN = OrderStatus.CANCELED, OrderStatus.NEW


class Shard:
    """A shard that gives one answer."""

    reply_to = "test"

    def __init__(self, reply: OrderStatus | RejectReason) -> None:
        self._reply = reply

    def next_request_id(self) -> int:
        return 1

    async def query(self, _shard: int, query: OrderQuery) -> Reply:
        if isinstance(self._reply, RejectReason):
            return Refused(query.request_id, TimeMs(5), self._reply)
        return OrderReply(query.request_id, TimeMs(5), order(self._reply))


def order(status: OrderStatus) -> OrderState:
    return OrderState(
        OrderId(7), AccountId(1), "mine", "BTCUSDT", Side.BUY, OrderType.LIMIT, TimeInForce.GTC,
        PriceTicks(5), QuantityLots(9),
        AssetUnits(0), SelfTradePrevention.EXPIRE_MAKER, status, QuantityLots(0), AssetUnits(0),
        AssetUnits(0), TimeMs(5), TimeMs(5),
        version=1,
    )  # fmt: skip


async def asked(reply: OrderStatus | RejectReason, stored: OrderStatus | None, **names: str) -> object:
    ports = ports_of(shards=Shard(reply), orders=MemoryOrders([] if stored is None else [order(stored)]))
    try:
        answer = await get_order(
            ports, Call(Parameters({"symbol": "BTCUSDT", **names}), TimeMs(9), AccountId(1))
        )
    except ApiError as error:
        return error.code
    return cast("Any", answer).status


@pytest.mark.parametrize(
    "names", [{"orderId": "7"}, {"origClientOrderId": "mine"}, {"orderId": "7", "origClientOrderId": "mine"}]
)
async def test_the_shard_goes_before_the_database(names: dict[str, str]) -> None:
    assert await asked(OrderStatus.FILLED, OPEN, **names) == "FILLED"
    assert await asked(OrderStatus.IN_FLIGHT, None, **names) == -1007
    assert await asked(RejectReason.UNKNOWN_ORDER, CLOSED, **names) == "CANCELED"
    assert await asked(RejectReason.UNKNOWN_ORDER, None, **names) == -2013


@pytest.mark.parametrize(
    "place", [OrderStatus.NEW, RejectReason.UNKNOWN_ORDER, RejectReason.ORDER_NOT_REMEMBERED]
)
async def test_a_number_with_the_client_order_id_of_another_order(place: OrderStatus | RejectReason) -> None:
    """Wherever the order is found; the control is its own id."""
    both = {"orderId": "7", "origClientOrderId": "other"}
    assert await asked(place, CLOSED, **both) == -2039
    assert await asked(place, CLOSED, **both | {"origClientOrderId": "mine"}) in ("NEW", "CANCELED")


@pytest.mark.parametrize(
    ("stored", "by_number", "by_name"),
    [
        (None, -1007, -1007),  # it may be closed, and not stored
        (OPEN, -1007, -1007),  # it may be closed since
        (CLOSED, "CANCELED", -1007),  # there may be a newer one of that name
    ],
)
async def test_what_nobody_may_have_is_not_denied(
    stored: OrderStatus | None, by_number: object, by_name: object
) -> None:
    lost = RejectReason.ORDER_NOT_REMEMBERED
    assert await asked(lost, stored, orderId="7") == by_number
    assert await asked(lost, stored, origClientOrderId="mine") == by_name
