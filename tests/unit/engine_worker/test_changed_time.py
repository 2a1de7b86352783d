"""When an account changed last, as GET /api/v3/account says it (`updateTime`)."""

import pytest

from engine_worker.core.shard import Shard
from engine_worker.core.snapshot import decode_snapshot, encode_snapshot
from protocol.commands import CancelOrder, Command, Deposit, PlaceOrder
from protocol.orders import OrderType, Side, TimeInForce
from protocol.replies import BalancesQuery, FundsReply
from protocol.stream_id import StreamId
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots, TimeMs
from runtime.settings import Settings

ALICE, BOB, NOBODY = AccountId(1), AccountId(2), AccountId(3)


class Exchange:
    """A shard and a clock."""

    def __init__(self) -> None:
        self.shard = Shard(0, Settings().market_map())
        self.time = 0

    def do(self, command: Command) -> int:
        """Apply a command at a time of its own, and return that."""
        self.time += 100
        self.shard.apply(command, TimeMs(self.time))
        self.shard.take()
        return self.time

    def order(self, account_id: AccountId, side: Side, name: str, price: int = 3_000_000) -> int:
        return self.do(
            PlaceOrder(
                self.time, "", account_id, name, "BTCUSDT", side, OrderType.LIMIT, TimeInForce.GTC,
                    PriceTicks(price), QuantityLots(1000)
            )
        )  # fmt: skip

    def told(self, account_id: AccountId) -> int:
        _, reply = self.shard.answer(BalancesQuery(1, "", account_id), TimeMs(self.time + 50))
        assert isinstance(reply, FundsReply)
        return reply.time


@pytest.fixture
def exchange() -> Exchange:
    made = Exchange()
    for account_id, asset in ((ALICE, "USDT"), (BOB, "BTC")):
        made.do(Deposit(0, "", account_id, asset, AssetUnits(10**12), asset))
    return made


def test_what_moves_funds_counts_and_asking_does_not(exchange: Exchange) -> None:
    bob_deposited = exchange.time
    assert exchange.told(ALICE) == exchange.told(ALICE) == bob_deposited - 100
    held = exchange.order(ALICE, Side.BUY, "a")
    assert (exchange.told(ALICE), exchange.told(BOB)) == (held, bob_deposited)
    canceled = exchange.do(CancelOrder(0, "", ALICE, "BTCUSDT", OrderId(0), "a", "c"))
    assert exchange.told(ALICE) == canceled
    exchange.order(ALICE, Side.BUY, "b")
    traded = exchange.order(BOB, Side.SELL, "c")
    assert (exchange.told(ALICE), exchange.told(BOB)) == (traded, traded)
    exchange.order(BOB, Side.BUY, "refused: Bob has spent nothing that he has", price=10**8)
    assert exchange.told(ALICE) == traded
    assert exchange.told(NOBODY) == 0


def test_after_a_restore_it_is_the_same(exchange: Exchange) -> None:
    changed = exchange.told(ALICE)
    assert changed < exchange.time
    exchange.shard, _ = decode_snapshot(encode_snapshot(exchange.shard, StreamId(5)))
    assert exchange.told(ALICE) == changed
    later = exchange.order(ALICE, Side.BUY, "a")
    assert exchange.told(ALICE) == later


def test_a_snapshot_of_before_it_says_when_it_was_made(exchange: Exchange) -> None:
    for account in exchange.shard.state.accounts.values():
        account.changed_time = TimeMs(0)  # what a snapshot without the field is read as
    exchange.shard, _ = decode_snapshot(encode_snapshot(exchange.shard, StreamId(5)))
    assert exchange.told(ALICE) == exchange.time
