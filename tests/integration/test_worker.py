"""The worker on a stream log: recovery, exactly-once over crashes at every step, and input that cannot be
understood."""

import msgspec
import pytest

from engine_worker.core.invariants import InvariantBroken
from engine_worker.core.snapshot import encode_snapshot, state_hash
from engine_worker.metrics import HELD
from engine_worker.worker import LogDamaged, Worker
from lab.simulation.undecodable_frames import BROKEN_TEXT, DEEP
from protocol import streams
from protocol.codec import (
    FORMAT,
    LaterFormatError,
    decode_replies,
    encode_frame,
    encode_messages,
)
from protocol.commands import (
    CancelAllOrders,
    Deposit,
    MakerFill,
    MessageFrame,
    PlaceOrder,
)
from protocol.events import TimePassed, TradeExecuted
from protocol.orders import OrderType, Side, TimeInForce
from protocol.replies import BalancesQuery, FundsReply, OrderReply, Refused
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import COMMANDS_FIELD, MESSAGES_FIELD, QUERIES_FIELD
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots, TradeId
from stream_log.interface import Commit, Fenced, StreamLog
from stream_log.redis_log import RedisStreamLog
from tests.support.workers import (
    FAR_US,
    PRICE,
    Crash,
    CrashingLog,
    all_running,
    check_contiguous,
    deposits,
    enqueue,
    events_of,
    market_map,
    memory_log,
    run_until_quiet,
    settled,
    trading,
    worker,
)


@pytest.fixture(params=["memory", "redis"])
def log(request: pytest.FixtureRequest) -> StreamLog:
    return (
        memory_log()
        if request.param == "memory"
        else RedisStreamLog.connect(request.getfixturevalue("redis_url"))
    )


@pytest.mark.parametrize("shard_count", [1, 3])
def test_a_restart_gives_the_same_state(log: StreamLog, shard_count: int) -> None:
    markets = market_map(shard_count)
    workers = [worker(log, index, markets) for index in range(shard_count)]
    for each in workers:
        each.start()
    run_until_quiet(workers)
    enqueue(log, deposits(), markets)
    enqueue(log, trading(seed=1, count=60), markets)
    run_until_quiet(workers)
    for each in workers:
        log.save_snapshot(each.shard.state.index, encode_snapshot(each.shard, each.position.stream_id))
    enqueue(log, trading(seed=2, count=60)[30:], markets)
    run_until_quiet(workers)
    assert not any(settled(workers).values())
    assert any(isinstance(event, TradeExecuted) for event in events_of(log, 0))

    again = [worker(log, index, markets) for index in range(shard_count)]
    for before, after in zip(workers, again, strict=True):
        after.start()
        assert after.position.stream_id == before.position.stream_id
        assert state_hash(after.shard) == state_hash(before.shard)
        with pytest.raises(Fenced):
            before.step(block_ms=1)


def test_a_torn_snapshot_is_passed_over() -> None:
    log, markets = memory_log(), market_map(1)
    first = worker(log, 0, markets)
    first.start()
    enqueue(log, deposits(), markets)
    run_until_quiet([first])
    snapshot = encode_snapshot(first.shard, first.position.stream_id)
    log.save_snapshot(0, snapshot)
    enqueue(log, trading(seed=3, count=30), markets)
    run_until_quiet([first])
    log.save_snapshot(0, encode_snapshot(first.shard, first.position.stream_id)[:-1])
    second = worker(log, 0, markets)
    second.start()
    assert state_hash(second.shard) == state_hash(first.shard)


def test_a_log_that_lost_its_tail_is_refused() -> None:
    log, markets = memory_log(), market_map(1)
    first = worker(log, 0, markets)
    first.start()
    enqueue(log, deposits(), markets)
    run_until_quiet([first])
    log.trim(streams.commands(0), StreamId(9_999_999_999_999))
    with pytest.raises(LogDamaged, match="restore"):
        worker(log, 0, markets).start()


def run_with_crashes(crashing: CrashingLog, shard_count: int, victim: int) -> list[Worker]:
    """Trade, with shard `victim` on a log in which it may crash.

    It is started anew until it does not any more.
    """
    log, markets = crashing._log, market_map(shard_count)
    orders = [*deposits(), *trading(seed=4, count=40)]
    workers = [worker(log, index, markets) for index in range(shard_count)]
    while True:
        workers[victim] = worker(crashing, victim, markets)
        try:
            for each in workers:
                if each.position.epoch == 0:
                    each.start()
            run_until_quiet(workers)
            enqueue(log, orders, markets)
            orders = []
            run_until_quiet(workers)
        except Crash:
            continue
        return workers


