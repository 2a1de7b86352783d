"""Matches that self-trade prevention does not let happen are numbered, told and remembered (faqs/stp_faq.md,
scenarios B to F)."""

import pytest

from engine_worker.core.shard import Shard
from engine_worker.core.snapshot import decode_snapshot, encode_snapshot
from protocol.commands import Deposit, PlaceOrder
from protocol.events import Event, MatchPrevented, OrderAccepted, OrderClosed
from protocol.orders import (
    OrderStatus,
    OrderTerms,
    OrderType,
    RejectReason,
    SelfTradePrevention,
    Side,
    TimeInForce,
)
from protocol.replies import OrderReply, Refused
from protocol.stream_id import StreamId
from protocol.units import AccountId, AssetUnits, PriceTicks, QuantityLots, TimeMs
from runtime.settings import Settings

ALICE = AccountId(1)
NONE, TAKER = SelfTradePrevention.NONE, SelfTradePrevention.EXPIRE_TAKER
MAKER, BOTH = SelfTradePrevention.EXPIRE_MAKER, SelfTradePrevention.EXPIRE_BOTH


class Exchange:
    def __init__(self) -> None:
        self.shard = Shard(0, Settings().market_map())
        for asset in ("BTC", "USDT"):
            self.shard.apply(Deposit(0, "", ALICE, asset, AssetUnits(10**15), asset), TimeMs(1))
        self.shard.take()

    def place(
        self,
        side: Side,
        lots: int,
        price: int,
        mode: SelfTradePrevention = NONE,
        terms: OrderTerms | None = None,
    ) -> tuple[OrderReply | Refused, list[Event]]:
        number = self.shard.state.command_count
        command = PlaceOrder(
            number, "me", ALICE, f"o{number}", "BTCUSDT", side, OrderType.LIMIT, TimeInForce.GTC,
            PriceTicks(price),
            QuantityLots(lots), self_trade_prevention=mode, terms=terms,
        )  # fmt: skip
        self.shard.apply(command, TimeMs(5))
        output = self.shard.take()
        ((_, reply),) = output.replies
        assert isinstance(reply, OrderReply | Refused)
        return reply, output.events


@pytest.fixture
def exchange() -> Exchange:
    made = Exchange()
    for lots, price in ((120_000, 12_000), (130_000, 11_000)):
        made.place(Side.BUY, lots, price)
    return made


def prevented(events: list[Event]) -> list[tuple[int, int, int, int, int, SelfTradePrevention]]:
    return [
        (each.match_id, each.maker_order_id, each.price, each.maker_quantity, each.taker_quantity, each.mode)
        for each in events
        if isinstance(each, MatchPrevented)
    ]


def closed(events: list[Event]) -> list[tuple[int, int, int, int, int]]:
    """Return order, counter order, match, what was taken off it and what would have been traded, of each that
    prevention has closed."""
    return [
        (each.order.order_id, each.counter_order_id, each.prevented.match_id,
            each.order.course.prevented_quantity, each.prevented.quantity)
        for each in events
        if isinstance(each, OrderClosed) and each.prevented is not None and each.order.course is not None
    ]  # fmt: skip


def test_makers_give_way(exchange: Exchange) -> None:
    reply, events = exchange.place(Side.SELL, 300_000, 10_000, MAKER)
    assert isinstance(reply, OrderReply)
    assert reply.order.status is OrderStatus.NEW
    assert prevented(events) == [(1, 100, 12_000, 120_000, 0, MAKER), (2, 200, 11_000, 130_000, 0, MAKER)]
    assert closed(events) == [(100, 300, 1, 120_000, 120_000), (200, 300, 2, 130_000, 130_000)]
    assert [(each.match_id, each.maker_quantity, each.taker_quantity) for each in reply.prevented] == [
        (1, 120_000, 0),
        (2, 130_000, 0),
    ]


def test_the_taker_gives_way(exchange: Exchange) -> None:
    reply, events = exchange.place(Side.SELL, 300_000, 10_000, TAKER)
    assert isinstance(reply, OrderReply)
    assert reply.order.status is OrderStatus.EXPIRED_IN_MATCH
    assert prevented(events) == [(1, 100, 12_000, 0, 300_000, TAKER)]
    assert closed(events) == [(300, 100, 1, 300_000, 120_000)]


def test_both_give_way(exchange: Exchange) -> None:
    _, events = exchange.place(Side.SELL, 300_000, 10_000, BOTH)
    assert prevented(events) == [(1, 100, 12_000, 120_000, 300_000, BOTH)]
    assert closed(events) == [(300, 100, 1, 300_000, 120_000), (100, 300, 1, 120_000, 120_000)]


def test_numbers_go_on_after_a_restore(exchange: Exchange) -> None:
    exchange.place(Side.SELL, 100_000, 10_000, TAKER)
    before = exchange.shard.digest()
    exchange.shard, _ = decode_snapshot(encode_snapshot(exchange.shard, StreamId(5)))
    assert exchange.shard.digest() == before
    _, events = exchange.place(Side.SELL, 100_000, 10_000, TAKER)
    assert [number for number, *_ in prevented(events)] == [2]


def test_a_strategy_stays_with_its_order(exchange: Exchange) -> None:
    strategy = OrderTerms(strategy_id=7, strategy_type=1_000_000)
    reply, events = exchange.place(Side.SELL, 300_000, 10_000, BOTH, strategy)
    assert isinstance(reply, OrderReply)
    states = [each.order for each in events if isinstance(each, OrderAccepted | OrderClosed)]
    assert [order.terms for order in states if order.order_id == reply.order.order_id] == [strategy, strategy]
    reply, _ = exchange.place(Side.SELL, 100_000, 12_500, NONE, strategy)
    exchange.shard, _ = decode_snapshot(encode_snapshot(exchange.shard, StreamId(5)))
    (order,) = (
        each for each in exchange.shard.state.accounts[ALICE].open_orders["BTCUSDT"].values() if each.terms
    )
    assert order.terms == strategy


@pytest.mark.parametrize(
    "terms",
    [OrderTerms(), OrderTerms(stop_price=PriceTicks(5)), OrderTerms(strategy_id=1, trailing_delta_bips=5)],
)
def test_other_terms_are_refused(exchange: Exchange, terms: OrderTerms) -> None:
    reply, _ = exchange.place(Side.SELL, 100_000, 12_500, NONE, terms)
    assert isinstance(reply, Refused)
    assert reply.reason is RejectReason.INVALID_COMBINATION
