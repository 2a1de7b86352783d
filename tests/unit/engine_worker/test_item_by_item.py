"""What a shard cannot understand: a command is put aside alone, a stranger's bytes whole, and another shard's
message halts it."""

from typing import Any

import msgspec
import pytest

from engine_worker.core.invariants import InvariantBroken
from engine_worker.core.shard import Shard
from engine_worker.core.snapshot import state_hash
from engine_worker.entries import (
    MessageNotUnderstood,
    NotUnderstoodError,
    applicable_commands,
    apply_entry,
    why_not_applicable,
)
from protocol.codec import FORMAT, encode_frame, encode_messages, encode_skip
from protocol.commands import Deposit, MatchOrder, MessageFrame, SkipEntry
from protocol.events import EntrySkipped, FundsDeposited
from protocol.market import MarketMap
from protocol.orders import OrderType, RejectReason, SelfTradePrevention, Side, TimeInForce
from protocol.replies import Refused
from protocol.stream_id import StreamId
from protocol.streams import COMMANDS_FIELD, MESSAGES_FIELD
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots
from stream_log.interface import Entry, as_skipped
from tests.support.workers import market_map

NOW_US = 1_795_000_000_000_000
NOW_MS = NOW_US // 1_000
ID = StreamId(NOW_MS)
MATCH = MatchOrder(
    OrderId(101), AccountId(4), "BTCUSDT", Side.BUY, OrderType.LIMIT, TimeInForce.GTC, PriceTicks(10_000_000),
    QuantityLots(1_000), AssetUnits(0), False, SelfTradePrevention.NONE,
)  # fmt: skip


def deposit(number: int, account_id: int = 3, transfer_id: str = "") -> Deposit:
    return Deposit(number, "gate", AccountId(account_id), "USDT", AssetUnits(1), transfer_id or f"t{number}")


def commands(*items: Any) -> Entry:
    return Entry("in:{0}", ID, {COMMANDS_FIELD: encode_frame((FORMAT, NOW_US, items))})


def mail(
    *messages: Any, source: int = 1, target: int = 0, first: object = 1, more: tuple[Any, ...] = ()
) -> Entry:
    return Entry(
        "in:{0}", ID, {MESSAGES_FIELD: encode_frame((FORMAT, NOW_US, source, target, first, messages, *more))}
    )


def skipped(entry: Entry, stream_id: StreamId = ID) -> Entry:
    return as_skipped(entry, encode_skip(SkipEntry(0, "", str(stream_id), "ada", "looked at it"), NOW_US))


@pytest.fixture
def shard() -> Shard:
    return Shard(0, market_map(3))


def test_the_others_of_a_frame_are_applied_in_order_and_the_sender_is_told(shard: Shard) -> None:
    unknown, strange, nul = [99, 8, "other", "what"], deposit(3, account_id=4), deposit(5, transfer_id="\0")
    dead = apply_entry(shard, commands(deposit(1), unknown, strange, deposit(4), nul, [99, 0, ""]))
    assert [(item.number, item.payload) for item in dead] == [
        (1, encode_frame(unknown)),
        (2, encode_frame(strange)),
        (4, encode_frame(nul)),
        (5, encode_frame([99, 0, ""])),
    ]
    assert [item.reason for item in dead[1:3]] == [
        "account 4 is not one of shard 0",
        "a transfer id has a NUL in it",
    ]
    output = shard.take()
    assert [event.transfer_id for event in output.events if isinstance(event, FundsDeposited)] == ["t1", "t4"]
    refused = [(to, reply.request_id) for to, reply in output.replies if isinstance(reply, Refused)]
    assert refused == [("other", 8), ("gate", 3), ("gate", 5)]
    assert {reply.reason for _, reply in output.replies if isinstance(reply, Refused)} == {
        RejectReason.NOT_UNDERSTOOD
    }


def test_a_command_that_is_not_understood_leaves_no_trace_in_the_state(shard: Shard) -> None:
    twin = Shard(0, market_map(3))
    apply_entry(shard, commands(deposit(1), [99, 8, "other"], deposit(4)))
    apply_entry(twin, commands(deposit(1), deposit(4)))
    shard.take()
    twin.take()
    assert (state_hash(shard), shard.state.command_count) == (state_hash(twin), 2)
    before = state_hash(shard)
    apply_entry(shard, commands([99, 9, "other"]))
    assert state_hash(shard) == before
    # Whoever repeats it with a program that says it so that it is understood gets it done.
    apply_entry(shard, commands(deposit(8)))
    assert len(shard.take().events) == 1


def test_what_would_be_applied_can_be_asked_without_a_shard() -> None:
    frame = encode_frame([deposit(1), [99, 8, "other"], deposit(3, account_id=4)])
    assert applicable_commands(frame, 0, MarketMap.placed([], 3)) == [deposit(1)]
    assert why_not_applicable(frame, 0, MarketMap.placed([], 3)) == [
        "command 1: Invalid value 99 - at `$[0]`",
        "command 2: account 4 is not one of shard 0",
    ]
    with pytest.raises(NotUnderstoodError):
        why_not_applicable(b"\xc1", 0, MarketMap.placed([], 3))


