"""Whatever stands in a shard's input or outbox, it is applied whole, buried, or a broken invariant.

Never half, never a crash.
"""

from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine_worker.core.invariants import InvariantBroken
from engine_worker.core.shard import Shard
from engine_worker.core.snapshot import encode_snapshot, state_hash
from engine_worker.entries import MessageNotUnderstood, NotUnderstoodError, apply_entry
from protocol import streams
from protocol.codec import encode_frame, encode_messages, frame_items
from protocol.commands import (
    CancelMissed,
    CancelResting,
    CloseAccount,
    Deposit,
    MatchOrder,
    MessageFrame,
    PlaceOrder,
    RestingClosed,
    TakerOutcome,
    WithdrawFees,
)
from protocol.orders import OrderType, RejectReason, SelfTradePrevention, Side, TimeInForce
from protocol.replies import AuditQuery, Refused
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import COMMANDS_FIELD, MESSAGES_FIELD
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots, TimeMs
from stream_log.interface import Commit, Entry, Outgoing, StreamLog
from stream_log.redis_log import RedisStreamLog
from tests.properties.profile import fewer_sequences
from tests.support.workers import (
    deposits,
    enqueue,
    market_map,
    memory_log,
    run_until_quiet,
    trading,
    worker,
)

MARKETS = market_map(3)

numbers = st.one_of(
    st.integers(-3, 3), st.sampled_from([2**31, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -(2**63)])
)
texts = st.sampled_from(
    ["", "BTCUSDT", "ETHUSDT", "SOLUSDT", "USDT", "BTC", "NOSUCH", "x" * 300, "\0", "c1", "é"]
)
fields = st.one_of(numbers, texts, st.booleans(), st.none(), st.lists(st.one_of(numbers, texts), max_size=3))
structs = st.tuples(st.sampled_from([1, 2, 3, 4, 5, 9, 10]), st.lists(fields, min_size=3, max_size=12)).map(
    lambda struct: [struct[0], *struct[1]]
)


def place(**changes: Any) -> PlaceOrder:
    order = PlaceOrder(
        1, "test", AccountId(3), "c1", "BTCUSDT", Side.BUY, OrderType.LIMIT, TimeInForce.GTC,
        PriceTicks(10_000_000),
        QuantityLots(1_000),
    )  # fmt: skip
    return msgspec.structs.replace(order, **changes)


orders = st.fixed_dictionaries(
    {},
    optional={
        "account_id": st.sampled_from([3, 6, 1, 0, -3, 3 * 2**62, 2**64 - 1]),
        "client_order_id": texts,
        "market": texts,
        "side": st.sampled_from(Side),
        "order_type": st.sampled_from(OrderType),
        "time_in_force": st.sampled_from(TimeInForce),
        "price": st.one_of(numbers, st.just(10_000_000)),
        "quantity": st.one_of(numbers, st.just(1_000)),
        "quote_quantity": numbers,
        "self_trade_prevention": st.sampled_from(SelfTradePrevention),
    },
).map(lambda changes: place(**changes))
transfers = st.builds(
    Deposit, numbers, texts, st.sampled_from([AccountId(3), AccountId(6)]), texts, numbers, texts
)
fees = st.builds(WithdrawFees, numbers, texts, st.integers(-1, 1), texts, numbers, texts)
frames = st.lists(st.one_of(structs, orders, transfers, fees), max_size=4).map(encode_frame)


@given(st.lists(frames, max_size=6))
@example([encode_frame([place(quantity=2**64 - 1)])])
@fewer_sequences
def test_no_frame_of_commands_breaks_a_shard(entries: list[bytes]) -> None:
    shard = Shard(0, MARKETS)
    for asset in MARKETS.assets:
        shard.apply(Deposit(0, "test", AccountId(3), asset, AssetUnits(10**15), "first"), TimeMs(1))
    shard.take()
    for frame in entries:
        before, count = state_hash(shard), shard.state.command_count
        try:
            dead = apply_entry(shard, Entry("in:{0}", StreamId(5), {COMMANDS_FIELD: frame}))
        except NotUnderstoodError:
            assert state_hash(shard) == before
        else:
            readable = msgspec.msgpack.decode(frame)
            assert shard.state.command_count == count + len(readable) - len(dead)
            assert all(msgspec.msgpack.decode(item.payload) == readable[item.number] for item in dead)
        encode_frame(shard.take().events)
        shard.check_invariants()
        encode_snapshot(shard, STREAM_START)


