"""Closed orders are kept until the database has them: no acknowledged order is ever unknown, and none that is
lost is denied."""

import itertools

import pytest

from engine_worker.core.snapshot import encode_snapshot
from engine_worker.unstored_orders import UnstoredOrders
from engine_worker.worker import Worker
from protocol import streams
from protocol.codec import decode_replies, encode_frame
from protocol.commands import Command, Deposit, PlaceOrder
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
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import COMMANDS_FIELD, QUERIES_FIELD, EventReader
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots, TimeMs
from runtime.settings import Settings
from stream_log.memory_log import MemoryStreamLog

MARKET = "BTCUSDT"
SELLER, BUYER = AccountId(1), AccountId(2)


def closed(order_id: int, name: str = "a", market: str = MARKET, account_id: AccountId = BUYER) -> OrderState:
    return OrderState(
        *(
            OrderId(order_id),
            account_id,
            name,
            market,
            Side.BUY,
            OrderType.LIMIT,
            TimeInForce.IOC,
            PriceTicks(5),
        ),
        *(
            QuantityLots(1),
            AssetUnits(0),
            SelfTradePrevention.NONE,
            OrderStatus.EXPIRED,
            QuantityLots(0),
            AssetUnits(0),
        ),
        *(AssetUnits(0), TimeMs(1), TimeMs(1)),
    )


def found(
    orders: UnstoredOrders, order_id: int = 0, name: str = "", market: str = MARKET
) -> int | RejectReason:
    answer = orders.answer(OrderQuery(7, "test", BUYER, market, OrderId(order_id), name), TimeMs(9))
    assert (answer.request_id, answer.time) == (7, 9)
    return answer.order.order_id if isinstance(answer, OrderReply) else answer.reason


def test_only_so_many_are_left_for_a_question_to_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine_worker.unstored_orders._UNINDEXED_MAX", 3)
    orders = UnstoredOrders(6)
    for number in range(1, 10):
        orders.add([closed(number, f"c{number}")])
        assert len(orders._unindexed) <= 3
    assert [found(orders, each) for each in range(4, 10)] == list(range(4, 10))
    assert found(orders, 3) is RejectReason.ORDER_NOT_REMEMBERED
    assert (len(orders), orders.lost) == (6, 3)
    orders.look(at(1), at(1))
    orders.drop_stored()
    assert not orders._count
    assert not orders._orders
    assert not orders._newest


def at(number: int) -> StreamId:
    return StreamId(number)


def test_an_order_is_found_by_number_and_the_newest_by_its_client_order_id() -> None:
    orders = UnstoredOrders(10)
    orders.add([closed(100, "a"), closed(200, "b")])
    orders.add([closed(300, "a"), closed(400, "a", "ETHUSDT")])
    assert [found(orders, each) for each in (100, 200, 300)] == [100, 200, 300]
    assert found(orders, name="a") == 300
    assert found(orders, name="a", market="ETHUSDT") == 400
    assert found(orders, 100, "a") == 100
    for wrong in (found(orders, 100, "b"), found(orders, 100, market="ETHUSDT"), found(orders, 500)):
        assert wrong is RejectReason.UNKNOWN_ORDER


def test_an_order_is_kept_until_the_database_has_its_events() -> None:
    orders = UnstoredOrders(10)
    orders.add([closed(100, "a")])
    orders.look(at(1), STREAM_START)
    orders.add([closed(200, "a"), closed(100, "a")])  # one of them again, at a start
    orders.drop_stored()
    assert [found(orders, each) for each in (100, 200)] == [100, 200]
    orders.look(at(5), at(1))
    orders.drop_stored()
    assert found(orders, 100) is RejectReason.UNKNOWN_ORDER
    assert found(orders, name="a") == 200
    orders.look(at(6), at(4))
    orders.drop_stored()
    assert found(orders, 200) == 200, "it may be in entry 5"
    orders.look(at(6), at(5))
    orders.drop_stored()
    assert found(orders, name="a") is RejectReason.UNKNOWN_ORDER


