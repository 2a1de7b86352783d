"""A shard's time: max(last, min(entry's id, writer's stamp + 1 s)), a function of the log alone.

Deadlines: by the entry's id.

Other shards stamp their mail with their own time, which has that second in it already: no second is added to
it.
"""

import msgspec
import pytest

from engine_worker.core.frames import ObjectCore
from engine_worker.core.shard import Shard
from engine_worker.core.snapshot import decode_snapshot, encode_snapshot
from engine_worker.entries import apply_entry
from protocol.codec import encode_commands, encode_frame, encode_messages
from protocol.commands import (
    CancelAllOrders,
    CancelMissed,
    CancelOrder,
    Command,
    Deposit,
    MessageFrame,
    PlaceOrder,
    Tick,
)
from protocol.events import OrderAccepted, TimePassed
from protocol.orders import OrderType, RejectReason, Side, TimeInForce
from protocol.replies import OrderReply, Refused
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import COMMANDS_FIELD, MESSAGES_FIELD
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots, TimeMs
from runtime.settings import Settings
from stream_log.interface import Entry

MARKETS = Settings().market_map()
NOON = 1_800_000_000_000
HOUR, YEAR = 3_600_000, 365 * 86_400_000
OWNER = AccountId(7)


def shard() -> Shard:
    made = Shard(0, MARKETS)
    enter(made, NOON, NOON, Deposit(1, "r", OWNER, "USDT", AssetUnits(10**15), "in"))
    made.take()
    return made


def enter(
    shard: Shard, entered: int, written: int | None, *commands: Command | Tick, number: int = 0
) -> None:
    """Apply an entry with the id and the stamp, both in ms."""
    frame = encode_commands(commands, written * 1_000) if written is not None else encode_frame(commands)
    apply_entry(shard, Entry("in:{0}", StreamId(entered, number), {COMMANDS_FIELD: frame}))


def order(request_id: int, deadline: int = 0) -> PlaceOrder:
    return PlaceOrder(
        request_id, "r", OWNER, f"c{request_id}", "BTCUSDT", Side.BUY, OrderType.LIMIT, TimeInForce.GTC,
        PriceTicks(10_000_000), QuantityLots(1_000), deadline_ms=TimeMs(deadline),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("entered", "written", "expected"),
    [
        (NOON + 5, NOON + 3, NOON + 5),  # as it should be: written, then appended
        (NOON + 5, NOON + 9, NOON + 5),  # its writer's clock is a little ahead
        (NOON + 5, NOON + 5 + YEAR, NOON + 5),  # a year
        (NOON + 1_005, NOON + 5, NOON + 1_005),  # a second under way
        (
            NOON + HOUR,
            NOON + 5,
            NOON + 1_005,
        ),  # Redis's clock is ahead by an hour, or the entry was under way so long
        (NOON + HOUR, None, NOON + HOUR),  # no stamp, in format 1
        (NOON + 5, NOON - YEAR, NOON),  # its writer's clock is a year behind: time stands
        (NOON, NOON - 5_000, NOON),
    ],
)
def test_one_wrong_clock_moves_nothing(entered: int, written: int | None, expected: int) -> None:
    moved = shard()
    enter(moved, entered, written, Tick())
    assert moved.take().events == [TimePassed(TimeMs(expected))]


def test_after_a_jump_of_rediss_clock_time_goes_on_as_it_was() -> None:
    """Redis is an hour ahead for a moment.

    Then its ids stand still for an hour, and only their numbers count on.
    """
    moved, jump = shard(), NOON + 1_000 + HOUR
    times = []
    for number, passed in enumerate((1_000, 2_000, 3_000, HOUR - 1_000)):
        enter(moved, jump, NOON + passed, Tick(), number=number)
        times += [event.time - NOON for event in moved.take().events]
    assert times == [2_000, 3_000, 4_000, HOUR]


def test_two_writers_of_which_one_is_behind() -> None:
    moved = shard()
    enter(moved, NOON + 10_000, NOON + 10_000, Tick())
    enter(moved, NOON + 10_010, NOON - 50_000, order(2))
    accepted, *_ = (each for each in moved.take().events if isinstance(each, OrderAccepted))
    assert accepted.time == NOON + 10_000


