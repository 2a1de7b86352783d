"""Workers that follow, on the stream log in memory: a standby is the leader's exact copy, silent, and ready
at every moment."""

import msgspec
import pytest

from engine_worker.candidate import Candidate
from engine_worker.core.shard import Shard
from engine_worker.core.snapshot import encode_snapshot, state_hash
from engine_worker.worker import LogDamaged, Worker
from protocol import streams
from protocol.codec import decode_replies, encode_frame
from protocol.events import MarketConfigured, OrderFilled
from protocol.market import MarketMap
from protocol.replies import BalancesQuery, FundsReply
from protocol.stream_id import STREAM_START
from protocol.streams import COMMANDS_FIELD, QUERIES_FIELD
from protocol.units import AccountId
from stream_log.interface import Fenced
from stream_log.memory_log import MemoryStreamLog
from tests.support.workers import (
    Crash,
    CrashingLog,
    check_contiguous,
    deposits,
    enqueue,
    events_of,
    market_map,
    run_until_quiet,
    settled,
    trading,
)

LEASE_MS = 1_000


class Clock:
    def __init__(self) -> None:
        self.now_ms = 1_767_225_600_000

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock) -> MemoryStreamLog:
    return MemoryStreamLog(clock)


def make_worker(
    log: MemoryStreamLog, clock: Clock, index: int = 0, shard_count: int = 1, markets: MarketMap | None = None
) -> Worker:
    return Worker(log, index, markets or market_map(shard_count), batch_entries_max=3, now_ms=clock)


def with_another_fee(markets: MarketMap) -> MarketMap:
    changed = [msgspec.structs.replace(market, taker_fee_ppm=7_000) for market in markets.markets]
    return MarketMap.of(changed, markets.shard_count)


def make_candidate(log: MemoryStreamLog, clock: Clock, process: str) -> tuple[Candidate, Worker]:
    worker = make_worker(log, clock)
    candidate = Candidate(worker, log, process, 1, LEASE_MS, clock)
    candidate.join()
    return candidate, worker


@pytest.mark.parametrize("has_other_settings", [False, True])
@pytest.mark.parametrize("shard_count", [1, 3])
def test_a_standby_is_an_exact_copy_and_says_nothing(
    log: MemoryStreamLog, clock: Clock, shard_count: int, has_other_settings: bool
) -> None:
    leaders = [make_worker(log, clock, index, shard_count) for index in range(shard_count)]
    for each in leaders:
        each.start()
    run_until_quiet(leaders)  # every shard knows the markets of the others
    markets = market_map(shard_count)
    enqueue(log, deposits(), markets)
    enqueue(log, trading(seed=5, count=80), markets)
    own = with_another_fee(markets) if has_other_settings else markets
    standbys = [make_worker(log, clock, index, markets=own) for index in range(shard_count)]
    while sum([each.step(block_ms=1) for each in leaders]):
        before = log.published[:], [log.last_id(streams.events(index)) for index in range(shard_count)]
        for leader, standby in zip(leaders, standbys, strict=True):
            while standby.follow():
                pass
            assert standby.position == (0, leader.position.stream_id)
            assert state_hash(standby.shard) == state_hash(leader.shard)
            assert standby.is_compared
        assert (log.published, [log.last_id(streams.events(index)) for index in range(shard_count)]) == before
    assert all(
        any(isinstance(event, OrderFilled) for event in events_of(log, index)) for index in range(shard_count)
    )


def test_a_standby_that_has_not_taken_over_cannot_write(log: MemoryStreamLog, clock: Clock) -> None:
    leader, standby = make_worker(log, clock), make_worker(log, clock)
    leader.start()
    standby.join()
    enqueue(log, deposits(), market_map(1))
    with pytest.raises(Fenced):
        standby.step(block_ms=1)


