"""What a shard may have sent to a market's shard that does not answer: so many orders, and then none until it
does."""

import msgspec
import pytest

from protocol.commands import CancelOrder, Deposit, PlaceOrder
from protocol.configuration import ShardConfig
from protocol.orders import OrderStatus, OrderType, RejectReason, Side, TimeInForce
from protocol.replies import OrderReply, Refused, Reply
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots
from tests.oracle.driver import Engine, Produced
from tests.properties.markets import MARKETS, market_map

SHARD_COUNT = 3
MOST = 2
SYMBOL = "FIGPLUM"


class Exchange:
    """An account whose markets are on its own shard, or on another one that answers only when it is let."""

    def __init__(self) -> None:
        self.engine = Engine(market_map(SHARD_COUNT))
        for shard in self.engine.shards:
            shard.configuration.set_config(ShardConfig(in_flight_max=MOST))
        self.market_shard = self.engine.market_map.shard_of_market(SYMBOL)
        self.far = self.account_on((self.market_shard + 1) % SHARD_COUNT)
        self.near = self.account_on(self.market_shard)
        self.now = 1
        for account_id in (self.far, self.near):
            for asset in ("FIG", "PLUM", "KIWI"):
                deposit = Deposit(0, "", account_id, asset, AssetUnits(90_000), f"start-{account_id}-{asset}")
                self.engine.apply(deposit, self.now)

    def account_on(self, shard: int) -> AccountId:
        slots = self.engine.market_map.shard_of_account
        return next(AccountId(each) for each in range(1, 100) if slots(AccountId(each)) == shard)

    def ask(self, command: PlaceOrder | CancelOrder) -> list[Reply]:
        """Give a command and deliver nothing."""
        produced = Produced()
        self.engine.submit(command, self.now, produced)
        return [reply for _, reply in produced.replies]

    def answer(self) -> list[Reply]:
        """Let all mail arrive."""
        produced = Produced()
        while self.engine.mail:
            self.engine.deliver(min(self.engine.mail), self.now, produced)
        return [reply for _, reply in produced.replies]


@pytest.fixture
def exchange() -> Exchange:
    return Exchange()


def order(number: int, account_id: AccountId, symbol: str = SYMBOL, key: str = "") -> PlaceOrder:
    return PlaceOrder(
        *(number, "gateway", account_id, f"c{number}", symbol),
        *(Side.BUY, OrderType.LIMIT, TimeInForce.GTC, PriceTicks(5), QuantityLots(20)),
        idempotency_key=key,
    )


def refused(request_id: int) -> Refused:
    return Refused(request_id, 1, RejectReason.MARKET_BEHIND)  # type: ignore[arg-type]  # to name the unit says nothing here


def test_beyond_its_credit_a_shard_refuses_at_once_and_holds_nothing(exchange: Exchange) -> None:
    far = exchange.far
    assert exchange.ask(order(1, far)) == exchange.ask(order(2, far)) == []
    held = exchange.engine.balances(far)
    assert exchange.ask(order(3, far)) == [refused(3)]
    assert exchange.engine.balances(far) == held
    assert (
        len(exchange.engine.mail[exchange.engine.market_map.shard_of_account(far), exchange.market_shard])
        == MOST
    )
    exchange.engine.check_invariants()


def test_each_answer_makes_room_for_one(exchange: Exchange) -> None:
    far = exchange.far
    exchange.ask(order(1, far))
    answers = exchange.answer()
    assert [reply.order.status for reply in answers if isinstance(reply, OrderReply)] == [OrderStatus.NEW]
    assert exchange.ask(order(2, far)) == exchange.ask(order(3, far)) == []
    assert exchange.ask(order(4, far)) == [refused(4)]


def test_a_refusal_by_the_market_is_an_answer_too(exchange: Exchange) -> None:
    far = exchange.far
    crossing = msgspec.structs.replace(order(1, far), side=Side.SELL)
    exchange.engine.apply(order(10, exchange.near), exchange.now)
    maker = msgspec.structs.replace(crossing, order_type=OrderType.LIMIT_MAKER)
    for number in range(1, 2 * MOST + 1):
        again = msgspec.structs.replace(maker, request_id=number, client_order_id=f"m{number}")
        assert exchange.ask(again) == []
        assert exchange.answer() == [Refused(number, 1, RejectReason.WOULD_MATCH_IMMEDIATELY)]  # type: ignore[arg-type]


def test_it_counts_for_each_market_shard_alone(exchange: Exchange) -> None:
    far, engine = exchange.far, exchange.engine
    exchange.ask(order(1, far))
    exchange.ask(order(2, far))
    own_shard = engine.market_map.shard_of_account(far)
    others = [
        market.symbol
        for market in MARKETS
        if engine.market_map.shard_of_market(market.symbol) != exchange.market_shard
    ]
    assert {engine.market_map.shard_of_market(symbol) for symbol in others} > {own_shard}, "one near, one far"
    for number, symbol in enumerate(others, 3):
        assert refused(number) not in exchange.ask(order(number, far, symbol))


def test_its_own_markets_need_no_credit(exchange: Exchange) -> None:
    for number in range(1, MOST + 2):
        [reply] = exchange.ask(order(number, exchange.near))
        assert isinstance(reply, OrderReply)


def test_cancels_need_no_credit(exchange: Exchange) -> None:
    far = exchange.far
    exchange.ask(order(1, far))
    exchange.answer()
    exchange.ask(order(2, far))
    exchange.ask(order(3, far))
    assert exchange.ask(CancelOrder(4, "gateway", far, SYMBOL, OrderId(0), "c1")) == []
    answered = {reply.request_id for reply in exchange.answer()}
    assert answered == {2, 3, 4}


def test_what_was_refused_so_may_be_asked_again_with_its_idempotency_key(exchange: Exchange) -> None:
    far = exchange.far
    exchange.ask(order(1, far))
    exchange.ask(order(2, far))
    assert exchange.ask(order(3, far, key="once")) == [refused(3)]
    exchange.answer()
    again = msgspec.structs.replace(order(3, far, key="once"), request_id=4)
    assert exchange.ask(again) == []
    [reply] = exchange.answer()
    assert isinstance(reply, OrderReply)
    assert reply.order.status is OrderStatus.NEW


def test_what_is_on_its_way_still_counts_after_a_restart(exchange: Exchange) -> None:
    far = exchange.far
    exchange.ask(order(1, far))
    exchange.ask(order(2, far))
    exchange.engine.restart()
    assert exchange.ask(order(3, far)) == [refused(3)]
    exchange.answer()
    assert exchange.ask(order(4, far)) == []
    exchange.engine.check_invariants()


def test_without_a_number_nothing_is_refused(exchange: Exchange) -> None:
    for shard in exchange.engine.shards:
        shard.configuration.set_config(ShardConfig())
    assert all(not exchange.ask(order(number, exchange.far)) for number in range(1, 5)), (
        "its markets let it have four"
    )
