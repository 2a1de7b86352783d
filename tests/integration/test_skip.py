"""An entry halts its shard; an operator has it skipped; and everybody who ever reads the log skips it, too."""

import itertools
from typing import Any

import msgspec
import pytest

from engine_worker.checksum import state_checksum
from engine_worker.core.accounts import InvariantBroken
from engine_worker.core.shard import Shard
from engine_worker.core.snapshot import encode_snapshot, state_hash
from engine_worker.input import MessageNotUnderstood
from engine_worker.replay import Replay, StreamLogSource, Verifier
from engine_worker.worker import Worker
from protocol import streams
from protocol.codec import FORMAT, decode_skip, encode_frame, encode_skip
from protocol.commands import Deposit, PlaceOrder, SkipEntry
from protocol.events import EntrySkipped
from protocol.orders import OrderType, Side, TimeInForce
from protocol.streams import COMMANDS_FIELD, MESSAGES_FIELD, STREAM_START, StreamId
from protocol.units import AccountId, AssetUnits, PriceTicks, QuantityLots
from runtime.memory_stream_log import MemoryStreamLog
from runtime.redis_stream_log import RedisStreamLog
from runtime.stream_log import Commit, Skip, StreamLog, as_skipped
from tests.integration.test_worker import (
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
    assert found[0].shard.received[1] > 0
    return found


def instruction(stream_id: StreamId) -> bytes:
    return encode_skip(SkipEntry(0, "", stream_id, "ada", "written by nobody of ours"), NOW_US)


def unknown_mail(log: StreamLog, shard: Shard, source: int = 1) -> StreamId:
    """Write what shard `source` would send with a later program; it does not know of it itself."""
    first = shard.received[source] + 1
    frame = encode_frame((FORMAT, NOW_US, source, shard.index, first, [[99, "money"]]))
    return log.append(streams.commands(shard.index), {MESSAGES_FIELD: frame})


def deposit(number: int) -> Deposit:
    return Deposit(number, "gate", AccountId(3), "USDT", AssetUnits(1), f"more {number}")


def letters(log: StreamLog) -> list[dict[bytes, bytes]]:
    return [entry.fields for entry in log.read({streams.dead_letters(0): STREAM_START}, 100, block_ms=0)]


def verify(log: StreamLog, leader: Worker) -> int:
    """Replay shard 0 from the beginning, as `exchange replay --verify` does; return the number of entries that nobody could apply."""
    source = StreamLogSource(log, 0)
    verifier = Verifier(source, Replay(source, 0, 3), leader.position.stream_id, checksum=log.checksum(0))
    for _ in verifier.run():
        pass
    verifier.compare_digest(leader.shard.command_count, leader.shard.digest())
    verdict = verifier.verdict()
    assert verdict.difference is None
    assert verdict.checksums == 1
    assert state_hash(verifier.replay.shard) == state_hash(leader.shard)
    return verdict.dead_letters


def test_unknown_mail_halts_the_shard_right_before_it_again_and_again(log: StreamLog, workers: list[Worker]) -> None:
    zero = workers[0]
    enqueue(log, [deposit(1)], MARKETS)
    before = log.last_id(streams.commands(0))
    poison = unknown_mail(log, zero.shard)
    enqueue(log, [deposit(2)], MARKETS)
    with pytest.raises(MessageNotUnderstood, match=f"entry {poison}: message .* of shard 1 is not understood"):
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
    sent, standby = one.shard.sent[0], worker(log, 0, MARKETS)
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
        (poison, "ada", "written by nobody of ours")
    ]
    assert leader.shard.received[1] == sent + 1
    assert (log.skip(0), log.skips(0)) == (None, {poison: instruction(poison)})
    (letter,) = letters(log)
    (entry,) = [each for each in log.read({streams.commands(0): STREAM_START}, 1_000, 0) if each.stream_id == poison]
    assert msgspec.msgpack.decode(letter[b"payload"]) == entry.fields
    assert letter[b"reason"] == b"skipped by ada: written by nobody of ours"
    assert letter[b"id"] == poison.encode()

    while standby.follow():
        pass
    assert standby.is_compared
    assert state_checksum(standby.shard) == state_checksum(leader.shard)
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
    right = Shard._place_order

    def breaks(shard: Shard, command: PlaceOrder) -> None:
        if command.request_id == 702:
            shard.totals["USDT"].funds += 1
            raise InvariantBroken("planted")
        right(shard, command)

    monkeypatch.setattr(Shard, "_place_order", breaks)
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
    orders = leader.shard.accounts[AccountId(3)].open_orders["BTCUSDT"].values()
    assert {"skip 701", "skip 703"} <= {order.client_order_id for order in orders}
    assert "skip 702" not in {order.client_order_id for order in orders}

    monkeypatch.setattr(Shard, "_place_order", right)
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


@pytest.mark.parametrize("wrong", [instruction(StreamId("7-0")), b"garbage"])
def test_an_instruction_for_something_else_is_dropped(log: StreamLog, workers: list[Worker], wrong: bytes) -> None:
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
    assert [event.stream_id for event in events_of(log, 0) if isinstance(event, EntrySkipped)] == [held]
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
    assert decode_skip(instruction(StreamId("5-0"))).stream_id == "5-0"
