"""An upgrade and the switch to what it brings, with this program and a planted next release beside each other
on one log."""

import itertools
from collections.abc import Callable
from typing import TypeVar

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engine_worker.checksum import state_checksum
from engine_worker.core.invariants import InvariantBroken
from engine_worker.core.snapshot import (
    LaterSnapshotError,
    decode_snapshot,
    encode_snapshot,
    snapshot_format,
    state_hash,
)
from engine_worker.metrics import HELD
from engine_worker.replay import Replay, StreamLogSource, Verifier
from engine_worker.worker import Worker
from protocol import streams
from protocol.codec import FORMAT, LaterFormatError, decode_events, encode_commands
from protocol.commands import ConfigureShard, Deposit, LoggedCommand
from protocol.configuration import OperatorKey, Role, ShardConfig
from protocol.events import Event, FundsDeposited, ShardConfigured
from protocol.listing import decode_configuration
from protocol.market import MarketMap
from protocol.orders import RejectReason
from protocol.release import LaterReleaseError, release_of, this_release
from protocol.replies import Refused
from protocol.signing import sign
from protocol.stream_id import STREAM_START
from protocol.streams import COMMANDS_FIELD, EVENTS_FIELD
from protocol.units import AccountId, AssetUnits, TimeMs
from stream_log.interface import StreamLog
from stream_log.memory_log import MemoryStreamLog
from tests.support.next_release import NEXT, DepositsCounted, LaterDeposit, next_release
from tests.support.workers import market_map, run_until_quiet

T = TypeVar("T")

START_MS = 1_795_000_000_000
MARKETS = market_map(1)
OPERATOR = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
KEYED = ShardConfig(keys=(OperatorKey("ops", Role.OPERATOR, OPERATOR.public_key().public_bytes_raw()),))


def later(call: Callable[[], T]) -> T:
    """Let the next release do it."""
    with next_release():
        return call()


@pytest.fixture
def log() -> StreamLog:
    return MemoryStreamLog(itertools.count(START_MS).__next__)


def worker(log: StreamLog, config: ShardConfig | None = None, markets: MarketMap = MARKETS) -> Worker:
    return Worker(log, 0, markets, batch_entries_max=100, config=config or ShardConfig())


def write(log: StreamLog, *commands: LoggedCommand) -> None:
    """Append an entry for each command."""
    for command in commands:
        log.append(streams.commands(0), {COMMANDS_FIELD: encode_commands([command], START_MS * 1_000)})


def deposit(number: int) -> Deposit:
    return Deposit(number, "gate", AccountId(3), "USDT", AssetUnits(5), f"t{number}")


def switched(config: ShardConfig | None) -> ShardConfig:
    assert config is not None
    return msgspec.structs.replace(config, version=config.version + 1, **NEXT._asdict())


def switch(leader: Worker) -> ConfigureShard:
    return ConfigureShard(900, "ops", switched(leader.shard.state.config))


def frames(log: StreamLog) -> list[bytes]:
    return [
        entry.fields[EVENTS_FIELD] for entry in log.read({streams.events(0): STREAM_START}, 1_000, block_ms=0)
    ]


def told(log: StreamLog) -> list[Event]:
    return [event for frame in frames(log) for event in decode_events(frame)]


def leading(log: StreamLog) -> Worker:
    """A worker of this program that leads a shard with three deposits."""
    leader = worker(log)
    leader.start()
    write(log, *map(deposit, range(1, 4)))
    run_until_quiet([leader])
    return leader


def in_step(follower: Worker) -> None:
    while follower.follow(1):
        pass
    assert follower.is_compared


def verify(log: StreamLog) -> None:
    source = StreamLogSource(log, 0)
    verifier = Verifier(source, Replay(source, 0, 1), log.position(0).stream_id, checksum=log.checksum(0))
    for _ in verifier.run():
        pass
    verdict = verifier.verdict()
    assert verdict.difference is None
    assert verdict.checksums == 1


def test_a_new_exchange_begins_with_the_newest_that_its_program_has(log: StreamLog) -> None:
    leader = later(lambda: worker(log))
    later(leader.start)
    later(lambda: run_until_quiet([leader]))
    assert leader.shard.state.config is not None
    assert release_of(leader.shard.state.config) == NEXT


def test_before_the_switch_the_release_before_takes_over_again(log: StreamLog) -> None:
    old = leading(log)
    standby = worker(log)
    standby.join()
    new = worker(log)
    later(new.start)
    write(log, *map(deposit, range(4, 8)))
    later(lambda: run_until_quiet([new]))
    in_step(standby)
    assert state_hash(standby.shard) == state_hash(new.shard)

    # The next release writes nothing that this program does not read: events, snapshots, what gateways read.
    assert {frame[1] for frame in frames(log)} == {FORMAT}
    assert len([event for event in told(log) if isinstance(event, FundsDeposited)]) == 7
    position = new.position.stream_id
    saved = later(lambda: encode_snapshot(new.shard, position))
    assert saved == encode_snapshot(standby.shard, position)
    assert snapshot_format(saved) == 3
    log.save_snapshot(0, saved, position)
    configuration = log.configuration(0)
    assert configuration is not None
    assert decode_configuration(configuration).config == old.shard.state.config

    write(log, deposit(8))
    later(lambda: run_until_quiet([new]))
    again = worker(log)
    again.start()
    write(log, deposit(9))
    run_until_quiet([again])
    assert again.shard.state.accounts[AccountId(3)].funds["USDT"].available == 45
    verify(log)
    later(lambda: verify(log))


