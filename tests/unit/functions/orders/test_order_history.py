"""What an account asks of its past: orders overlaid with those that are open, fills, and prevented
matches.
"""

from typing import Any

import msgspec
import pytest

from functions.api.errors import ApiError
from functions.api.function import Function
from functions.api.parameters import Parameters
from functions.api.ports import Call
from functions.orders import get_all_orders, get_my_trades, get_prevented_matches
from functions.repositories.orders import PreventedMatch, StoredFill
from protocol.orders import (
    Liquidity,
    OrderState,
    OrderStatus,
    OrderType,
    SelfTradePrevention,
    Side,
    TimeInForce,
)
from protocol.replies import OpenOrdersQuery, OrdersReply
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots, TimeMs, TradeId
from tests.support.market_log import BTC
from tests.unit.functions.repositories import MemoryOrders, ports_of

ANN = AccountId(1)
T0 = 1_795_392_000_000
DAY_MS = 86_400_000


def order(number: int, status: OrderStatus = OrderStatus.FILLED, version: int = 2) -> OrderState:
    """The order of this number, accepted as many seconds after T0."""
    return OrderState(
        OrderId(number), ANN, f"c{number}", BTC, Side.BUY, OrderType.LIMIT, TimeInForce.GTC, PriceTicks(5),
        QuantityLots(9),
        AssetUnits(0), SelfTradePrevention.EXPIRE_MAKER, status, QuantityLots(0), AssetUnits(0),
        AssetUnits(0),
        TimeMs(T0 + number * 1_000), TimeMs(T0 + number * 1_000), version=version,
    )  # fmt: skip


def fill(
    trade: int, number: int, side: Side = Side.BUY, liquidity: Liquidity = Liquidity.TAKER
) -> StoredFill:
    return StoredFill(
        TradeId(trade), OrderId(number), PriceTicks(5_000_000), QuantityLots(10), AssetUnits(500_000_000),
        AssetUnits(1_000), "BTC", TimeMs(T0 + trade * 1_000), side, liquidity,
    )  # fmt: skip


STORED = [order(number) for number in (1, 2, 3, 4)]
STORED[3] = order(4, OrderStatus.NEW, version=1)
OPEN_NOW = (order(4, OrderStatus.PARTIALLY_FILLED, version=2), order(5, OrderStatus.NEW, version=1))
FILLS = [fill(1, 1), fill(2, 1), fill(3, 2), fill(4, 2, Side.SELL, Liquidity.MAKER)]
PREVENTED = [
    PreventedMatch(
        number,
        OrderId(10 + number),
        OrderId(20),
        mode,
        PriceTicks(5),
        QuantityLots(taker),
        QuantityLots(maker),
        TimeMs(T0),
    )
    for number, mode, taker, maker in (
        (1, SelfTradePrevention.EXPIRE_TAKER, 7, 0),
        (2, SelfTradePrevention.EXPIRE_BOTH, 7, 8),
    )
]


class Exchange:
    """A shard with two open orders; the older one is stored as it was before."""

    reply_to = "test"

    def next_request_id(self) -> int:
        return 1

    async def query(self, _shard: int, query: OpenOrdersQuery) -> OrdersReply:
        assert query.market == BTC
        return OrdersReply(query.request_id, TimeMs(T0), OPEN_NOW)

    async def ask(self, function: Function, **sent: str) -> list[dict[str, Any]]:
        ports = ports_of(shards=self, orders=MemoryOrders(STORED, FILLS, PREVENTED))
        call = Call(Parameters({"symbol": BTC, **sent}), TimeMs(T0), ANN)
        shapes: list[dict[str, Any]] = msgspec.json.decode(
            msgspec.json.encode(await function.handle(ports, call))
        )
        return shapes


def at(number: int) -> str:
    return str(T0 + number * 1_000)


@pytest.mark.parametrize(
    ("sent", "numbers"),
    [
        ({}, [1, 2, 3, 4, 5]),
        ({"limit": "2"}, [4, 5]),
        ({"limit": "3"}, [3, 4, 5]),
        ({"orderId": "2", "limit": "2"}, [2, 3]),
        ({"orderId": "5"}, [5]),
        ({"startTime": at(3)}, [3, 4, 5]),
        ({"startTime": at(2), "endTime": at(4)}, [2, 3, 4]),
        ({"startTime": at(2), "limit": "1"}, [2]),
        ({"endTime": at(3), "limit": "2"}, [2, 3]),
        ({"orderId": "9"}, []),
    ],
)
async def test_orders_of_any_status(sent: dict[str, str], numbers: list[int]) -> None:
    assert [each["orderId"] for each in await Exchange().ask(get_all_orders.FUNCTION, **sent)] == numbers


