"""A transfer happens once: per account, kind and id, for as long as the shard remembers it."""

import pytest

from engine_worker.core.replies import DROPS_PER_COMMAND
from engine_worker.core.shard import Shard
from engine_worker.core.snapshot import decode_snapshot, encode_snapshot, state_hash
from protocol.commands import Deposit, Tick, Withdraw
from protocol.orders import Balance, RejectReason
from protocol.replies import FundsReply, Refused, Reply
from protocol.stream_id import STREAM_START
from protocol.units import AccountId, AssetUnits, TimeMs
from protocol.windows import Windows
from tests.support.market_log import market_map

WINDOWS = Windows(transfer_ms=1_000)
ANN, BOB = AccountId(1), AccountId(2)


@pytest.fixture
def shard() -> Shard:
    return Shard(0, market_map(), WINDOWS)


def move(
    shard: Shard,
    kind: type[Deposit] | type[Withdraw],
    transfer_id: str,
    amount: int,
    *,
    time: int = 1,
    asset: str = "USDT",
    account_id: AccountId = ANN,
) -> Reply:
    shard.apply(kind(0, "test", account_id, asset, AssetUnits(amount), transfer_id), TimeMs(time))
    [(_, reply)] = shard.take().replies
    return reply


def has(reply: Reply, available: int) -> bool:
    return isinstance(reply, FundsReply) and reply.balances == (
        Balance("USDT", AssetUnits(available), AssetUnits(0)),
    )


def is_reused(reply: Reply) -> bool:
    return isinstance(reply, Refused) and reply.reason is RejectReason.TRANSFER_ID_REUSED


def test_an_equal_repeat_changes_nothing_and_succeeds(shard: Shard) -> None:
    assert has(move(shard, Deposit, "a", 100), 100)
    assert has(move(shard, Deposit, "a", 100, time=1_001), 100)
    assert has(move(shard, Withdraw, "w", 30, time=1_001), 70)
    assert has(move(shard, Withdraw, "w", 30, time=1_001), 70)


def test_deposits_and_withdrawals_have_ids_of_their_own(shard: Shard) -> None:
    """Once the withdrawal was answered as done, and nothing moved."""
    move(shard, Deposit, "a", 1_000)
    assert has(move(shard, Withdraw, "a", 400), 600)


def test_so_have_accounts(shard: Shard) -> None:
    move(shard, Deposit, "a", 1_000)
    assert has(move(shard, Deposit, "a", 7, account_id=BOB), 7)


def test_a_repeat_that_asks_for_something_else_is_refused(shard: Shard) -> None:
    move(shard, Deposit, "a", 1_000)
    assert is_reused(move(shard, Deposit, "a", 999))
    assert is_reused(move(shard, Deposit, "a", 1_000, asset="BTC"))
    assert is_reused(move(shard, Deposit, "a", -5))
    assert has(move(shard, Deposit, "a", 1_000), 1_000)


def test_a_refused_transfer_may_come_again(shard: Shard) -> None:
    assert isinstance(move(shard, Withdraw, "w", 30), Refused)
    move(shard, Deposit, "a", 100)
    assert has(move(shard, Withdraw, "w", 40), 60)


def test_ids_are_forgotten_after_their_window(shard: Shard) -> None:
    move(shard, Deposit, "a", 100, time=10)
    assert is_reused(move(shard, Deposit, "a", 1, time=1_010))
    assert has(move(shard, Deposit, "a", 1, time=1_011), 101)
    assert is_reused(move(shard, Deposit, "a", 100, time=1_012))


def test_forgetting_takes_a_bounded_number_per_command_and_shows_nowhere(shard: Shard) -> None:
    count = 3 * DROPS_PER_COMMAND
    for number in range(count):
        move(shard, Deposit, f"{number}", 1, time=1)
    restored, _ = decode_snapshot(encode_snapshot(shard, STREAM_START))
    assert len(restored.state.transfers) == count
    shard.apply(Tick(), TimeMs(1_002))
    assert len(shard.state.transfers) == count - DROPS_PER_COMMAND
    restored.apply(Tick(), TimeMs(1_002))
    again, _ = decode_snapshot(encode_snapshot(shard, STREAM_START))
    assert len(again.state.transfers) == 0
    assert state_hash(again) == state_hash(shard) == state_hash(restored)