messages = st.tuples(
    st.sampled_from([11, 12, 21, 22, 23, 24]), st.lists(fields, min_size=4, max_size=12)
).map(lambda struct: [struct[0], *struct[1]])  # fmt: skip


@given(st.tuples(numbers, numbers, numbers, st.lists(messages, max_size=3)).map(encode_frame))
@fewer_sequences
def test_no_frame_of_messages_breaks_a_shard_but_by_an_invariant(frame: bytes) -> None:
    shard = Shard(0, MARKETS)
    before = state_hash(shard)
    try:
        apply_entry(shard, Entry("in:{0}", StreamId(5), {MESSAGES_FIELD: frame}))
    except NotUnderstoodError:
        assert state_hash(shard) == before
    except InvariantBroken:
        return
    encode_snapshot(shard, STREAM_START)


def test_fees_are_taken_from_the_shard_that_is_named() -> None:
    shard = Shard(0, MARKETS)
    for command, reason in (
        (WithdrawFees(0, "test", 1, "USDT", AssetUnits(1), "f"), "fees of shard 1 are not those of shard 0"),
        (WithdrawFees(0, "test", 0, "USDT", AssetUnits(1), "f\0"), "NUL"),
        (CloseAccount(0, "test", AccountId(1)), "account 1 is not one of shard 0"),
    ):
        entry = Entry("in:{0}", StreamId(5), {COMMANDS_FIELD: encode_frame([command])})
        (dead,) = apply_entry(shard, entry)
        assert reason in dead.reason


def match(**changes: Any) -> MatchOrder:
    order = MatchOrder(
        OrderId(101), AccountId(4), "BTCUSDT", Side.BUY, OrderType.LIMIT, TimeInForce.GTC,
        PriceTicks(10_000_000),
        QuantityLots(1_000), AssetUnits(0), False, SelfTradePrevention.NONE,
    )  # fmt: skip
    return msgspec.structs.replace(order, **changes)


def test_an_order_for_a_market_that_is_not_there_is_answered() -> None:
    """It may have been there when its account's shard sent the order, and its owner waits."""
    shard = Shard(0, MARKETS)
    cancel = CancelResting(OrderId(101), AccountId(4), "NOSUCH", 7, "r")
    frame = encode_messages(MessageFrame(1, 0, 1, (match(market="NOSUCH"), cancel)))
    apply_entry(shard, Entry("in:{0}", StreamId(5), {MESSAGES_FIELD: frame}))
    refused = TakerOutcome(
        OrderId(101), AccountId(4), "NOSUCH", (), False, False, RejectReason.UNKNOWN_MARKET
    )
    missed = CancelMissed(OrderId(101), AccountId(4), "NOSUCH", 7, "r")
    assert shard.take().outbox == [(1, 1, refused), (1, 2, missed)]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (match(market="ETHUSDT"), "market 'ETHUSDT' is not one of shard 0"),
        (match(account_id=3), "account 3 is not one of shard 1"),
        (match(account_id=-2), "account -2 is not one of shard 1"),
        (match(quantity=-1), ">= 0"),
        (match(price=0), ">= 1"),
        (match(price=2**64 - 1), "<= 9223372036854775807"),
        (RestingClosed(OrderId(1), AccountId(3), "BTCUSDT"), "market 'BTCUSDT' is not one of shard 1"),
    ],
)
def test_what_no_shard_sends_halts_the_shard_before_it(message: Any, reason: str) -> None:
    shard = Shard(0, MARKETS)
    before = state_hash(shard)
    frame = encode_messages(MessageFrame(1, 0, 1, (match(), message)))
    entry = Entry("in:{0}", StreamId(5), {MESSAGES_FIELD: frame})
    with pytest.raises(MessageNotUnderstood, match=f"message 2 of shard 1 is not understood: .*{reason}"):
        apply_entry(shard, entry)
    assert state_hash(shard) == before
    good = MessageFrame(1, 0, 1, (match(),))
    apply_entry(shard, entry._replace(fields={MESSAGES_FIELD: encode_messages(good)}))
    assert shard.state.received == {1: 1}


