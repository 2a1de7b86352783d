"""The house takes its fees out, and accounts that have nothing any more are closed."""

import msgspec
import pytest

from engine_worker.core.shard import Shard
from engine_worker.core.snapshot import decode_snapshot, encode_snapshot, state_hash
from protocol.commands import (
    CancelOrder,
    CloseAccount,
    Deposit,
    LoggedCommand,
    PlaceOrder,
    Withdraw,
    WithdrawFees,
)
from protocol.events import AccountClosed, Event, FeesWithdrawn
from protocol.market import MarketMap
from protocol.orders import Balance, OrderType, RejectReason, Side, TimeInForce
from protocol.replies import FundsReply, Refused, Reply
from protocol.stream_id import STREAM_START
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots, TimeMs
from protocol.windows import Windows
from tests.properties.markets import MARKETS

WINDOWS = Windows(request_ms=100, key_ms=200)
ANN, BOB = AccountId(1), AccountId(2)
FEE = 17
"""Of 500 PLUM, a thirtieth, rounded up."""


class House:
    """One shard and what it said."""

    def __init__(self) -> None:
        self.shard = Shard(0, MarketMap.of(MARKETS, 1), WINDOWS)
        self.time = TimeMs(1)
        self.events: list[Event] = []

    def ask(self, command: LoggedCommand) -> Reply:
        self.shard.apply(command, self.time)
        output = self.shard.take()
        self.shard.check_invariants()
        self.events += output.events
        [(_, reply)] = output.replies
        return reply

    def deposit(self, account_id: AccountId, asset: str, amount: int, transfer_id: str = "d") -> Reply:
        return self.ask(Deposit(0, "test", account_id, asset, AssetUnits(amount), f"{transfer_id} {asset}"))

    def withdraw(self, account_id: AccountId, asset: str, amount: int, transfer_id: str = "w") -> Reply:
        return self.ask(Withdraw(0, "test", account_id, asset, AssetUnits(amount), f"{transfer_id} {asset}"))

    def place(self, account_id: AccountId, side: Side, name: str, key: str = "") -> Reply:
        order = PlaceOrder(
            *(0, "test", account_id, name, "FIGPLUM"),
            *(side, OrderType.LIMIT, TimeInForce.GTC, PriceTicks(5), QuantityLots(10)),
        )
        return self.ask(msgspec.structs.replace(order, idempotency_key=key))

    def trade(self) -> None:
        """Ann buys from Bob, who pays the taker's fee in PLUM."""
        self.deposit(ANN, "PLUM", 500)
        self.deposit(BOB, "FIG", 1_000)
        self.place(ANN, Side.BUY, "buy")
        self.place(BOB, Side.SELL, "sell")

    def take_fees(self, amount: int, transfer_id: str = "f", asset: str = "PLUM") -> Reply:
        return self.ask(WithdrawFees(0, "test", 0, asset, AssetUnits(amount), transfer_id))

    def close(self, account_id: AccountId) -> Reply:
        return self.ask(CloseAccount(0, "test", account_id))


def reason_of(reply: Reply) -> RejectReason | None:
    return reply.reason if isinstance(reply, Refused) else None


@pytest.fixture
def house() -> House:
    return House()


def test_fees_leave_once_and_no_more_than_there_are(house: House) -> None:
    house.trade()
    assert house.shard.state.totals["PLUM"].fees == FEE
    assert reason_of(house.take_fees(FEE + 1)) is RejectReason.INSUFFICIENT_BALANCE
    assert reason_of(house.take_fees(0)) is RejectReason.AMOUNT_OUT_OF_RANGE
    assert reason_of(house.take_fees(1, asset="NONE")) is RejectReason.UNKNOWN_ASSET
    for _ in range(2):
        reply = house.take_fees(7)
        assert isinstance(reply, FundsReply)
        assert reply.balances == (Balance("PLUM", AssetUnits(FEE - 7), AssetUnits(0)),)
    assert reason_of(house.take_fees(8)) is RejectReason.TRANSFER_ID_REUSED
    assert [event for event in house.events if isinstance(event, FeesWithdrawn)] == [
        FeesWithdrawn(house.time, "PLUM", AssetUnits(7), "f")
    ]
    totals = house.shard.state.totals["PLUM"]
    assert (totals.fees, totals.withdrawn) == (FEE - 7, 7)