def test_while_the_database_lacks_what_did_not_fit_nothing_is_said_not_to_exist() -> None:
    orders = UnstoredOrders(2)
    for number in (1, 2, 3, 4):
        orders.add([closed(number * 100, f"c{number}")])
        if number != 3:
            orders.look(at(number), STREAM_START)
    assert (len(orders), orders.lost) == (2, 2)
    assert [found(orders, each) for each in (300, 400)] == [300, 400]
    for order_id in (100, 200, 987_600):
        assert found(orders, order_id) is RejectReason.ORDER_NOT_REMEMBERED
    orders.look(at(4), at(1))
    orders.drop_stored()
    assert found(orders, 200) is RejectReason.ORDER_NOT_REMEMBERED
    orders.look(at(4), at(2))
    orders.drop_stored()
    assert found(orders, 200) is RejectReason.UNKNOWN_ORDER
    assert found(orders, 300) == 300


def test_what_does_not_fit_between_two_looks_is_not_denied_either() -> None:
    orders = UnstoredOrders(1)
    orders.look(at(1), at(1))
    orders.add([closed(100, "a"), closed(200, "b")])
    assert found(orders, 100) is RejectReason.ORDER_NOT_REMEMBERED
    orders.look(at(3), at(2))
    assert found(orders, 100) is RejectReason.ORDER_NOT_REMEMBERED
    orders.look(at(3), at(3))
    assert found(orders, 100) is RejectReason.UNKNOWN_ORDER


def test_many_are_let_go_of_in_slices() -> None:
    orders = UnstoredOrders(100_000)
    orders.add([closed(number, f"c{number}") for number in range(1, 25_001)])
    orders.look(at(1), at(1))
    sizes = []
    for _ in range(3):
        orders.drop_stored()
        sizes.append(len(orders))
    assert sizes == [15_000, 5_000, 0]


@pytest.mark.parametrize("asked_at", [0, 1, 2, 3])
def test_whenever_somebody_asks_first_the_answers_are_the_same(asked_at: int) -> None:
    orders = UnstoredOrders(3)
    for number in (1, 2, 3, 4):
        if number > asked_at:
            found(orders, 987_600)
        orders.add([closed(number * 100, "a")])
        orders.look(at(number), STREAM_START)
    assert (len(orders), orders.lost) == (3, 1)
    assert found(orders, 100) is RejectReason.ORDER_NOT_REMEMBERED
    orders.look(at(4), at(2))
    orders.drop_stored()
    assert [found(orders, each) for each in (200, 300, 400)] == [RejectReason.UNKNOWN_ORDER, 300, 400]
    assert found(orders, name="a") == 400


class Exchange:
    """Workers of one shard on a log in memory, and a client."""

    def __init__(self, orders_max: int) -> None:
        self.now = 1_767_225_600_000
        self.log = MemoryStreamLog(self._tick)
        self.log.mark_passed(0, EventReader.PERSIST, STREAM_START)
        self.orders_max = orders_max
        self._numbers = itertools.count(1)
        self.worker = self.started()
        self.give(
            Deposit(next(self._numbers), "gateway", SELLER, "BTC", AssetUnits(10**15), "first"),
            Deposit(next(self._numbers), "gateway", BUYER, "USDT", AssetUnits(10**17), "first"),
        )

    def _tick(self) -> int:
        self.now += 1
        return self.now

    def standby(self) -> Worker:
        worker = Worker(
            self.log,
            0,
            Settings().market_map(),
            batch_entries_max=100,
            unstored_orders_max=self.orders_max,
            now_ms=lambda: self.now,
        )
        worker.join()
        return worker

    def started(self) -> Worker:
        worker = self.standby()
        worker.lead()
        return worker

    def give(self, *commands: Command) -> list[Reply]:
        self.log.append(streams.commands(0), {COMMANDS_FIELD: encode_frame(commands)})
        return self.heard()

    def heard(self) -> list[Reply]:
        said = len(self.log.published)
        while self.worker.step(0):
            pass
        return [reply for _, payload in self.log.published[said:] for reply in decode_replies(payload)]

    def order(self, account_id: AccountId, side: Side, name: str, quantity: int = 10) -> PlaceOrder:
        return PlaceOrder(
            *(next(self._numbers), "gateway", account_id, name, MARKET, side, OrderType.LIMIT),
            *(TimeInForce.GTC, PriceTicks(5_000_000), QuantityLots(quantity)),
        )

    def trade(self, name: str) -> OrderState:
        """Return an order that was acknowledged as filled."""
        self.give(self.order(SELLER, Side.SELL, f"offer-{name}"))
        [reply] = self.give(self.order(BUYER, Side.BUY, name))
        assert isinstance(reply, OrderReply)
        assert reply.order.status is OrderStatus.FILLED
        return reply.order

    def ask(self, order_id: int = 0, name: str = "") -> Reply:
        query = OrderQuery(next(self._numbers), "gateway", BUYER, MARKET, OrderId(order_id), name)
        self.log.append(streams.queries(0), {QUERIES_FIELD: encode_frame([query])})
        [reply] = self.heard()
        return reply

    def find(self, order: OrderState) -> list[OrderState | RejectReason]:
        return [
            reply.order if isinstance(reply, OrderReply) else reply.reason
            for reply in (self.ask(order.order_id), self.ask(name=order.client_order_id))
            if isinstance(reply, OrderReply | Refused)
        ]

    def store(self, up_to: StreamId) -> None:
        """Let the ingest say that the database has the events up to there, and the worker ask."""
        self.log.mark_passed(0, EventReader.PERSIST, up_to)
        self.now += 1_000
        self.heard()