@pytest.mark.parametrize("batch_commands", [1, 256])
@pytest.mark.parametrize("shard_count", [1, 3])
def test_a_crash_at_any_step_loses_and_doubles_nothing(
    shard_count: int, batch_commands: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine_worker.worker.BATCH_COMMANDS_MAX", batch_commands)
    reference = CrashingLog(memory_log())
    expected = run_with_crashes(reference, shard_count, victim=0)
    balances = [account.balances() for each in expected for account in each.shard.state.accounts.values()]
    assert any(
        each.shard.state.markets[symbol].trade_id for each in expected for symbol in each.shard.state.markets
    )
    for crash_at in range(1, reference.points + 1):
        crashing = CrashingLog(memory_log())
        crashing.crash_at = crash_at
        workers = run_with_crashes(crashing, shard_count, victim=0)
        assert crashing.points >= crash_at
        assert not any(settled(workers).values())
        for each in workers:
            check_contiguous(events_of(crashing._log, each.shard.state.index))
            assert crashing._log.undelivered(each.shard.state.index) == []
        if shard_count == 1:  # between several shards the order of messages, and so of trades, may differ
            assert [
                account.balances() for each in workers for account in each.shard.state.accounts.values()
            ] == balances


def test_replies_come_after_the_commit_and_queries_see_it() -> None:
    log, markets = memory_log(), market_map(1)
    only = worker(log, 0, markets)
    only.start()
    enqueue(log, [Deposit(7, "gate", AccountId(1), "USDT", AssetUnits(10**12), "t")], markets)
    query = BalancesQuery(8, "gate", AccountId(1))
    log.append(streams.queries(0), {QUERIES_FIELD: encode_frame([query])})
    run_until_quiet([only])
    replies = [
        reply
        for channel, frame in log.published
        for reply in decode_replies(frame)
        if channel == "reply:gate"
    ]
    assert [type(reply) for reply in replies] == [FundsReply, FundsReply]
    assert [reply.request_id for reply in replies] == [7, 8]
    assert replies[0].balances == replies[1].balances  # type: ignore[union-attr]


def test_an_enqueue_repeated_by_the_gateway_has_one_outcome() -> None:
    log, markets = memory_log(), market_map(1)
    only = worker(log, 0, markets)
    only.start()
    order = PlaceOrder(
        5, "gate", AccountId(1), "mine", "BTCUSDT", Side.BUY, OrderType.LIMIT, TimeInForce.GTC,
            PriceTicks(PRICE), QuantityLots(100)
    )  # fmt: skip
    stranger = msgspec.structs.replace(order, request_id=6)
    enqueue(log, [*deposits(), order, order, stranger], markets)
    run_until_quiet([only])
    replies = [
        reply
        for channel, frame in log.published
        for reply in decode_replies(frame)
        if channel == "reply:gate"
    ]
    assert [type(reply) for reply in replies] == [OrderReply, OrderReply, Refused]
    assert replies[0].order == replies[1].order  # type: ignore[union-attr]
    assert len(only.shard.state.accounts[AccountId(1)].open_orders["BTCUSDT"]) == 1


GARBAGE: list[tuple[dict[bytes, bytes], str]] = [
    ({b"x": b"y"}, "neither commands nor messages"),
    ({COMMANDS_FIELD: b"\xc1"}, "no array"),
    ({COMMANDS_FIELD: b""}, "ends too early"),
    ({MESSAGES_FIELD: BROKEN_TEXT[1]}, "for shard 0"),
    ({MESSAGES_FIELD: DEEP[1]}, "for shard 0"),
    ({COMMANDS_FIELD: encode_frame((FORMAT, 1, [], "more"))}, "3 fields, not 4"),
    (
        {COMMANDS_FIELD: encode_frame([CancelAllOrders(1, "g", AccountId(1), "BTCUSDT")])[:-1]},
        "ends too early",
    ),
    ({MESSAGES_FIELD: b"\xff\x00"}, "no array"),
    ({MESSAGES_FIELD: encode_messages(MessageFrame(5, 1, 1, ()))}, "does not send"),
    ({MESSAGES_FIELD: encode_messages(MessageFrame(0, 2, 1, ()))}, "for shard 2"),
]
DEAD_COMMANDS: list[tuple[bytes, str]] = [
    (BROKEN_TEXT[0], "not UTF-8"),
    (DEEP[0], "at most length"),
    (encode_frame([[1, "nonsense"]]), "Expected"),
    (encode_frame([[99, 1]]), "Invalid value"),
    (encode_frame([CancelAllOrders(1, "g", AccountId(-3), "BTCUSDT")]), "not one of shard"),
    (encode_frame([CancelAllOrders(1, "g", AccountId(3), "BTCUSDT")]), "not one of shard"),
]
"""Frames of one command that is put aside alone."""


def test_what_cannot_be_understood_goes_to_the_dead_letters(log: StreamLog) -> None:
    markets = market_map(3)
    one = worker(log, 1, markets)
    one.start()
    for fields, _ in GARBAGE:
        log.append(streams.commands(1), fields)
    for frame, _ in DEAD_COMMANDS:
        log.append(streams.commands(1), {COMMANDS_FIELD: frame})
    log.append(streams.queries(1), {QUERIES_FIELD: b"\xc1"})
    log.append(streams.queries(1), {b"x": b"y"})
    log.append(streams.queries(1), {QUERIES_FIELD: BROKEN_TEXT[3]})
    log.append(streams.queries(1), {QUERIES_FIELD: DEEP[3]})
    enqueue(log, [Deposit(1, "gate", AccountId(1), "USDT", AssetUnits(5), "t")], markets)
    run_until_quiet([one])
    dead = log.read({streams.dead_letters(1): STREAM_START}, 100, block_ms=0)
    letters = [letter for letter in dead if letter.fields[b"source"] == b"in:{1}"]
    questions = [letter for letter in dead if letter.fields[b"source"] == b"query:{1}"]
    assert [msgspec.msgpack.decode(letter.fields[b"payload"]) for letter in questions] == [
        {QUERIES_FIELD: b"\xc1"},
        {b"x": b"y"},
        {QUERIES_FIELD: BROKEN_TEXT[3]},
        {QUERIES_FIELD: DEEP[3]},
    ]
    assert len(letters) == len(GARBAGE) + len(DEAD_COMMANDS)
    for letter, (frame, reason) in zip(letters[len(GARBAGE) :], DEAD_COMMANDS, strict=True):
        assert reason in letter.fields[b"reason"].decode()
        assert (letter.fields[b"item"], letter.fields[b"payload"]) == (b"0", frame[1:])
    for letter, (fields, reason) in zip(letters, GARBAGE, strict=False):
        assert reason in letter.fields[b"reason"].decode()
        assert msgspec.msgpack.decode(letter.fields[b"payload"]) == fields
    assert one.shard.state.accounts[AccountId(1)].funds["USDT"].available == 5

    again = worker(log, 1, markets)
    again.start()
    assert state_hash(again.shard) == state_hash(one.shard)


def test_a_message_that_breaks_an_invariant_stops_the_shard_and_publishes_nothing() -> None:
    log, markets = memory_log(), market_map(3)
    _, one, _ = all_running(log, markets)
    events, position = events_of(log, 1), log.position(1)
    enqueue(log, [Deposit(1, "gate", AccountId(1), "USDT", AssetUnits(5), "t")], markets)
    forged = MakerFill(OrderId(101), AccountId(1), "BTCUSDT", TradeId(1), PriceTicks(1), QuantityLots(1))
    log.append(streams.commands(1), {MESSAGES_FIELD: encode_messages(MessageFrame(0, 1, 2, (forged,)))})
    with pytest.raises(InvariantBroken, match="order 101"):
        run_until_quiet([one])
    assert events_of(log, 1) == events
    assert log.published == []
    assert log.position(1) == position


def test_whatever_the_core_raises_halts_the_shard_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    log, markets = memory_log(), market_map(1)
    (only,) = all_running(log, markets)
    position = log.position(0)
    enqueue(log, [Deposit(1, "gate", AccountId(1), "USDT", AssetUnits(5), "t")], markets)

    def overflow(_account: object, _asset: str) -> None:
        raise OverflowError("can't serialize ints < -2**63")

    monkeypatch.setattr("engine_worker.core.accounts.Account.funds_in", overflow)
    with pytest.raises(InvariantBroken, match="OverflowError: can't serialize ints"):
        run_until_quiet([only])
    assert log.position(0) == position
    assert log.published == []


def test_a_query_that_cannot_be_answered_is_buried_and_the_shard_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log, markets = memory_log(), market_map(1)
    only = worker(log, 0, markets)
    only.start()

    def overflow(_shard: object, _query: object, _time: object) -> None:
        raise OverflowError("too large")

    monkeypatch.setattr("engine_worker.core.shard.Shard.answer", overflow)
    log.append(streams.queries(0), {QUERIES_FIELD: encode_frame([BalancesQuery(1, "gate", AccountId(1))])})
    enqueue(log, [Deposit(2, "gate", AccountId(1), "USDT", AssetUnits(5), "t")], markets)
    run_until_quiet([only])
    (letter,) = log.read({streams.dead_letters(0): STREAM_START}, 100, block_ms=0)
    assert letter.fields[b"reason"] == b"OverflowError: too large"
    assert only.shard.state.accounts[AccountId(1)].funds["USDT"].available == 5


def test_a_gap_between_shards_stops_the_receiver() -> None:
    log, markets = memory_log(), market_map(3)
    _, one, _ = all_running(log, markets)
    fill = MakerFill(OrderId(101), AccountId(1), "BTCUSDT", TradeId(1), PriceTicks(1), QuantityLots(1))
    log.append(streams.commands(1), {MESSAGES_FIELD: encode_messages(MessageFrame(0, 1, 4, (fill,)))})
    with pytest.raises(InvariantBroken, match="messages 2 to 3 from shard 0 are missing"):
        run_until_quiet([one])


def test_what_a_later_release_wrote_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """All before it is done.

    It and what follows are left alone, no dead letter, and done by a program that can read them.
    """
    monkeypatch.setattr("engine_worker.worker._HELD_S", 0)
    log, markets = memory_log(), market_map(1)
    only = worker(log, 0, markets)
    only.start()
    deposit = Deposit(1, "test", AccountId(1), "USDT", AssetUnits(5), "first")
    enqueue(log, [deposit], markets)
    later = msgspec.structs.replace(deposit, request_id=2, transfer_id="second")
    new = encode_frame((FORMAT + 1, FAR_US, [later]))
    log.append(streams.commands(0), {COMMANDS_FIELD: new})
    enqueue(log, [msgspec.structs.replace(deposit, request_id=3, transfer_id="third")], markets)
    for _ in range(5):
        only.step(block_ms=1)
    assert only.shard.state.accounts[AccountId(1)].funds["USDT"].available == 5
    assert log.read({streams.dead_letters(0): STREAM_START}, 10, block_ms=0) == []
    assert HELD.labels(0)._value.get() == FORMAT + 1

    monkeypatch.setattr("protocol.codec.FORMAT", FORMAT + 1)
    while only.step(block_ms=1):
        pass
    assert only.shard.state.accounts[AccountId(1)].funds["USDT"].available == 15
    assert HELD.labels(0)._value.get() == 0


def test_a_program_that_is_older_than_the_log_does_not_start() -> None:
    log, markets = memory_log(), market_map(1)
    only = worker(log, 0, markets)
    only.start()
    enqueue(log, [Deposit(1, "test", AccountId(1), "USDT", AssetUnits(5), "first")], markets)
    only.step(block_ms=1)
    newer = log.append(streams.commands(0), {COMMANDS_FIELD: encode_frame((FORMAT + 1, FAR_US, []))})
    log.commit(Commit(0, only.position, newer))
    with pytest.raises(LaterFormatError, match=f"has format {FORMAT + 1}, this program reads up to {FORMAT}"):
        worker(log, 0, markets).start()


def test_time_passes_where_nothing_happens() -> None:
    log, markets = memory_log(), market_map(1)
    only = worker(log, 0, markets)
    only.start()
    second = 1_767_225_700
    for at_us in (second * 10**6, second * 10**6 + 900_000, (second + 1) * 10**6 + 1):
        only.tick(at_us)
        only.step(block_ms=1)
    ticks = [event.time for event in events_of(log, 0) if isinstance(event, TimePassed)]
    assert len(ticks) == 2
    # Where something was told of in a second there is no need.
    told = log.append("clock", {}).ms // 1_000
    enqueue(log, [Deposit(1, "test", AccountId(1), "USDT", AssetUnits(5), "first")], markets)
    only.step(block_ms=1)
    only._ticked_second = 0
    only.tick(told * 10**6)
    assert only.step(block_ms=1) == 0
