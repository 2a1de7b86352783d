"""An entry halts its shard; an operator has it skipped.

And everybody who ever reads the log skips it, too.
"""

import itertools
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engine_worker.checksum import state_checksum
from engine_worker.core.account_half import AccountHalf
from engine_worker.core.invariants import InvariantBroken
from engine_worker.core.shard import Shard
from engine_worker.core.snapshot import encode_snapshot, state_hash
from engine_worker.entries import MessageNotUnderstood
from engine_worker.replay import Replay, StreamLogSource, Verifier
from engine_worker.worker import Worker
from protocol import streams
from protocol.codec import FORMAT, decode_skip, encode_frame, encode_skip
from protocol.commands import Deposit, PlaceOrder, Signed, SkipEntry
from protocol.configuration import OperatorKey, Role, ShardConfig
from protocol.events import EntrySkipped
from protocol.orders import OrderType, Side, TimeInForce
from protocol.signing import sign
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import COMMANDS_FIELD, MESSAGES_FIELD
from protocol.units import AccountId, AssetUnits, PriceTicks, QuantityLots, TimeMs
from stream_log.interface import Commit, Skip, StreamLog, as_skipped
from stream_log.memory_log import MemoryStreamLog
from stream_log.redis_log import RedisStreamLog
from tests.support.workers import (
    deposits,
    enqueue,
    events_of,
    market_map,
    run_until_quiet,
    trading,
    worker,
)

MARKETS = market_map(3)
NOW_US = 1_795_000_000_000_000
PRIVATE = {role: Ed25519PrivateKey.from_private_bytes(bytes([role]) * 32) for role in Role}
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes([9]) * 32)
KEYS = tuple(OperatorKey(role.name, role, PRIVATE[role].public_key().public_bytes_raw()) for role in Role)


@pytest.fixture(params=["memory", "redis"])
def log(request: pytest.FixtureRequest) -> StreamLog:
    if request.param == "memory":
        return MemoryStreamLog(itertools.count(1_767_225_600_000).__next__)
    return RedisStreamLog.connect(request.getfixturevalue("redis_url"))


@pytest.fixture
def workers(log: StreamLog) -> list[Worker]:
    """Three shards that have traded."""
    found = [worker(log, index, MARKETS) for index in range(3)]
    for each in found:
        each.start()
    enqueue(log, deposits(), MARKETS)
    enqueue(log, trading(1, 60), MARKETS)
    run_until_quiet(found)
    assert found[0].shard.state.received[1] > 0
    return found


def skip_of(stream_id: StreamId) -> SkipEntry:
    return SkipEntry(0, "", str(stream_id), "ada", "written by nobody of ours")


def instruction(stream_id: StreamId) -> bytes:
    return encode_skip(skip_of(stream_id), NOW_US)


def unknown_mail(log: StreamLog, shard: Shard, source: int = 1) -> StreamId:
    """Write what shard `source` would send with a later program; it does not know of it itself."""
    first = shard.state.received[source] + 1
    frame = encode_frame((FORMAT, NOW_US, source, shard.state.index, first, [[99, "money"]]))
    return log.append(streams.commands(shard.state.index), {MESSAGES_FIELD: frame})


def deposit(number: int) -> Deposit:
    return Deposit(number, "gate", AccountId(3), "USDT", AssetUnits(1), f"more {number}")


def letters(log: StreamLog) -> list[dict[bytes, bytes]]:
    return [entry.fields for entry in log.read({streams.dead_letters(0): STREAM_START}, 100, block_ms=0)]


def verify(log: StreamLog, leader: Worker) -> int:
    """Replay shard 0 from the beginning, as `exchange replay --verify` does.

    Return the number of entries that nobody could apply.
    """
    source = StreamLogSource(log, 0)
    verifier = Verifier(source, Replay(source, 0, 3), leader.position.stream_id, checksum=log.checksum(0))
    for _ in verifier.run():
        pass
    verifier.compare_digest(leader.shard.state.command_count, leader.shard.digest())
    verdict = verifier.verdict()
    assert verdict.difference is None
    assert verdict.checksums == 1
    assert state_hash(verifier.replay.shard) == state_hash(leader.shard)
    return verdict.dead_letters


