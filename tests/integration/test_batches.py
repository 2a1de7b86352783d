"""A step in several batches: each is applied while the one before is written, and nothing is said, or
written, too early."""

import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from engine_worker.core.invariants import InvariantBroken
from engine_worker.core.shard import Shard
from engine_worker.worker import Worker
from protocol import streams
from protocol.codec import FORMAT, decode_replies, encode_commands, encode_frame, encode_messages
from protocol.commands import Command, Deposit, MakerFill, MessageFrame, PlaceOrder
from protocol.lease import Leader
from protocol.market import MarketMap
from protocol.orders import OrderType, Side, TimeInForce
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import COMMANDS_FIELD, MESSAGES_FIELD
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots, TradeId
from runtime.settings import Settings
from stream_log.interface import Commit, Fenced, Outgoing, StreamLog
from stream_log.memory_log import MemoryStreamLog
from stream_log.redis_log import RedisStreamLog

FAR_US = 4_000_000_000_000_000
"""A writer's clock that decides nothing."""
FIRST = AccountId(3)
"""Of shard 0, whatever number of shards there is."""


class ToldLog(MemoryStreamLog):
    """Writes down what a worker does, in order."""

    def __init__(self) -> None:
        super().__init__(itertools.count(1_767_225_600_000).__next__)
        self.told: list[str] = []
        self.rival_at = 0
        """Another worker takes the shard over before so many commits are written; 0: never."""
        self.away = False
        """Whether no message reaches another shard."""

    def begin_commit(self, commit: Commit, publish: Sequence[tuple[str, bytes]] = ()) -> None:
        self.told.append(f"say {numbers(publish)}, begin")
        if self.rival_at == sum(each.endswith("begin") for each in self.told):
            self.take_over(commit.shard)
        super().begin_commit(commit, publish)

    def finish_commit(self) -> None:
        super().finish_commit()
        self.told.append("written")

    def deliver(self, shard: int, outgoing: Outgoing) -> None:
        if self.away:
            raise ConnectionError
        self.told.append("deliver")
        super().deliver(shard, outgoing)


