# mypy: disable-error-code="arg-type, union-attr, return-value, misc, no-any-return, unused-ignore"
# ruff: noqa: PT012 - plain numbers all through: it shares no types with what it checks
"""The engine against an oracle by somebody who has not read it.

And that such a comparison finds what is wrong.

Longer: `python -m tests.independent.compare --commands 1000000 --seed 1 --shards 3`.
"""

from typing import Any

import msgspec
import pytest

from engine_worker.core.shard import Shard
from protocol.commands import ConfigureMarket, ConfigureShard, Deposit, KnowMarket, PlaceOrder, Withdraw
from protocol.configuration import MarketConfig, ShardConfig
from protocol.market import Market
from protocol.orders import (
    CloseReason,
    OrderState,
    OrderStatus,
    OrderType,
    RejectReason,
    SelfTradePrevention,
    Side,
    TimeInForce,
)
from protocol.replies import OrderReply
from tests.independent.compare import Comparison, Difference, Engine, compare_many
from tests.independent.oracle import Order

TIME = 1_700_000_000_000


@pytest.mark.parametrize("shard_count", [1, 3])
def test_engine_and_oracle_say_the_same(shard_count: int) -> None:
    outcomes = compare_many(3_000, "suite", shard_count)
    assert outcomes["PlaceOrder done"] > 500
    assert len(outcomes) > 40


class FillsInPart(Shard):
    """FOK as IOC."""

    def apply(self, command: Any, time: Any) -> None:
        if isinstance(command, PlaceOrder) and command.time_in_force is TimeInForce.FOK:
            command = msgspec.structs.replace(command, time_in_force=TimeInForce.IOC)
        super().apply(command, time)


class TradesWithItself(Shard):
    """Nothing prevents a trade of an account with itself."""

    def apply(self, command: Any, time: Any) -> None:
        if isinstance(command, PlaceOrder):
            command = msgspec.structs.replace(command, self_trade_prevention=SelfTradePrevention.NONE)
        super().apply(command, time)


class TakesTwice(Shard):
    """A withdrawal that is repeated happens again."""

    number = 0

    def apply(self, command: Any, time: Any) -> None:
        if isinstance(command, Withdraw) and command.transfer_id:
            self.number += 1
            command = msgspec.structs.replace(command, transfer_id=f"{command.transfer_id} {self.number}")
        super().apply(command, time)


class TakesLess(Shard):
    """Takers pay a millionth less, and nobody is told."""

    def apply(self, command: Any, time: Any) -> None:
        if isinstance(command, ConfigureMarket | KnowMarket) and command.config.market.taker_fee_ppm:
            fee = command.config.market.taker_fee_ppm - 1
            market = msgspec.structs.replace(command.config.market, taker_fee_ppm=fee)
            command = msgspec.structs.replace(
                command, config=msgspec.structs.replace(command.config, market=market)
            )
        super().apply(command, time)


@pytest.mark.parametrize("wrong", [FillsInPart, TradesWithItself, TakesTwice, TakesLess])
def test_a_planted_fault_of_the_engine_is_found(wrong: type[Shard], monkeypatch: pytest.MonkeyPatch) -> None:
    def markets_differ_only_there(what: str, got: object, expected: object) -> None:
        if got != expected and not what.startswith("markets of"):
            raise Difference(what)

    monkeypatch.setattr("tests.independent.compare.same", markets_differ_only_there)
    with pytest.raises(Difference, match=r"replies|orders|balances|trades|audit"):
        for number in range(10):
            Comparison(f"planted/{number}", 1, wrong).run(400)


def test_a_fault_of_the_oracle_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def last_comes_first(self: Order, other: Order) -> bool:
        sign = -1 if self.command.side is Side.BUY else 1
        return (sign * self.command.price, -self.arrival) < (sign * other.command.price, -other.arrival)

    monkeypatch.setattr(Order, "__lt__", last_comes_first)
    with pytest.raises(Difference, match=r"trades|replies"):
        for number in range(10):
            Comparison(f"planted/{number}", 1).run(400)


# What the comparison has found