def test_a_crash_of_the_leader_at_any_step_is_taken_over_by_the_standby(clock: Clock) -> None:
    """At each step of the leader a standby that is as far as it happens to be takes over and finishes the
    story."""

    def run(crash_at: int) -> tuple[CrashingLog, Worker]:
        log = MemoryStreamLog(clock)
        first = make_worker(log, clock)
        first.start()
        run_until_quiet([first])  # the shard is configured
        crashing = CrashingLog(log)
        crashing.crash_at = crash_at
        markets = market_map(1)
        leader, standby = make_worker(crashing, clock), make_worker(log, clock)  # type: ignore[arg-type]
        enqueue(log, deposits(), markets)
        enqueue(log, trading(seed=6, count=40), markets)
        try:
            leader.start()
            steps = 0
            while leader.step(block_ms=1):
                steps += 1
                if steps % 3 == 0:
                    standby.follow()
            return crashing, leader
        except Crash:
            standby.lead()
            run_until_quiet([standby])
            return crashing, standby

    reference, expected = run(crash_at=-1)
    events = events_of(reference._log, 0)
    assert any(isinstance(event, OrderFilled) for event in events)
    for crash_at in range(1, reference.points + 1):
        crashed, survivor = run(crash_at)
        assert state_hash(survivor.shard) == state_hash(expected.shard)
        assert events_of(crashed._log, 0) == events
        check_contiguous(events)
        assert not any(settled([survivor]).values())


def test_a_crash_of_the_leader_while_it_configures_the_shard_leaves_one_configuration(clock: Clock) -> None:
    """Whatever the settings of the standby are, the first configuration that reached the input counts."""

    def run(crash_at: int) -> tuple[CrashingLog, Worker, int]:
        log = MemoryStreamLog(clock)
        crashing = CrashingLog(log)
        crashing.crash_at = crash_at
        markets = market_map(1)
        leader = make_worker(crashing, clock)  # type: ignore[arg-type]
        survivor = make_worker(log, clock, markets=with_another_fee(markets))
        try:
            leader.start()
            run_until_quiet([leader])
            return crashing, leader, 0
        except Crash:
            appended = len(log.read({streams.commands(0): STREAM_START}, 10, block_ms=0))
            survivor.start()
            run_until_quiet([survivor])
            return crashing, survivor, appended

    reference, expected, _ = run(crash_at=-1)
    assert expected.shard.state.market_map == market_map(1)
    by_leader = 0
    for crash_at in range(1, reference.points + 1):
        crashed, survivor, appended = run(crash_at)
        by_leader += appended
        markets = market_map(1) if appended else with_another_fee(market_map(1))
        assert survivor.shard.state.market_map == markets
        assert survivor.shard.state.config == expected.shard.state.config
        configured = [
            event.config.market for event in events_of(crashed._log, 0) if isinstance(event, MarketConfigured)
        ]
        assert configured == list(markets.markets)
    assert 0 < by_leader < reference.points


def test_a_standby_that_was_away_for_too_long_restores_anew(log: MemoryStreamLog, clock: Clock) -> None:
    leader, standby = make_worker(log, clock), make_worker(log, clock)
    leader.start()
    markets = market_map(1)
    enqueue(log, deposits(), markets)
    run_until_quiet([leader])
    standby.join()
    for seed in (1, 2):
        enqueue(log, trading(seed, count=20 * seed)[-20:], markets)  # requests of their own
        run_until_quiet([leader])
        log.save_snapshot(
            0, encode_snapshot(leader.shard, leader.position.stream_id), leader.position.stream_id
        )
        clock.now_ms += 1
    log.trim(streams.commands(0), log.saved_snapshots(0)[1].stream_id)
    enqueue(log, trading(seed=3, count=60)[-20:], markets)
    run_until_quiet([leader])
    while standby.follow():
        pass
    assert state_hash(standby.shard) == state_hash(leader.shard)


def test_without_a_snapshot_that_reaches_the_input_nobody_starts(log: MemoryStreamLog, clock: Clock) -> None:
    leader = make_worker(log, clock)
    leader.start()
    markets = market_map(1)
    for seed in (1, 2):
        enqueue(log, [*deposits(), *trading(seed, count=20)], markets)
        run_until_quiet([leader])
        torn = encode_snapshot(leader.shard, leader.position.stream_id)[:-1]
        log.save_snapshot(0, torn, leader.position.stream_id)
        clock.now_ms += 1
    log.trim(streams.commands(0), log.saved_snapshots(0)[1].stream_id)
    with pytest.raises(LogDamaged, match="restore"):
        make_worker(log, clock).start()