@pytest.fixture
def exchange() -> Exchange:
    return Exchange(orders_max=1_000)


def test_a_filled_order_is_found_while_the_ingest_stands_however_many_follow(exchange: Exchange) -> None:
    first = exchange.trade("mine")
    for number in range(450):
        exchange.trade(f"later-{number}")
    assert exchange.find(first) == [first, first]
    exchange.store(exchange.log.position(0).stream_id)
    assert exchange.find(first) == [RejectReason.UNKNOWN_ORDER] * 2, "from now on the database has it"


def test_the_worker_asks_once_a_second_what_is_stored(exchange: Exchange) -> None:
    order = exchange.trade("mine")
    exchange.now += 1_000
    exchange.heard()
    exchange.log.mark_passed(0, EventReader.PERSIST, exchange.log.position(0).stream_id)
    assert exchange.find(order) == [order, order]
    exchange.now += 1_000
    assert exchange.find(order) == [RejectReason.UNKNOWN_ORDER] * 2


def test_a_worker_that_starts_has_what_the_database_has_not(exchange: Exchange) -> None:
    stored = exchange.trade("stored")
    exchange.store(exchange.log.position(0).stream_id)
    before = exchange.trade("before the snapshot")
    exchange.log.save_snapshot(
        0,
        encode_snapshot(exchange.worker.shard, exchange.worker.position.stream_id),
        exchange.worker.position.stream_id,
    )
    after = exchange.trade("after it")
    exchange.worker = exchange.started()
    assert exchange.find(before) == [before, before]
    assert exchange.find(after) == [after, after]
    assert exchange.find(stored) == [RejectReason.UNKNOWN_ORDER] * 2


def test_a_standby_has_it_when_it_takes_over(exchange: Exchange) -> None:
    standby = exchange.standby()
    order = exchange.trade("mine")
    standby.follow()
    last = exchange.trade("last")
    standby.lead()
    exchange.worker = standby
    assert exchange.find(order) == [order, order]
    assert exchange.find(last) == [last, last]


@pytest.mark.parametrize("restarts", [False, True])
def test_what_does_not_fit_is_unknown_and_never_denied(restarts: bool) -> None:
    exchange = Exchange(orders_max=20)
    first = exchange.trade("mine")
    stored_later = exchange.log.position(0).stream_id
    for number in range(30):
        exchange.trade(f"later-{number}")
    last = exchange.trade("last")
    if restarts:
        exchange.worker = exchange.started()
    assert exchange.find(first) == [RejectReason.ORDER_NOT_REMEMBERED] * 2
    assert exchange.find(last) == [last, last]
    exchange.store(stored_later)
    assert exchange.find(first) == [RejectReason.ORDER_NOT_REMEMBERED] * 2, "others are still missing"
    exchange.store(exchange.log.position(0).stream_id)
    assert exchange.find(first) == [RejectReason.UNKNOWN_ORDER] * 2