def numbers(messages: Sequence[tuple[str, bytes]]) -> list[int]:
    return [reply.request_id for _, frame in messages for reply in decode_replies(frame)]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two commands are a batch."""
    monkeypatch.setattr("engine_worker.worker.BATCH_COMMANDS_MAX", 2)


def started(log: StreamLog, shard_count: int = 1) -> tuple[Worker, ...]:
    markets = Settings(shard_count=shard_count).market_map()
    workers = tuple(Worker(log, index, markets, batch_entries_max=100) for index in range(shard_count))
    for each in workers:
        each.start()
    for _ in range(10):
        for each in workers:
            each.step(block_ms=1)
    if isinstance(log, ToldLog):
        log.told.clear()
        log.published.clear()
    return workers


def deposit(number: int) -> Command:
    return Deposit(number, "gate", FIRST, "USDT", AssetUnits(10**12), f"{number}")


def buy(number: int, market: str) -> Command:
    return PlaceOrder(
        number, "gate", FIRST, f"c{number}", market, Side.BUY, OrderType.LIMIT, TimeInForce.GTC,
            PriceTicks(10_000_000), QuantityLots(100)
    )  # fmt: skip


def enqueue(log: StreamLog, *commands: Command) -> list[StreamId]:
    """Append each command in an entry of its own."""
    return [
        log.append(streams.commands(0), {COMMANDS_FIELD: encode_commands([each], FAR_US)})
        for each in commands
    ]


def elsewhere(markets: MarketMap) -> str:
    """Return a market that is not of shard 0."""
    return next(each.symbol for each in markets.markets if markets.shard_of_market(each.symbol))


def applied(monkeypatch: pytest.MonkeyPatch, log: ToldLog, *, raises_at: int = 0) -> None:
    """Have told which command is applied when; one may be impossible."""
    apply = Shard.apply

    def telling(shard: Shard, command: Any, time: Any) -> None:
        log.told.append(f"apply {command.request_id}")
        if command.request_id == raises_at:
            raise OverflowError("too large")
        apply(shard, command, time)

    monkeypatch.setattr(Shard, "apply", telling)


def test_a_batch_is_applied_while_the_one_before_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    log = ToldLog()
    (only,) = started(log)
    applied(monkeypatch, log)
    ids = enqueue(log, *(deposit(number) for number in range(1, 6)))
    last = log.last_id(streams.events(0))
    only.step(block_ms=1)
    assert log.told == [
        *("apply 1", "apply 2", "say [], begin"),
        *("apply 3", "apply 4", "written", "say [1, 2], begin"),
        *("apply 5", "written", "say [3, 4], begin"),
        "written",
    ]
    written = [entry.stream_id for entry in log.read({streams.events(0): last}, 10, 0)]
    assert written == [ids[1], ids[3], ids[4]]
    assert only.position == log.position(0)
    assert numbers(log.published) == [1, 2, 3, 4]
    only.step(block_ms=1)
    assert numbers(log.published) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("rival_at", [1, 2, 3])
def test_nothing_is_written_or_said_of_what_was_applied_ahead_of_a_lost_commit(rival_at: int) -> None:
    log = ToldLog()
    (only,) = started(log)
    log.rival_at = rival_at
    ids = enqueue(log, *(deposit(number) for number in range(1, 7)))
    last, before = log.last_id(streams.events(0)), log.position(0).stream_id
    with pytest.raises(Fenced):
        only.step(block_ms=1)
    done = 2 * (rival_at - 1)
    assert log.position(0).stream_id == (ids[done - 1] if done else before)
    assert len(log.read({streams.events(0): last}, 10, 0)) == done // 2
    assert numbers(log.published) == list(range(1, done + 1))


def test_what_came_before_that_which_stops_the_shard_is_written_and_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = ToldLog()
    (only,) = started(log)
    applied(monkeypatch, log, raises_at=6)
    ids = enqueue(log, *(deposit(number) for number in range(1, 8)))
    with pytest.raises(InvariantBroken, match=f"entry {ids[5]}: OverflowError"):
        only.step(block_ms=1)
    assert log.position(0).stream_id == ids[3]  # the fifth is in one batch with the sixth
    assert numbers(log.published) == [1, 2, 3, 4]


def test_its_messages_are_delivered_before_a_shard_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    log = ToldLog()
    first, *_ = started(log, shard_count=3)
    market = elsewhere(Settings(shard_count=3).market_map())
    applied(monkeypatch, log, raises_at=4)
    enqueue(log, deposit(1), buy(2, market), deposit(3), deposit(4))
    with pytest.raises(InvariantBroken):
        first.step(block_ms=1)
    assert log.told[-1] == "deliver"
    assert log.undelivered(0) == []


def test_messages_that_do_not_reach_their_shard_leave_the_step_whole() -> None:
    """All batches of the step are written.

    The messages of both stay in the outbox, and come in their order.
    """
    log = ToldLog()
    first, *others = started(log, shard_count=3)
    market = elsewhere(Settings(shard_count=3).market_map())
    ids = enqueue(log, deposit(1), buy(2, market), buy(3, market), deposit(4), deposit(5))
    log.away = True
    with pytest.raises(ConnectionError):
        first.step(block_ms=1)
    assert log.position(0).stream_id == ids[-1]
    assert len(log.undelivered(0)) == 2
    log.away = False
    for _ in range(5):
        for each in (first, *others):
            each.step(block_ms=1)
    assert log.undelivered(0) == []
    open_orders = first.shard.state.accounts[FIRST].open_orders[market].values()
    assert [(order.client_order_id, order.status.name) for order in open_orders] == [
        ("c2", "NEW"),
        ("c3", "NEW"),
    ]
    assert (
        first.shard.state.accounts[FIRST].funds["USDT"].available
        + first.shard.state.accounts[FIRST].funds["USDT"].held
        == 3 * 10**12
    )


def test_what_only_a_later_release_reads_is_held_behind_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine_worker.worker._HELD_S", 0)
    log = ToldLog()
    (only,) = started(log)
    ids = enqueue(log, *(deposit(number) for number in range(1, 4)))
    later = encode_frame((FORMAT + 1, FAR_US, [msgspec.structs.replace(deposit(4), request_id=4)]))
    log.append(streams.commands(0), {COMMANDS_FIELD: later})
    enqueue(log, deposit(5))
    for _ in range(3):
        only.step(block_ms=1)
        assert log.position(0).stream_id == ids[-1]
    assert numbers(log.published) == [1, 2, 3]
    assert log.read({streams.dead_letters(0): STREAM_START}, 10, 0) == []


def test_a_message_that_is_not_understood_halts_a_step_of_its_own() -> None:
    log = ToldLog()
    first, *_ = started(log, shard_count=3)
    ids = enqueue(log, *(deposit(number) for number in range(1, 4)))
    stranger = MakerFill(OrderId(101), AccountId(1), "BTCUSDT", TradeId(1), PriceTicks(1), QuantityLots(1))
    sequence = first.shard.state.received.get(1, 0) + 1
    log.append(
        streams.commands(0), {MESSAGES_FIELD: encode_messages(MessageFrame(1, 0, sequence, (stranger,)))}
    )
    first.step(block_ms=1)
    assert log.position(0).stream_id == ids[-1]
    with pytest.raises(InvariantBroken, match="not understood"):
        first.step(block_ms=1)
    assert numbers(log.published) == [1, 2, 3]
    assert log.position(0).stream_id == ids[-1]


def test_a_lease_is_renewed_while_a_batch_is_written(redis_url: str) -> None:
    """Over the same connection, whose next answer is the commit's."""
    log = RedisStreamLog.connect(redis_url, "engine-0")
    leader = Leader("engine-0", 1, 200)
    position = log.take_over(0, leader)
    leader = leader._replace(epoch=position.epoch)
    first, second = enqueue(log, deposit(1), deposit(2))
    assert len(log.read_inputs(0, position, 10, 10)) == 2
    for stream_id, events in ((first, b"one"), (second, b"two")):
        log.begin_commit(Commit(0, position, stream_id, events), [(streams.replies("gate"), b"said")])
        for _ in range(3):
            log.renew_lease(0, leader._replace(lease_ms=60_000))
        log.finish_commit()
        position = position._replace(stream_id=stream_id)
    assert log.position(0) == position
    assert log.lease(0).remaining_ms > 50_000
    assert len(log.read({streams.events(0): STREAM_START}, 10, 0)) == 2
    assert log.append(streams.commands(0), {b"x": b"y"}) == log.last_id(streams.commands(0))