class Bench:
    """One shard with one market, in which a lot at a tick costs 100 units of B."""

    def __init__(self) -> None:
        self.engine = Engine(1)
        self.requests = 0
        market = Market(
            symbol="AB", base="A", quote="B", tick_size=10**8, lot_size=10**8, price_max=1_000,
            quantity_min=1,
            quantity_max=1_000, notional_min=10, band_up_ppm=5_000_000, band_down_ppm=200_000,
            maker_fee_ppm=0,
            taker_fee_ppm=0, base_scale=2, quote_scale=2,
        )  # fmt: skip
        self.do(ConfigureShard(1, "c", ShardConfig()))
        self.do(ConfigureMarket(2, "c", MarketConfig(market, 0)))

    def do(self, command: Any) -> Any:
        replies, _ = self.engine.apply(command, 0, TIME)
        return replies[0][1]

    def deposit(self, account_id: int, asset: str, amount: int) -> None:
        self.requests += 1
        self.do(Deposit(self.requests, "g", account_id, asset, amount, str(self.requests)))  # type: ignore[arg-type]

    def order(
        self, account_id: int, side: Side, price: int, quantity: int, quote_quantity: int = 0
    ) -> OrderState:
        """Place an order that is accepted, and return it."""
        reply = self.place(account_id, side, price, quantity, quote_quantity)
        assert isinstance(reply, OrderReply)
        return reply.order

    def place(self, account_id: int, side: Side, price: int, quantity: int, quote_quantity: int = 0) -> Any:
        """Place a LIMIT order, or a MARKET order by quote quantity; trades with oneself are let happen."""
        self.requests += 1
        order_type = OrderType.MARKET if quote_quantity else OrderType.LIMIT
        return self.do(
            PlaceOrder(
                self.requests,
                "g",
                account_id,
                str(self.requests),
                "AB",
                side,
                order_type,
                TimeInForce.IOC if quote_quantity else TimeInForce.GTC,
                price,
                quantity,
                quote_quantity,
                SelfTradePrevention.NONE,
            )
        )


def test_a_trade_with_oneself_of_all_there_is() -> None:
    """Decision 4: no balance can exceed 63 bits, and an order needs no check of its own."""
    bench = Bench()
    bench.deposit(1, "A", 100)
    bench.deposit(1, "B", 2**63 - 1)
    bench.order(1, Side.BUY, 1, 1)
    assert bench.order(1, Side.SELL, 1, 1).status is OrderStatus.FILLED


def test_a_sale_by_quote_quantity_that_runs_out_of_base_is_refused() -> None:
    """One lot is there, which brings 100; for 400 four would be needed."""
    bench = Bench()
    bench.deposit(1, "B", 10**6)
    bench.deposit(2, "A", 100)
    bench.order(1, Side.BUY, 100, 5)
    assert bench.place(2, Side.SELL, 90, 0, 40_000).reason is RejectReason.INSUFFICIENT_BALANCE
    assert bench.order(2, Side.SELL, 90, 0, 10_000).status is OrderStatus.FILLED


def test_a_purchase_by_quote_quantity_is_filled_when_the_rest_pays_no_lot_of_the_next_order() -> None:
    """A lot is offered at 102 next; what is left is 103 in the first case, then 101, and 99: less than the
    last lot, too."""
    for budget, traded in ((20_300, 2), (20_100, 1), (19_900, 1)):
        bench = Bench()
        bench.deposit(1, "A", 1_000)
        bench.deposit(2, "B", 10**6)
        bench.order(1, Side.SELL, 100, 1)
        bench.order(1, Side.SELL, 102, 1)
        bought = bench.order(2, Side.BUY, 110, 0, budget)
        assert (bought.status, bought.cum_quantity) == (OrderStatus.FILLED, traded)


def test_a_purchase_by_quote_quantity_expires_when_nobody_is_left() -> None:
    bench = Bench()
    bench.deposit(1, "A", 1_000)
    bench.deposit(2, "B", 10**6)
    bench.order(1, Side.SELL, 100, 1)
    assert bench.order(2, Side.BUY, 110, 0, 20_100).close_reason is CloseReason.INSUFFICIENT_LIQUIDITY


def test_an_order_by_quote_quantity_that_meets_too_little_is_refused() -> None:
    bench = Bench()
    bench.deposit(1, "A", 1_000)
    bench.deposit(2, "B", 10**6)
    assert bench.place(2, Side.BUY, 110, 0, 10_000).reason is RejectReason.EMPTY_BOOK
    bench.order(1, Side.SELL, 111, 1)
    assert bench.place(2, Side.BUY, 110, 0, 10_000).reason is RejectReason.EMPTY_BOOK
    bench.order(1, Side.SELL, 100, 1)
    assert bench.place(2, Side.BUY, 110, 0, 9_999).reason is RejectReason.THIN_BOOK
    assert bench.order(2, Side.BUY, 110, 0, 10_000).status is OrderStatus.FILLED