def test_after_the_switch_the_next_release_tells_what_it_has(log: StreamLog) -> None:
    leading(log)
    standby, new, follower = worker(log), worker(log), worker(log)
    standby.join()
    later(new.start)
    later(follower.join)
    # The switch is in the middle of a batch of the leader; the follower takes its entries one by one.
    write(log, deposit(4), switch(new), deposit(5))
    later(lambda: run_until_quiet([new]))
    later(lambda: in_step(follower))
    assert state_checksum(follower.shard.state) == state_checksum(new.shard.state)
    events = later(lambda: told(log))
    new_kinds = [
        event for event in events if isinstance(event, LaterDeposit | DepositsCounted | ShardConfigured)
    ]
    assert [type(event) for event in new_kinds[-4:]] == [
        LaterDeposit,
        ShardConfigured,
        LaterDeposit,
        DepositsCounted,
    ]
    assert [event.note for event in new_kinds if isinstance(event, LaterDeposit)] == [""] * 4 + [
        "of the next release"
    ]
    assert frames(log)[-1][1] == NEXT.format
    later(lambda: verify(log))

    with pytest.raises(LaterFormatError):
        decode_events(frames(log)[-1])
    for _ in range(2):
        with pytest.raises(LaterReleaseError, match=f"follows rules {NEXT.rules}"):
            in_step(standby)
    assert standby.shard.state.config is not None
    assert release_of(standby.shard.state.config) == this_release()


def test_a_program_older_than_the_log_does_not_start(log: StreamLog) -> None:
    leading(log)
    new = worker(log)
    later(new.start)
    write(log, switch(new))
    later(lambda: run_until_quiet([new]))
    with pytest.raises(LaterFormatError):
        worker(log).start()
    position = new.position.stream_id
    snapshot = later(lambda: encode_snapshot(new.shard, position))
    assert later(lambda: snapshot_format(snapshot)) == 4
    with pytest.raises(LaterSnapshotError):
        decode_snapshot(snapshot)
    log.save_snapshot(0, snapshot, position)
    with pytest.raises(LaterFormatError, match="the snapshot has format 4, this program reads 3"):
        worker(log).start()
    assert log.position(0).epoch == new.position.epoch, "nobody was pushed aside"
    later(worker(log).start)


def test_a_leader_that_does_not_read_what_it_is_switched_to_holds(
    log: StreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has not asked `exchange formats`.

    To refuse it would be another state than the next release comes to.
    """
    monkeypatch.setattr("engine_worker.worker._HELD_S", 0.0)
    old = leading(log)
    before = old.position
    write(log, switch(old), deposit(4))
    for _ in range(3):
        old.step(0)
    assert (old.position, HELD.labels(0)._value.get()) == (before, NEXT.format)
    new = worker(log)
    later(new.start)
    later(lambda: run_until_quiet([new]))
    assert new.shard.state.accounts[AccountId(3)].funds["USDT"].available == 20
    later(lambda: verify(log))
    assert HELD.labels(0)._value.get() == 0


def test_a_switch_among_other_commands_halts_instead(log: StreamLog) -> None:
    old = leading(log)
    frame = encode_commands([deposit(4), switch(old)], START_MS * 1_000)
    before = log.position(0)
    log.append(streams.commands(0), {COMMANDS_FIELD: frame})
    with pytest.raises(InvariantBroken, match="switched to what another release does"):
        old.step(0)
    assert log.position(0) == before


@pytest.mark.parametrize("is_signed", [False, True])
def test_a_switch_that_nobody_may_order_holds_nothing(log: StreamLog, is_signed: bool) -> None:
    old, stranger = worker(log, KEYED), Ed25519PrivateKey.generate()
    old.start()
    run_until_quiet([old])
    command: LoggedCommand = switch(old)
    if is_signed:
        command = sign(stranger, "ops", 0, TimeMs(START_MS + 500), switch(old))
    write(log, command)
    run_until_quiet([old])
    assert old.position.stream_id == log.last_id(streams.commands(0))
    later(lambda: verify(log))


def test_an_operators_signed_switch_is_followed(log: StreamLog) -> None:
    old = worker(log, KEYED)
    old.start()
    run_until_quiet([old])
    write(log, sign(OPERATOR, "ops", 0, TimeMs(START_MS + 500), switch(old)))
    new = worker(log)
    later(new.start)
    later(lambda: run_until_quiet([new]))
    assert new.shard.state.config is not None
    assert release_of(new.shard.state.config) == NEXT
    with pytest.raises(LaterFormatError):
        worker(log).start()


@pytest.mark.parametrize("number", ["format", "kinds", "rules"])
def test_there_is_no_way_down(log: StreamLog, number: str) -> None:
    leading(log)
    new = worker(log)
    later(new.start)
    write(log, switch(new))
    later(lambda: run_until_quiet([new]))
    config = new.shard.state.config
    assert config is not None
    down = msgspec.structs.replace(
        config, version=config.version + 1, **{number: getattr(config, number) - 1}
    )
    with next_release():
        new.shard.apply(ConfigureShard(7, "ops", down), new.shard.state.time)
        ((_, reply),) = new.shard.take().replies
    assert reply == Refused(7, new.shard.state.time, RejectReason.CONFIG_REFUSED)


@pytest.mark.parametrize(
    ("careless_with", "reason"),
    [
        ("kind", "DepositsCounted was produced before the shard was switched to it"),
        ("field", "LaterDeposit.note is not written before the switch"),
    ],
)
def test_what_is_new_is_never_published_before_the_switch(
    log: StreamLog, careless_with: str, reason: str
) -> None:
    old = worker(log)
    old.start()
    run_until_quiet([old])
    before, known = log.position(0), frames(log)
    careless = worker(log)
    with next_release(careless_with):
        careless.start()
        write(log, deposit(4))
        with pytest.raises(InvariantBroken, match=reason):
            careless.step(0)
    assert (log.position(0).stream_id, frames(log)) == (before.stream_id, known)
