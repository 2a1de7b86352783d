"""Snapshots of version e069486 are read, once and forwards. tests/golden has two that it wrote, and what it
said of its state."""

import itertools

import msgspec
import pytest

from engine_worker.core.shard import Shard
from engine_worker.core.snapshot import decode_snapshot, encode_snapshot, snapshot_format
from engine_worker.core.snapshot_2 import decode_snapshot_2, is_of_format_2
from engine_worker.worker import LogDamaged, Worker
from protocol.codec import encode_frame
from protocol.commands import Deposit, MatchOrder, TakerOutcome
from protocol.configuration import ShardConfig
from protocol.events import FundsReleased
from protocol.lease import Leader
from protocol.market import MarketMap
from protocol.orders import OrderStatus
from protocol.replies import OrderReply
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import commands
from protocol.units import AccountId, AssetUnits, TimeMs
from stream_log.interface import Commit
from stream_log.memory_log import MemoryStreamLog
from tests.support.snapshot_forms import MARKETS, SAID, WRITTEN, state_of

EVENTS = encode_frame([FundsReleased(TimeMs(1), AccountId(1), ())])
"""Whatever happened."""


@pytest.fixture(params=[0, 1])
def index(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def decoded(index: int) -> tuple[Shard, StreamId]:
    return decode_snapshot_2(WRITTEN[index], MARKETS, ShardConfig())


def test_all_that_counts_is_there(index: int) -> None:
    shard, stream_id = decoded(index)
    said = dict(SAID["shards"][index])
    assert str(stream_id) == said.pop("stream_id")
    assert state_of(shard) == said
    assert shard.state.time == stream_id.ms
    assert {each.market for each in shard.state.market_configs.values()} == set(MARKETS.markets)


def test_from_then_on_it_is_a_snapshot_like_any_other(index: int) -> None:
    shard, stream_id = decoded(index)
    again, _ = decode_snapshot(encode_snapshot(shard, stream_id))
    assert again.digest() == shard.digest()
    assert is_of_format_2(WRITTEN[index])
    assert not is_of_format_2(encode_snapshot(shard, stream_id))
    assert snapshot_format(WRITTEN[index]) == 2
    assert not is_of_format_2(WRITTEN[index][:-1])


def test_an_order_that_was_on_its_way_is_answered() -> None:
    ((source, target, sequence),) = SAID["on_their_way"]
    shards = [decoded(index)[0] for index in range(2)]
    (pending,) = (
        order
        for account in shards[source].state.accounts.values()
        for orders in account.open_orders.values()
        for order in orders.values()
        if order.status is OrderStatus.IN_FLIGHT
    )
    assert (shards[target].state.received[source], shards[source].state.sent[target]) == (
        sequence - 1,
        sequence,
    )
    order = MatchOrder(
        pending.order_id, pending.account_id, pending.market, pending.side, pending.order_type,
        pending.time_in_force,
        pending.price, pending.quantity, AssetUnits(0), False, pending.self_trade_prevention,
    )  # fmt: skip
    shards[target].apply(order, TimeMs(1_796_000_000_000))
    messages = [message for _, _, message in shards[target].take().outbox]
    assert any(isinstance(message, TakerOutcome) for message in messages)
    for message in messages:
        shards[source].apply(message, TimeMs(1_796_000_000_000))
    ((reply_to, reply),) = shards[source].take().replies
    assert reply_to == "gate"
    assert isinstance(reply, OrderReply)
    assert reply.order.order_id == pending.order_id
    assert shards[source].state.requests_under_way == {}


def log_with(index: int) -> tuple[MemoryStreamLog, StreamId]:
    """What a shard of that version has left, when it was told to stop."""
    log = MemoryStreamLog(itertools.count(1_796_000_000_000).__next__)
    stream_id = StreamId.parse(SAID["shards"][index]["stream_id"])
    log.commit(Commit(index, log.take_over(index), stream_id))
    log.save_snapshot(index, WRITTEN[index], stream_id)
    return log, stream_id


def worker(log: MemoryStreamLog, index: int, markets: MarketMap = MARKETS) -> Worker:
    return Worker(log, index, markets, batch_entries_max=9)


def test_a_worker_goes_on_from_where_the_last_one_stopped(index: int) -> None:
    log, stream_id = log_with(index)
    first = worker(log, index)
    first.start()
    assert first.position.stream_id == stream_id
    assert log.read({commands(index): STREAM_START}, 9, block_ms=0) == [], "it is configured already"
    assert state_of(first.shard) == {k: v for k, v in SAID["shards"][index].items() if k != "stream_id"}
    assert snapshot_format(log.snapshots(index)[0]) == 3

    # What the settings said then is part of the state now.
    dearer = [msgspec.structs.replace(market, taker_fee_ppm=500_000) for market in MARKETS.markets]
    again = worker(log, index, MarketMap.of(dearer, 2))
    again.start()
    assert again.shard.digest() == first.shard.digest()
    assert again.shard.state.market_configs == first.shard.state.market_configs


def test_what_was_committed_after_the_snapshot_is_not_decided_again(index: int) -> None:
    log, _ = log_with(index)
    position = log.position(index)
    later = log.append(
        commands(index),
        {b"c": msgspec.msgpack.encode([Deposit(1, "r", AccountId(index + 2), "USDT", AssetUnits(5), "t")])},
    )
    log.commit(Commit(index, position, later, EVENTS))
    with pytest.raises(LogDamaged, match="start that release again and stop all its engine workers"):
        worker(log, index).start()


def test_a_log_that_begins_before_configuration_is_not_read_without_it() -> None:
    """All its orders would be refused."""
    log = MemoryStreamLog(itertools.count(1_796_000_000_000).__next__)
    position = log.take_over(0)
    deposit = [Deposit(1, "r", AccountId(2), "USDT", AssetUnits(5), "t")]
    log.commit(Commit(0, position, log.append(commands(0), {b"c": msgspec.msgpack.encode(deposit)}), EVENTS))
    with pytest.raises(LogDamaged, match="written by an earlier release"):
        worker(log, 0).start()


def test_it_waits_until_nobody_leads_any_more(index: int) -> None:
    log, _ = log_with(index)
    log.take_over(index, Leader("engine-0", 1, 3_000))
    with pytest.raises(LogDamaged):
        worker(log, index).start()
    assert snapshot_format(log.snapshots(index)[0]) == 2