def test_an_answer_worked_out_before_a_takeover_is_not_given_after_it(
    log: MemoryStreamLog, clock: Clock
) -> None:
    leader, standby = make_worker(log, clock), make_worker(log, clock)
    leader.start()
    enqueue(log, deposits(), market_map(1))
    run_until_quiet([leader])
    log.append(streams.queries(0), {QUERIES_FIELD: encode_frame([BalancesQuery(8, "gate", AccountId(1))])})
    leader.step(block_ms=1)
    standby.start()
    with pytest.raises(Fenced):
        leader.step(block_ms=1)
    leader.finish()
    assert [channel for channel, _ in log.published if channel == "reply:gate"] == []


def test_an_answer_worked_out_before_leaving_is_given(log: MemoryStreamLog, clock: Clock) -> None:
    leader = make_worker(log, clock)
    leader.start()
    log.append(streams.queries(0), {QUERIES_FIELD: encode_frame([BalancesQuery(8, "gate", AccountId(1))])})
    leader.step(block_ms=1)
    leader.finish()
    (reply,) = decode_replies(log.published[-1][1])
    assert isinstance(reply, FundsReply)


def test_candidates_hand_the_shard_on(log: MemoryStreamLog, clock: Clock) -> None:
    (one, first), (two, second) = make_candidate(log, clock, "one"), make_candidate(log, clock, "two")
    markets = market_map(1)
    one.step(1)
    two.step(1)
    assert (one.leads, two.leads) == (True, False)
    assert [each.process for each in log.standbys(0)] == ["two"]
    enqueue(log, deposits(), markets)
    for _ in range(50):  # a leader that steps keeps its lease, however long
        clock.now_ms += 100
        one.step(1)
        two.step(1)
    assert (one.leads, two.leads) == (True, False)
    assert state_hash(first.shard) == state_hash(second.shard)

    one.leave()
    clock.now_ms += two.poll_ms
    two.step(1)
    assert (two.leads, log.standbys(0)) == (True, [])

    three, _ = make_candidate(log, clock, "three")
    three.step(1)
    assert not three.leads
    log.disconnect("two")  # killed
    waited_ms = 0
    while not three.leads:
        clock.now_ms += 10
        waited_ms += 10
        three.step(1)
    assert waited_ms < LEASE_MS / 2, "before the lease ends"
    with pytest.raises(Fenced):
        two.step(1)


def test_a_leader_that_falls_silent_loses_its_lease(log: MemoryStreamLog, clock: Clock) -> None:
    (one, _), (two, _) = make_candidate(log, clock, "one"), make_candidate(log, clock, "two")
    one.step(1)
    waited_ms = 0
    while not two.leads:
        clock.now_ms += 10
        waited_ms += 10
        two.step(1)
    assert LEASE_MS <= waited_ms <= LEASE_MS + two.poll_ms + 10
    with pytest.raises(Fenced):
        one.step(1)