UNKNOWN_MAIL = {
    "a kind of a later release": (mail(MATCH, [99, 1]), "message 2 of shard 1"),
    "a field too many": (mail([*msgspec.msgpack.decode(encode_frame(MATCH)), "more"]),
        "message 1 of shard 1"),
    "a field beside the messages": (mail(MATCH, more=("more",)), "message 1 of shard 1 .* 1 fields too many"),
    "text that is not UTF-8": (
        mail(MATCH)._replace(fields={MESSAGES_FIELD: mail(MATCH).fields[MESSAGES_FIELD].replace(b"BTCUSDT",
            b"\xff" * 7)}),
        "message 1 of shard 1 is not understood: text that is not UTF-8",
    ),
    "an account of another shard": (mail(MATCH, msgspec.structs.replace(MATCH, account_id=5)),
        "message 2 of shard 1"),
}  # fmt: skip


@pytest.mark.parametrize(("entry", "reason"), UNKNOWN_MAIL.values(), ids=UNKNOWN_MAIL.keys())
def test_unknown_mail_halts_the_shard_before_it(shard: Shard, entry: Entry, reason: str) -> None:
    before = state_hash(shard)
    for _ in range(2):
        with pytest.raises(MessageNotUnderstood, match=reason):
            apply_entry(shard, entry)
    assert state_hash(shard) == before
    assert shard.take().events == []
    assert issubclass(MessageNotUnderstood, InvariantBroken)


def test_what_was_applied_before_may_look_as_it_likes(shard: Shard) -> None:
    """A frame that was delivered twice, and of which the operator had the first skipped."""
    apply_entry(shard, skipped(mail([99, 1], MATCH)))
    assert shard.state.received == {1: 2}
    shard.take()
    before = state_hash(shard)
    apply_entry(shard, mail([99, 1], MATCH))
    assert state_hash(shard) == before
    apply_entry(shard, mail([99, 1], MATCH, MATCH))
    assert shard.state.received == {1: 3}


STRANGERS = [
    mail(MATCH, source=0), mail(MATCH, source=3), mail([99], source=-1), mail([99], target=2),
    mail([99], first=0),
    mail([99], first="x"), Entry("in:{0}", ID, {MESSAGES_FIELD: b"\xff"}), Entry("in:{0}", ID, {b"x": b"y"}),
    mail([99])._replace(fields={MESSAGES_FIELD: mail([99]).fields[MESSAGES_FIELD][:-1]}),
]  # fmt: skip


@pytest.mark.parametrize("entry", STRANGERS)
def test_what_no_shard_of_this_exchange_sent_to_this_one_is_a_dead_letter(shard: Shard, entry: Entry) -> None:
    before = state_hash(shard)
    with pytest.raises(NotUnderstoodError):
        apply_entry(shard, entry)
    assert state_hash(shard) == before


def test_a_skipped_entry_is_an_event_and_a_command_and_nothing_else(shard: Shard) -> None:
    apply_entry(shard, commands(deposit(1)))
    shard.take()
    time, count = shard.state.time, shard.state.command_count
    apply_entry(shard, skipped(commands(deposit(2)))._replace(stream_id=ID))
    output = shard.take()
    assert output.events == [EntrySkipped(time, str(ID), "ada", "looked at it")]
    assert (output.replies, output.outbox, shard.state.time, shard.state.command_count) == (
        [],
        [],
        time,
        count + 1,
    )
    assert shard.state.received == {}


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_mail_after_skipped_mail_is_applied(shard: Shard, count: int) -> None:
    apply_entry(shard, skipped(mail(*[[99]] * count)))
    assert shard.state.received == {1: count}
    apply_entry(shard, mail(MATCH, first=count + 1))
    assert shard.state.received == {1: count + 1}


def test_skipped_mail_that_a_stranger_wrote_does_not_take_the_place_of_real_mail(shard: Shard) -> None:
    forged = mail(MATCH, [99])
    instruction = SkipEntry(0, "", str(ID), "ada", "shard 1 never sent it", counts_as_received=False)
    apply_entry(shard, as_skipped(forged, encode_skip(instruction, NOW_US)))
    assert shard.state.received == {}
    apply_entry(shard, mail(MATCH))
    assert shard.state.received == {1: 1}


def test_skipped_mail_of_nobody_changes_nothing_that_is_received(shard: Shard) -> None:
    for entry in STRANGERS:
        apply_entry(shard, skipped(entry))
    assert shard.state.received == {}


def test_an_instruction_for_another_entry_skips_nothing(shard: Shard) -> None:
    for wrong in (skipped(commands(deposit(1)), StreamId(7)), Entry("in:{0}", ID, {b"s": b"garbage"})):
        with pytest.raises(NotUnderstoodError, match="skip"):
            apply_entry(shard, wrong)


def test_an_empty_shard_has_the_same_digest_as_one_that_never_read_garbage() -> None:
    shard, twin = (Shard(0, MarketMap.placed([], 1)) for _ in range(2))
    apply_entry(shard, commands([99, 1, "r"]))
    assert shard.digest() == twin.digest()


def test_encode_messages_is_what_the_tests_write(shard: Shard) -> None:
    frame = encode_messages(MessageFrame(1, 0, 1, (MATCH,), NOW_US))
    assert mail(MATCH).fields == {MESSAGES_FIELD: frame}