def test_unknown_mail_halts_the_shard_right_before_it_again_and_again(
    log: StreamLog, workers: list[Worker]
) -> None:
    zero = workers[0]
    enqueue(log, [deposit(1)], MARKETS)
    before = log.last_id(streams.commands(0))
    poison = unknown_mail(log, zero.shard)
    enqueue(log, [deposit(2)], MARKETS)
    with pytest.raises(
        MessageNotUnderstood, match=f"entry {poison}: message .* of shard 1 is not understood"
    ):
        run_until_quiet([zero])
    # What came before it in the same batch is committed, and it is the very next entry.
    assert log.position(0).stream_id == before
    for _ in range(2):
        again = worker(log, 0, MARKETS)
        again.start()
        with pytest.raises(MessageNotUnderstood, match=f"entry {poison}"):
            run_until_quiet([again])
        assert log.position(0).stream_id == before
    assert letters(log) == []


def test_an_operator_has_unknown_mail_skipped(log: StreamLog, workers: list[Worker]) -> None:
    zero, one, _ = workers
    sent, standby = one.shard.state.sent[0], worker(log, 0, MARKETS)
    standby.join()
    poison = unknown_mail(log, zero.shard)
    enqueue(log, [deposit(1)], MARKETS)
    with pytest.raises(MessageNotUnderstood):
        run_until_quiet([zero])
    log.order_skip(0, instruction(poison))
    leader = worker(log, 0, MARKETS)
    leader.start()
    run_until_quiet([leader])

    told = [event for event in events_of(log, 0) if isinstance(event, EntrySkipped)]
    assert [(event.stream_id, event.operator, event.reason) for event in told] == [
        (str(poison), "ada", "written by nobody of ours")
    ]
    assert leader.shard.state.received[1] == sent + 1
    assert (log.skip(0), log.skips(0)) == (None, {poison: instruction(poison)})
    (letter,) = letters(log)
    (entry,) = [
        each for each in log.read({streams.commands(0): STREAM_START}, 1_000, 0) if each.stream_id == poison
    ]
    assert msgspec.msgpack.decode(letter[b"payload"]) == entry.fields
    assert letter[b"reason"] == b"skipped by ada: written by nobody of ours"
    assert letter[b"id"] == str(poison).encode()

    while standby.follow():
        pass
    assert standby.is_compared
    assert state_checksum(standby.shard.state) == state_checksum(leader.shard.state)
    assert state_hash(standby.shard) == state_hash(leader.shard)
    assert verify(log, leader) == 0
    anew = worker(log, 0, MARKETS)
    anew.start()
    assert state_hash(anew.shard) == state_hash(leader.shard)


def place(number: int) -> PlaceOrder:
    return PlaceOrder(
        number, "gate", AccountId(3), f"skip {number}", "BTCUSDT", Side.BUY, OrderType.LIMIT, TimeInForce.GTC,
        PriceTicks(9_000_000), QuantityLots(1_000),
    )  # fmt: skip