def test_a_long_batch_does_not_cost_the_lease(
    log: MemoryStreamLog, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time passes with every entry that is applied, more in one batch than a lease is long."""
    worker = Worker(log, 0, market_map(1), batch_entries_max=1_000, now_ms=clock)
    candidate = Candidate(worker, log, "one", 1, LEASE_MS, clock)
    candidate.join()
    candidate.step(1)
    apply = Shard.apply
    least_ms = LEASE_MS

    def slow(*arguments: object) -> None:
        nonlocal least_ms
        clock.now_ms += 5
        least_ms = min(least_ms, log.lease(0).remaining_ms)
        apply(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Shard, "apply", slow)
    enqueue(log, trading(seed=7, count=1_000), market_map(1))
    assert candidate.step(1) == 1_000
    assert log.position(0).stream_id != STREAM_START
    assert least_ms > LEASE_MS / 4


def test_a_long_entry_does_not_cost_the_lease(
    log: MemoryStreamLog, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, within one entry."""
    worker = Worker(log, 0, market_map(1), batch_entries_max=1_000, now_ms=clock)
    candidate = Candidate(worker, log, "one", 1, LEASE_MS, clock)
    candidate.join()
    candidate.step(1)
    apply, least_ms = Shard.apply, LEASE_MS

    def slow(*arguments: object) -> None:
        nonlocal least_ms
        clock.now_ms += 5
        least_ms = min(least_ms, log.lease(0).remaining_ms)
        apply(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Shard, "apply", slow)
    log.append(streams.commands(0), {COMMANDS_FIELD: encode_frame(list(trading(seed=7, count=1_000)))})
    assert candidate.step(1)
    assert worker.core.command_count > 1_000
    assert least_ms > LEASE_MS / 2


def test_an_entry_that_hangs_costs_the_lease(
    log: MemoryStreamLog, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not get on is not renewed for: nothing else could end it."""
    worker = Worker(log, 0, market_map(1), batch_entries_max=1_000, now_ms=clock)
    candidate = Candidate(worker, log, "one", 1, LEASE_MS, clock)
    (two, _) = make_candidate(log, clock, "two")
    candidate.join()
    candidate.step(1)
    enqueue(log, trading(seed=7, count=3), market_map(1))

    def hangs(*_: object) -> None:
        clock.now_ms += 10 * LEASE_MS
        raise SystemExit

    with monkeypatch.context() as hanging:
        hanging.setattr(Shard, "apply", hangs)
        with pytest.raises(SystemExit):
            candidate.step(1)
    two.step(1)
    clock.now_ms += LEASE_MS + 1  # it has not looked for so long that it gives the leader time
    two.step(1)
    assert two.leads


@pytest.mark.parametrize(("size", "events_max", "steps"), [(300, 10**9, 3), (1, 600, 4)])
def test_a_batch_is_bounded_by_commands_and_events(
    log: MemoryStreamLog,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    events_max: int,
    steps: int,
) -> None:
    """2,400 commands, up to 800 in a commit; or 600 events of one order each."""
    monkeypatch.setattr("engine_worker.worker.STEP_COMMANDS_MAX", 800)
    monkeypatch.setattr("engine_worker.worker.STEP_EVENTS_MAX", events_max)
    worker = Worker(log, 0, market_map(1), batch_entries_max=5_000, now_ms=clock)
    worker.start()
    while worker.step(0):
        pass
    commands = [*deposits(), *trading(seed=7, count=2_400 - len(deposits()))]
    for first in range(0, len(commands), size):
        log.append(streams.commands(0), {COMMANDS_FIELD: encode_frame(commands[first : first + size])})
    before, position, taken = worker.core.command_count, worker.position, []
    while worker.step(0):
        assert worker.position != position
        position = worker.position
        taken.append(worker.core.command_count - before)
        before = worker.core.command_count
    assert sum(taken) >= 2_400
    assert len(taken) >= steps
    if size > 1:
        assert max(taken) <= 800 + size
    assert log.position(0).stream_id == log.last_id(streams.commands(0))


def test_what_takes_longer_than_a_lease_is_committed_at_last(
    log: MemoryStreamLog, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One command takes 5 leases.

    Whoever leads loses the shard over it, until a lease is long enough: 1, 1, 2, 4, 8 of them.
    """
    leader, _ = make_candidate(log, clock, "first")
    for _ in range(5):
        leader.step(1)
    enqueue(log, list(trading(seed=7, count=1)), market_map(1))
    slow = log.last_id(streams.commands(0))
    apply, lost = Shard.apply, 0
    while log.position(0).stream_id < slow:
        standby, _ = make_candidate(log, clock, f"standby-{lost}")

        def slowly(*arguments: object, standby: Candidate = standby) -> None:
            monkeypatch.setattr(Shard, "apply", apply)  # whatever the standby applies
            for _ in range(50):
                clock.now_ms += LEASE_MS // 10
                standby.step(0)
                if standby.leads:
                    break
            apply(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(Shard, "apply", slowly)
        try:
            leader.step(1)
        except Fenced:
            lost += 1
            assert lost < 20, "one after the other takes it over, and nobody gets on"
            leader = standby
        monkeypatch.setattr(Shard, "apply", apply)
    assert lost == 4
    leader.step(1)
    assert log.lease(0).remaining_ms <= LEASE_MS, "it is as short as ever once there was a commit"