async def test_an_order_is_shown_in_its_later_state() -> None:
    """The shard's, which has gone on.

    And the database's, where the shard answered before the order was filled.
    """
    shown = {each["orderId"]: each["status"] for each in await Exchange().ask(get_all_orders.FUNCTION)}
    assert (shown[3], shown[4], shown[5]) == ("FILLED", "PARTIALLY_FILLED", "NEW")
    late = order(4, OrderStatus.FILLED, version=3)
    assert get_all_orders.overlay([late], [OPEN_NOW[0]]) == [late]


@pytest.mark.parametrize(
    ("function", "sent", "code"),
    [
        (get_all_orders.FUNCTION, {"startTime": "1", "endTime": str(DAY_MS + 2)}, -1127),
        (get_my_trades.FUNCTION, {"startTime": "1", "endTime": str(DAY_MS + 2)}, -1127),
        (get_my_trades.FUNCTION, {"startTime": "1", "orderId": "1"}, -1128),
        (get_my_trades.FUNCTION, {"endTime": "1", "fromId": "1"}, -1128),
        (get_my_trades.FUNCTION, {"symbol": "NOPE"}, -1121),
        (get_prevented_matches.FUNCTION, {}, -1102),
        (get_prevented_matches.FUNCTION, {"fromPreventedMatchId": "1"}, -1128),
        (get_prevented_matches.FUNCTION, {"preventedMatchId": "1", "orderId": "1"}, -1128),
        (get_prevented_matches.FUNCTION, {"preventedMatchId": "1", "limit": "5"}, -1128),
    ],
)
async def test_questions_that_are_refused(function: Function, sent: dict[str, str], code: int) -> None:
    with pytest.raises(ApiError) as refused:
        await Exchange().ask(function, **sent)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("sent", "numbers"),
    [
        ({}, [1, 2, 3, 4]),
        ({"limit": "3"}, [2, 3, 4]),
        ({"fromId": "2", "limit": "2"}, [2, 3]),
        ({"orderId": "1"}, [1, 2]),
        ({"orderId": "1", "fromId": "2"}, [2]),
        ({"startTime": at(2), "limit": "2"}, [2, 3]),
        ({"endTime": at(2)}, [1, 2]),
    ],
)
async def test_fills(sent: dict[str, str], numbers: list[int]) -> None:
    assert [each["id"] for each in await Exchange().ask(get_my_trades.FUNCTION, **sent)] == numbers


async def test_a_fill_whole() -> None:
    shown = (await Exchange().ask(get_my_trades.FUNCTION, fromId="4"))[0]
    assert shown == {
        "symbol": BTC, "id": 4, "orderId": 2, "orderListId": -1, "price": "50000.00000000",
        "qty": "0.00010000",
        "quoteQty": "5.00000000", "commission": "0.00001000", "commissionAsset": "BTC", "time": T0 + 4_000,
        "isBuyer": False, "isMaker": True, "isBestMatch": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("sent", "numbers"),
    [
        ({"preventedMatchId": "2"}, [2]),
        ({"orderId": "20"}, [1, 2]),
        ({"orderId": "20", "fromPreventedMatchId": "2"}, [2]),
        ({"orderId": "20", "limit": "1"}, [1]),
        ({"orderId": "11"}, [1]),
        ({"orderId": "7"}, []),
    ],
)
async def test_prevented_matches(sent: dict[str, str], numbers: list[int]) -> None:
    found = await Exchange().ask(get_prevented_matches.FUNCTION, **sent)
    assert [each["preventedMatchId"] for each in found] == numbers


async def test_a_prevented_match_has_the_quantities_of_orders_that_it_ended() -> None:
    taker, both = await Exchange().ask(get_prevented_matches.FUNCTION, orderId="20")
    assert (taker["selfTradePreventionMode"], taker["takerPreventedQuantity"]) == (
        "EXPIRE_TAKER",
        "0.00007000",
    )
    assert "makerPreventedQuantity" not in taker
    assert (both["takerPreventedQuantity"], both["makerPreventedQuantity"]) == ("0.00007000", "0.00008000")


def test_weights() -> None:
    weights = [
        (each.weight_of(Parameters({"orderId": "1"})), each.weight_of(Parameters({})))
        for each in (get_my_trades.FUNCTION, get_prevented_matches.FUNCTION)
    ]
    assert weights == [(5, 20), (20, 2)]