def test_an_entry_that_breaks_the_core_is_skipped_and_stays_so_with_a_program_that_is_right(
    log: StreamLog, workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = AccountHalf.place_order

    def breaks(half: AccountHalf, command: PlaceOrder) -> None:
        if command.request_id == 702:
            half._state.totals["USDT"].funds += 1
            raise InvariantBroken("planted")
        right(half, command)

    monkeypatch.setattr(AccountHalf, "place_order", breaks)
    for number in (701, 702, 703):
        enqueue(log, [place(number)], MARKETS)
    position = log.position(0).stream_id
    first, poison, _ = log.read({streams.commands(0): position}, 10, block_ms=0)
    broken = worker(log, 0, MARKETS)
    broken.start()
    with pytest.raises(InvariantBroken, match=f"entry {poison.stream_id}: planted"):
        run_until_quiet([broken])
    assert log.position(0).stream_id == position
    # After a halt entries are committed one by one, so that the next one is the one that is to be skipped.
    halted(log)
    again = worker(log, 0, MARKETS)
    again.start()
    with pytest.raises(InvariantBroken, match=f"entry {poison.stream_id}: planted"):
        run_until_quiet([again])
    assert log.position(0).stream_id == first.stream_id
    log.order_skip(0, instruction(poison.stream_id))
    leader = worker(log, 0, MARKETS)
    leader.start()
    run_until_quiet([leader])
    orders = leader.shard.state.accounts[AccountId(3)].open_orders["BTCUSDT"].values()
    assert {"skip 701", "skip 703"} <= {order.client_order_id for order in orders}
    assert "skip 702" not in {order.client_order_id for order in orders}

    monkeypatch.setattr(AccountHalf, "place_order", right)
    assert verify(log, leader) == 0
    log.save_snapshot(0, encode_snapshot(leader.shard, leader.position.stream_id), leader.position.stream_id)
    anew = worker(log, 0, MARKETS)
    anew.start()
    assert state_hash(anew.shard) == state_hash(leader.shard)


def halted(log: StreamLog) -> None:
    if isinstance(log, MemoryStreamLog):
        log.halt(0)
    else:
        assert isinstance(log, RedisStreamLog)
        log.at(0).set(streams.halted(0), b'{"reason": "planted", "time": 1}')


@pytest.mark.parametrize("wrong", [instruction(StreamId(7)), b"garbage"])
def test_an_instruction_for_something_else_is_dropped(
    log: StreamLog, workers: list[Worker], wrong: bytes
) -> None:
    log.order_skip(0, wrong)
    leader = worker(log, 0, MARKETS)
    leader.start()
    enqueue(log, [deposit(1)], MARKETS)
    run_until_quiet([leader])
    assert log.skip(0) is None
    assert log.skips(0) == {}
    assert not any(isinstance(event, EntrySkipped) for event in events_of(log, 0))
    assert letters(log) == []


def test_what_a_later_release_wrote_can_be_skipped_while_the_leader_holds_it(
    log: StreamLog, workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine_worker.worker._HELD_S", 0.0)
    zero = workers[0]
    held = log.append(streams.commands(0), {COMMANDS_FIELD: encode_frame((FORMAT + 1, NOW_US, "what"))})
    enqueue(log, [deposit(1)], MARKETS)
    zero.step(0)
    assert log.position(0).stream_id != held
    log.order_skip(0, instruction(held))
    run_until_quiet(workers)
    assert [event.stream_id for event in events_of(log, 0) if isinstance(event, EntrySkipped)] == [str(held)]
    assert verify(log, zero) == 0


def test_a_commit_moves_the_instruction_that_it_followed_and_no_other(log: StreamLog) -> None:
    position = log.take_over(0)
    ids = [log.append(streams.commands(0), {b"x": b"y"}) for _ in range(2)]
    log.order_skip(0, b"one")
    log.commit(Commit(0, position, ids[0], skip=Skip(ids[0], b"one")))
    assert (log.skip(0), log.skips(0)) == (None, {ids[0]: b"one"})
    log.order_skip(0, b"another")
    log.commit(Commit(0, log.position(0), ids[1], skip=Skip(ids[1], b"two")))
    assert (log.skip(0), log.skips(0)) == (b"another", {ids[0]: b"one", ids[1]: b"two"})
    log.drop_skip(0, b"one")
    assert log.skip(0) == b"another"
    log.drop_skip(0, b"another")
    assert log.skip(0) is None
    read = log.read_committed(0, STREAM_START, 10).entries
    raw: list[Any] = log.read({streams.commands(0): STREAM_START}, 10, block_ms=0)
    assert read == [as_skipped(entry, frame) for entry, frame in zip(raw, (b"one", b"two"), strict=True)]


def test_what_is_skipped_is_what_the_instruction_says() -> None:
    assert decode_skip(instruction(StreamId(5))).stream_id == "5-0"


def keyed_worker(log: StreamLog, config: ShardConfig) -> Worker:
    return Worker(log, 0, MARKETS, batch_entries_max=3, config=config)


@pytest.fixture
def halted_at(log: StreamLog) -> StreamId:
    """A shard that has keys, which stands still before mail that it does not understand."""
    leader = keyed_worker(log, ShardConfig(keys=KEYS))
    leader.start()
    run_until_quiet([leader])
    leader.shard.state.received[1] = 0
    poison = unknown_mail(log, leader.shard)
    with pytest.raises(MessageNotUnderstood):
        run_until_quiet([leader])
    return poison


def signed(stream_id: StreamId, role: Role, private: Ed25519PrivateKey, shard: int = 0) -> Signed:
    return sign(private, role.name, shard, TimeMs(0), skip_of(stream_id))


def changed(stream_id: StreamId) -> Signed:
    """The signature of another instruction around this one."""
    other = sign(PRIVATE[Role.OPERATOR], Role.OPERATOR.name, 0, TimeMs(0), skip_of(StreamId(7)))
    return msgspec.structs.replace(other, command=signed(stream_id, Role.OPERATOR, STRANGER).command)


NOT_GENUINE: dict[str, Callable[[StreamId], SkipEntry | Signed]] = {
    "unsigned": skip_of,
    "a stranger's key": lambda each: signed(each, Role.OPERATOR, STRANGER),
    "the treasury's key": lambda each: signed(each, Role.TREASURY, PRIVATE[Role.TREASURY]),
    "a faucet's key": lambda each: signed(each, Role.FAUCET, PRIVATE[Role.FAUCET]),
    "an unknown key": lambda each: sign(PRIVATE[Role.OPERATOR], "nobody", 0, TimeMs(0), skip_of(each)),
    "for another shard": lambda each: signed(each, Role.OPERATOR, PRIVATE[Role.OPERATOR], shard=1),
    "the signature of another": changed,
}


@pytest.mark.parametrize("of", NOT_GENUINE.values(), ids=NOT_GENUINE.keys())
def test_an_instruction_that_no_operator_has_signed_is_dropped(
    log: StreamLog, halted_at: StreamId, of: Callable[[StreamId], SkipEntry | Signed]
) -> None:
    before = log.position(0)
    log.order_skip(0, encode_skip(of(halted_at), NOW_US))
    leader = keyed_worker(log, ShardConfig(keys=KEYS))
    leader.start()
    with pytest.raises(MessageNotUnderstood):
        run_until_quiet([leader])
    assert (log.skip(0), log.skips(0)) == (None, {})
    assert log.position(0).stream_id == before.stream_id


def test_an_operators_signature_is_verified_again_by_who_replays(log: StreamLog, halted_at: StreamId) -> None:
    standby = keyed_worker(log, ShardConfig(keys=KEYS))
    standby.join()
    genuine = encode_skip(signed(halted_at, Role.OPERATOR, PRIVATE[Role.OPERATOR]), NOW_US)
    log.order_skip(0, genuine)
    leader = keyed_worker(log, ShardConfig(keys=KEYS))
    leader.start()
    run_until_quiet([leader])
    assert [event.stream_id for event in events_of(log, 0) if isinstance(event, EntrySkipped)] == [
        str(halted_at)
    ]
    assert log.skips(0) == {halted_at: genuine}
    while standby.follow():
        pass
    assert state_checksum(standby.shard.state) == state_checksum(leader.shard.state)
    assert verify(log, leader) == 0


@pytest.mark.parametrize("of", NOT_GENUINE.values(), ids=NOT_GENUINE.keys())
def test_a_committed_skip_that_is_not_genuine_halts_who_replays(
    log: StreamLog, halted_at: StreamId, of: Callable[[StreamId], SkipEntry | Signed]
) -> None:
    """As when somebody has written into `skips:{k}`, or into the archive."""
    standby = keyed_worker(log, ShardConfig(keys=KEYS))
    standby.join()
    forged = encode_skip(of(halted_at), NOW_US)
    log.commit(Commit(0, log.position(0), halted_at, skip=Skip(halted_at, forged)))
    for _ in range(2):
        with pytest.raises(InvariantBroken, match=f"instruction to skip entry {halted_at} is not genuine"):
            standby.follow()
    assert standby.position.stream_id != halted_at
    replay = Replay(StreamLogSource(log, 0), 0, 3)
    with pytest.raises(InvariantBroken, match=f"instruction to skip entry {halted_at} is not genuine"):
        replay.run_to(halted_at)


def test_a_shard_that_nobody_has_configured_follows_every_instruction(log: StreamLog) -> None:
    """It knows no keys yet, and what stands before its configuration must not stop it for ever."""
    poison = log.append(
        streams.commands(0), {MESSAGES_FIELD: encode_frame((FORMAT, NOW_US, 1, 0, 1, [[99]]))}
    )
    log.order_skip(0, encode_skip(signed(poison, Role.OPERATOR, STRANGER), NOW_US))
    leader = keyed_worker(log, ShardConfig(keys=KEYS))
    leader.start()
    run_until_quiet([leader])
    assert log.skips(0).keys() == {poison}
    assert leader.shard.state.config is not None
