"""What an audit asks of a shard: the books that it keeps, without a look at any account."""

from collections.abc import Iterator
from typing import Any

import pytest

from engine_worker.core.conservation import recount
from engine_worker.core.invariants import InvariantBroken
from engine_worker.core.shard import Shard
from engine_worker.core.snapshot import decode_snapshot, encode_snapshot
from protocol.commands import CancelOrder, Deposit, PlaceOrder
from protocol.market import MarketMap
from protocol.orders import OrderType, Side, TimeInForce
from protocol.replies import AuditQuery, AuditReply
from protocol.stream_id import STREAM_START
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots, TimeMs
from tests.properties.markets import MARKETS

BUYER, SELLER = AccountId(1), AccountId(2)


class CountedAccounts(dict[AccountId, Any]):
    """A shard's accounts, and how often one was looked at."""

    looked_at = 0

    def __getitem__(self, account_id: AccountId) -> Any:
        self.looked_at += 1
        return super().__getitem__(account_id)

    def get(self, account_id: AccountId, default: Any = None) -> Any:
        self.looked_at += 1
        return super().get(account_id, default)

    def _each(self, each: Any) -> Any:
        self.looked_at += 1
        return each

    def __iter__(self) -> Iterator[AccountId]:
        return map(self._each, super().__iter__())

    def values(self) -> Any:
        return map(self._each, super().values())

    def items(self) -> Any:
        return map(self._each, super().items())


def order(number: int, account: AccountId, side: Side, price: int, quantity: int) -> PlaceOrder:
    return PlaceOrder(
        number, "test", account, f"o{number}", "KIWIPLUM", side, OrderType.LIMIT, TimeInForce.GTC,
        PriceTicks(price),
        QuantityLots(quantity),
    )  # fmt: skip


@pytest.fixture
def shard() -> Shard:
    """A lot of KIWIPLUM is one of KIWI and costs 3 of PLUM per tick. The taker's fee is 2,500 millionths.

    The seller has sold 10 lots at 5 of the 40 that it offers. The buyer bids 4 for 20 more; another bid of it
    is canceled.
    """
    made = Shard(0, MarketMap.of(MARKETS, 1))
    for account in range(1, 101):
        for asset in ("KIWI", "PLUM"):
            made.apply(Deposit(0, "", AccountId(account), asset, AssetUnits(1_000), asset), TimeMs(1))
    for command in (
        order(1, SELLER, Side.SELL, 5, 40),
        order(2, BUYER, Side.BUY, 5, 10),
        order(3, BUYER, Side.BUY, 4, 20),
        order(4, BUYER, Side.BUY, 3, 9),
        CancelOrder(5, "test", BUYER, "KIWIPLUM", OrderId(0), "o4"),
    ):
        made.apply(command, TimeMs(2))
    made.take()
    return made


def audited(shard: Shard) -> AuditReply:
    _, reply = shard.answer(AuditQuery(9, "test"), TimeMs(3))
    assert isinstance(reply, AuditReply)
    return reply


def test_an_audit_looks_at_no_account(shard: Shard) -> None:
    shard.state.accounts = accounts = CountedAccounts(shard.state.accounts)
    audited(shard)
    assert accounts.looked_at == 0
    shard.check_invariants()
    assert accounts.looked_at >= 100, "the control: whoever adds up looks at all"


def test_the_books_are_what_the_accounts_have(shard: Shard) -> None:
    """30 KIWI and 20 x 4 x 3 = 240 PLUM are held.

    Of 10 KIWI a fortieth of one is the fee, rounded up to one.
    """
    restored, _ = decode_snapshot(encode_snapshot(shard, STREAM_START))
    for each in (shard, restored):
        reply = audited(each)
        assert reply.rows == (
            ("FIG", 0, 0, 0, 0, 0, 0),
            ("KIWI", 100_000 - 30 - 1, 30, 1, 100_000, 0, 0),
            ("PLUM", 100_000 - 240, 240, 0, 100_000, 0, 0),
        )
        assert list(reply.rows) == recount(each.state)
        assert reply.open_orders == 2


def test_accounts_that_have_something_else_are_found_where_there_is_time(shard: Shard) -> None:
    """As in the process that takes a snapshot: the books add up, and one account has more than they say."""
    shard.state.accounts[BUYER].funds["PLUM"].available += 1
    shard.check_money()
    with pytest.raises(InvariantBroken, match="PLUM"):
        shard.check_invariants()
    shard.state.accounts[BUYER].funds["PLUM"].available -= 1
    shard.state.totals["PLUM"].held += 1
    with pytest.raises(
        InvariantBroken, match="PLUM: the books say held 241 of 100000, the accounts have held 240"
    ):
        shard.check_invariants()