def test_messages_bring_their_shards_time() -> None:
    receiver = Shard(0, Settings(shard_count=2).market_map())
    frame = encode_messages(MessageFrame(1, 0, 1, (), (NOON + 7) * 1_000))
    apply_entry(receiver, Entry("in:{0}", StreamId(NOON + HOUR), {MESSAGES_FIELD: frame}))
    assert receiver.state.time == 0  # nothing was applied
    missed = CancelMissed(OrderId(3), AccountId(2), "ETHUSDT", 1, "r")
    frame = encode_messages(MessageFrame(1, 0, 1, (missed,), (NOON + 7) * 1_000))
    apply_entry(receiver, Entry("in:{0}", StreamId(NOON + HOUR, 1), {MESSAGES_FIELD: frame}))
    assert receiver.state.time == NOON + 7


def test_mail_to_and_fro_moves_no_time_while_rediss_clock_is_ahead() -> None:
    """Each order of another shard's account is answered.

    With a second more at each end, time would run away from every clock.
    """
    markets = Settings(shard_count=2).market_map()
    there = markets.shard_of_market("BTCUSDT")
    here = 1 - there
    account = next(
        AccountId(number) for number in range(1, 9) if markets.shard_of_account(AccountId(number)) == here
    )
    shards = [Shard(index, markets) for index in range(2)]
    number = 0

    def entered(index: int, field: bytes, frame: bytes) -> dict[int, bytes]:
        nonlocal number
        number += 1
        core = ObjectCore(shards[index])
        assert core.apply_frame(StreamId(NOON + HOUR, number), {field: frame}) == []
        return core.take().outbox()

    def commanded(written: int, command: Command) -> None:
        mail = entered(here, COMMANDS_FIELD, encode_commands([command], written * 1_000))
        while mail:
            ((target, frame),) = mail.items()
            mail = entered(target, MESSAGES_FIELD, frame)

    commanded(NOON, Deposit(1, "r", account, "USDT", AssetUnits(10**15), "in"))
    for request_id in range(2, 12):
        commanded(NOON + request_id, msgspec.structs.replace(order(request_id), account_id=account))
    assert [each.state.order_count for each in shards] == [10 if index == here else 0 for index in range(2)]
    assert [each.state.time for each in shards] == [NOON + 1_011] * 2


def test_time_stands_in_the_snapshot() -> None:
    moved = shard()
    enter(moved, NOON + 10_000, NOON + 5_000, Tick())
    again, _ = decode_snapshot(encode_snapshot(moved, STREAM_START))
    assert again.state.time == moved.state.time == NOON + 6_000
    for each in (moved, again):
        enter(each, NOON + 10_001, NOON, Tick())
    assert again.take().events[-1] == moved.take().events[-1] == TimePassed(TimeMs(NOON + 6_000))


@pytest.mark.parametrize(
    ("deadline", "is_late"), [(0, False), (NOON + 500, False), (NOON + 499, True), (1, True)]
)
def test_what_is_appended_after_its_deadline_is_refused(deadline: int, is_late: bool) -> None:
    late = shard()
    enter(late, NOON + 500, NOON + 500, order(2, deadline))
    ((_, reply),) = late.take().replies
    assert isinstance(reply, Refused if is_late else OrderReply)
    if isinstance(reply, Refused):
        assert reply.reason is RejectReason.TOO_LATE
        assert late.state.order_count == 0


def test_no_clock_but_rediss_counts_for_a_deadline() -> None:
    """Or a writer whose clock is wrong could make late what is not."""
    late = shard()
    enter(late, NOON + 500, NOON + YEAR, order(2, NOON + 500))
    enter(late, NOON + 500, NOON - YEAR, order(3, NOON + 500), number=1)
    assert [type(reply) for _, reply in late.take().replies] == [OrderReply, OrderReply]


def test_a_late_cancel_cancels_nothing() -> None:
    late = shard()
    enter(late, NOON, NOON, order(2))
    late.take()
    deadline = TimeMs(NOON + 10)
    enter(
        late, NOON + 11, NOON, CancelOrder(3, "r", OWNER, "BTCUSDT", OrderId(0), "c2", deadline_ms=deadline)
    )
    enter(late, NOON + 11, NOON, CancelAllOrders(4, "r", OWNER, "BTCUSDT", deadline_ms=deadline), number=1)
    replies = [reply for _, reply in late.take().replies]
    assert [reply.reason for reply in replies if isinstance(reply, Refused)] == [RejectReason.TOO_LATE] * 2
    enter(
        late,
        NOON + 12,
        NOON,
        CancelOrder(5, "r", OWNER, "BTCUSDT", OrderId(0), "c2", deadline_ms=TimeMs(NOON + 12)),
    )
    ((_, reply),) = late.take().replies
    assert isinstance(reply, OrderReply)