def test_an_account_is_closed_when_nothing_of_it_is_left(house: House) -> None:
    house.trade()
    assert reason_of(house.close(ANN)) is RejectReason.ACCOUNT_IN_USE, "it has FIG"
    assert reason_of(house.close(BOB)) is RejectReason.ACCOUNT_IN_USE, "it has PLUM"
    balance = house.shard.state.accounts[BOB].funds["PLUM"].available
    house.withdraw(BOB, "PLUM", balance)
    assert isinstance(house.close(BOB), FundsReply)
    assert list(house.shard.state.accounts) == [ANN]
    assert house.events[-1] == AccountClosed(house.time, BOB)
    assert isinstance(house.close(BOB), FundsReply), "once more changes nothing"
    assert house.events[-1] == AccountClosed(house.time, BOB)
    assert [type(event) for event in house.events].count(AccountClosed) == 1
    assert isinstance(house.withdraw(BOB, "PLUM", balance), FundsReply), "an equal repeat still succeeds"
    assert list(house.shard.state.accounts) == [ANN]
    house.deposit(BOB, "FIG", 5, "again")
    assert list(house.shard.state.accounts) == [ANN, BOB]


def test_an_account_with_an_open_order_is_not_closed(house: House) -> None:
    house.deposit(ANN, "PLUM", 500)
    house.place(ANN, Side.BUY, "all of it")
    assert reason_of(house.close(ANN)) is RejectReason.ACCOUNT_IN_USE
    house.ask(CancelOrder(0, "test", ANN, "FIGPLUM", OrderId(0), "all of it"))
    house.withdraw(ANN, "PLUM", 500)
    assert isinstance(house.close(ANN), FundsReply)


def test_an_account_whose_keys_are_remembered_is_not_closed(house: House) -> None:
    """Otherwise a repetition of a request would find no outcome, and happen again."""
    house.place(ANN, Side.BUY, "refused, which is an outcome", key="k")
    for house.time in (TimeMs(2), TimeMs(1 + WINDOWS.key_ms)):
        assert reason_of(house.close(ANN)) is RejectReason.ACCOUNT_IN_USE
    restored = decode_snapshot(encode_snapshot(house.shard, STREAM_START))[0]
    house.time = TimeMs(2 + WINDOWS.key_ms)
    assert isinstance(house.close(ANN), FundsReply)
    assert not house.shard.state.accounts
    house.shard, before = restored, house.shard
    house.close(ANN)
    assert state_hash(house.shard) == state_hash(before)
    house.time = TimeMs(10 * WINDOWS.key_ms)
    house.deposit(BOB, "FIG", 1)  # what there is to forget of a closed account


def test_what_is_empty_is_forgotten(house: House) -> None:
    house.trade()
    ann, bob = house.shard.state.accounts[ANN], house.shard.state.accounts[BOB]
    assert (list(ann.funds), list(bob.funds)) == (["FIG"], ["PLUM"])
    assert (ann.open_orders, bob.open_orders) == ({}, {})
    house.withdraw(ANN, "FIG", ann.funds["FIG"].available)
    assert ann.funds == {}
    house.deposit(ANN, "PLUM", 500, "again")
    house.place(ANN, Side.BUY, "to be canceled")
    assert list(ann.funds) == ["PLUM"], "all of it is held"
    house.ask(CancelOrder(0, "test", ANN, "FIGPLUM", OrderId(0), "to be canceled"))
    assert ann.open_orders == {}
    assert ann.balance("KIWI") == Balance("KIWI", AssetUnits(0), AssetUnits(0))
    assert list(ann.funds) == ["PLUM"], "looking changes nothing"