@pytest.fixture(params=["memory", "redis"])
def log(request: pytest.FixtureRequest) -> StreamLog:
    return (
        memory_log()
        if request.param == "memory"
        else RedisStreamLog.connect(request.getfixturevalue("redis_url"))
    )


def test_garbage_in_the_outbox_is_buried_and_what_is_real_is_delivered(log: StreamLog) -> None:
    workers = [worker(log, index, MARKETS) for index in range(3)]
    for each in workers:
        each.start()
    garbage = [
        {b"1": b"garbage"},
        {b"nothing": b"x"},
        {b"99": encode_messages(MessageFrame(0, 99, 1, ()))},
        {b"9" * 30: b"x"},
        {b"01": encode_messages(MessageFrame(0, 1, 1, ()))},
        {b"1": encode_messages(MessageFrame(2, 1, 1, ()))},
        {b"1": encode_messages(MessageFrame(0, 1, 1, ())), b"2": b""},
    ]
    enqueue(log, deposits(), MARKETS)
    for number, fields in enumerate(garbage):
        log.append(streams.outbox(0), fields)
        enqueue(log, trading(number, 20 * (number + 1))[20 * number :], MARKETS)
        run_until_quiet(workers)
    assert workers[0].shard.state.sent
    for each in workers:
        each.clean_outbox()
        assert log.read({streams.outbox(each.shard.state.index): STREAM_START}, 10, block_ms=0) == []
    run_until_quiet(workers)
    letters = log.read({streams.dead_letters(0): STREAM_START}, 100, block_ms=0)
    assert [msgspec.msgpack.decode(letter.fields[b"payload"]) for letter in letters] == garbage
    assert {letter.fields[b"source"] for letter in letters} == {b"out:{0}"}
    assert log.last_id(streams.commands(99)) == STREAM_START
    for source in workers:
        for target, count in source.shard.state.sent.items():
            assert workers[target].shard.state.received[source.shard.state.index] == count


def test_garbage_under_the_id_of_a_commit_is_not_swept_away(log: StreamLog) -> None:
    frame = encode_messages(MessageFrame(0, 1, 1, ()))
    position = log.take_over(0)
    stream_id = log.append(streams.outbox(0), {b"1": b"garbage"})
    log.commit(Commit(0, position, stream_id, outbox={1: frame}))
    log.deliver(0, Outgoing(stream_id, {1: frame}))
    garbage, real = log.read({streams.outbox(0): STREAM_START}, 10, block_ms=0)
    assert (garbage.stream_id, garbage.fields) == (stream_id, {b"1": b"garbage"})
    log.deliver(0, Outgoing(real.stream_id, {1: frame}))
    log.deliver(0, Outgoing(garbage.stream_id, {}))
    assert log.read({streams.outbox(0): STREAM_START}, 10, block_ms=0) == []


def test_more_money_than_the_supply_is_refused() -> None:
    shard = Shard(0, market_map(1))
    most = AssetUnits(2**63 - 1)
    for number in (1, 2, 3):
        shard.apply(Deposit(number, "test", AccountId(number), "USDT", most, "t"), TimeMs(1))
    reasons = [reply.reason for _, reply in shard.take().replies if isinstance(reply, Refused)]
    assert reasons == 2 * [RejectReason.AMOUNT_OUT_OF_RANGE]
    encode_snapshot(shard, STREAM_START)
    encode_frame([shard.answer(AuditQuery(1, "test"), TimeMs(1))[1]])


@pytest.mark.parametrize("count", [0, 1, 15, 16, 65_535, 65_536])
def test_a_frame_without_its_head_is_its_items(count: int) -> None:
    assert bytes(frame_items(encode_frame([7] * count), count)) == b"\x07" * count
