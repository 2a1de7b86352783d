"""A follower compares its state with the leader's commits: one that differs halts, whatever made it differ, and never leads."""

import itertools
import random
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import msgspec
import prometheus_client.parser
import pytest
import redis

from cli.ports import free_port
from engine_worker import checksum as checksum_module
from engine_worker import worker as worker_module
from engine_worker.candidate import Candidate
from engine_worker.checksum import StateDiffers, state_checksum
from engine_worker.core import shard as shard_module
from engine_worker.core.snapshot import decode_snapshot, encode_snapshot, state_hash
from engine_worker.snapshots import Snapshotter
from engine_worker.worker import Worker
from protocol import streams
from protocol.commands import Command, PlaceOrder
from protocol.market import MarketMap
from protocol.orders import OrderType, Side, TimeInForce
from protocol.units import AccountId, PriceTicks, QuantityLots
from runtime.halt import HALTED_EXIT_CODE, read_halt
from runtime.memory_stream_log import MemoryStreamLog
from runtime.redis_stream_log import RedisStreamLog
from runtime.stream_log import Fenced, ShardPosition, StreamLog
from tests.integration.test_failover import DEADLINE_S, ENGINE, STANDBY, Workers, eventually
from tests.integration.test_snapshots import large
from tests.integration.test_worker import deposits, enqueue, market_map, run_until_quiet, settled, trading
from tests.redis_servers import RedisServers
from tests.unit.runtime.test_probes import ask

LEASE_MS = 60_000
MARKETS = market_map(1)
_numbers = itertools.count(1)


def with_fee(markets: MarketMap, taker_fee_ppm: int) -> MarketMap:
    changed = (msgspec.structs.replace(market, taker_fee_ppm=taker_fee_ppm) for market in markets.markets)
    return MarketMap.of(list(changed), markets.shard_count)


OTHERS = with_fee(MARKETS, 7_000)


@pytest.fixture(params=["memory", "redis", "sentinel", "cluster"])
def log(request: pytest.FixtureRequest) -> StreamLog:
    if request.param == "memory":
        return MemoryStreamLog(itertools.count(1_767_225_600_000).__next__)
    if request.param == "redis":
        return RedisStreamLog.connect(request.getfixturevalue("redis_url"))
    servers: RedisServers = request.getfixturevalue(f"{request.param}_servers")
    servers.flush()
    return RedisStreamLog.connect(servers.url, replicas_min=1 if request.param == "sentinel" else 0)


@pytest.fixture
def memory() -> MemoryStreamLog:
    return MemoryStreamLog(itertools.count(1_767_225_600_000).__next__)


def make(log: StreamLog, markets: MarketMap = MARKETS) -> Worker:
    return Worker(log, 0, markets, batch_entries_max=3, now_ms=lambda: 0)


def trade() -> list[Command]:
    """Two orders that meet: the taker pays its fee."""
    return [
        PlaceOrder(
            next(_numbers),
            "test",
            AccountId(account_id),
            f"t{next(_numbers)}",
            "BTCUSDT",
            side,
            OrderType.LIMIT,
            TimeInForce.GTC,
            PriceTicks(10_000_000),
            QuantityLots(1_000),
        )
        for account_id, side in ((1, Side.SELL), (2, Side.BUY))
    ]


def follow(standby: Worker) -> None:
    while standby.follow():
        pass


def with_standby(log: StreamLog, markets: MarketMap) -> tuple[Worker, Worker]:
    """Return a leader and, with other settings perhaps, a standby that is in step before the first trade."""
    leader, standby = make(log), make(log, markets)
    leader.start()
    enqueue(log, deposits(), MARKETS)
    run_until_quiet([leader])
    standby.join()
    follow(standby)
    assert standby.position.stream_id == leader.position.stream_id
    return leader, standby


def test_a_standby_with_another_fee_halts_at_the_next_commit(log: StreamLog) -> None:
    leader, standby = with_standby(log, OTHERS)
    enqueue(log, trade(), MARKETS)
    leader.step(block_ms=10)
    at = leader.position.stream_id
    with pytest.raises(StateDiffers) as differs:
        follow(standby)
    committed = log.checksum(0)
    assert committed == (at, state_checksum(leader.shard))
    for part in ("shard 0", at, committed.checksum, state_checksum(standby.shard), "settings", "version"):
        assert part in str(differs.value)

    # It neither leads nor follows any more, and the leader goes on.
    before = log.position(0)
    for attempt in (standby.lead, standby.follow, standby.start):
        with pytest.raises(StateDiffers):
            attempt()
    with pytest.raises(Fenced):
        standby.step(block_ms=1)
    assert not standby.leads
    assert not standby.is_compared
    assert log.position(0) == before
    enqueue(log, trade(), MARKETS)
    run_until_quiet([leader])
    assert log.position(0) == (before.epoch, leader.position.stream_id)
    assert leader.position.stream_id != at
    # A worker with the leader's settings takes part again.
    again = make(log)
    again.start()
    assert state_hash(again.shard) == state_hash(leader.shard)


def test_without_the_comparison_it_follows_and_leads(memory: MemoryStreamLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "compare", lambda *_: None)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_a_standby_with_another_fee_halts_at_the_next_commit(memory)


def test_a_candidate_that_differs_never_takes_the_lease(memory: MemoryStreamLog) -> None:
    now = [0]
    workers = make(memory), make(memory, OTHERS)
    one, two = (
        Candidate(worker, memory, name, 1, LEASE_MS, lambda: now[0]) for worker, name in zip(workers, "ab", strict=True)
    )
    one.join()
    one.step(1)
    enqueue(memory, deposits(), MARKETS)
    run_until_quiet([workers[0]])
    two.join()
    two.step(1)
    enqueue(memory, trade(), MARKETS)
    one.step(1)
    memory.disconnect("a")  # killed right after its commit
    for _ in range(100):
        now[0] += LEASE_MS
        with pytest.raises(StateDiffers):
            two.step(1)
    assert memory.position(0).epoch == 1


def test_it_does_not_push_aside_a_leader_whose_last_commit_it_has_not_seen(log: StreamLog) -> None:
    leader, standby = with_standby(log, OTHERS)
    enqueue(log, trade(), MARKETS)
    run_until_quiet([leader])
    with pytest.raises(StateDiffers):
        standby.lead()
    assert log.position(0) == leader.position


def test_a_commit_that_comes_just_before_the_takeover_is_compared_as_well(
    memory: MemoryStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, standby = with_standby(memory, OTHERS)
    enqueue(memory, trade(), MARKETS)
    take_over = memory.take_over

    def late(*arguments: Any) -> ShardPosition:
        run_until_quiet([leader])
        return take_over(*arguments)

    monkeypatch.setattr(memory, "take_over", late)
    with pytest.raises(StateDiffers):
        standby.lead()
    assert not standby.leads
    with pytest.raises(Fenced):
        standby.step(block_ms=1)


@pytest.mark.parametrize("seed", range(4))
def test_equal_workers_never_differ_however_batches_are_cut(
    log: StreamLog, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_module, "STATE_HASH_INTERVAL", 10)
    compared = []
    compare = checksum_module.compare

    def counted(*arguments: Any) -> None:
        compared.append(arguments)
        compare(*arguments)

    monkeypatch.setattr(worker_module, "compare", counted)
    chosen = random.Random(seed)
    leader, standby = make(log), make(log)
    leader.start()
    standby.join()
    enqueue(log, deposits(), MARKETS)
    batches = 0
    for command in trading(seed, 600):
        enqueue(log, [command], MARKETS)
        if chosen.random() < 0.02:
            log.append(streams.commands(0), {b"x": b"garbage"})
        if chosen.random() < 0.5:
            leader._batch_entries_max = chosen.randrange(1, 12)
            batches += bool(leader.step(block_ms=1))
        if chosen.random() < 0.4:
            standby.follow(chosen.randrange(1, 9))
        if chosen.random() < 0.02:
            log.save_snapshot(0, encode_snapshot(standby.shard, standby.position.stream_id), standby.position.stream_id)
        if chosen.random() < 0.02:
            standby = make(log)
            standby.join()
        if chosen.random() < 0.01:
            leader, standby = standby, make(log)
            leader.lead()
            standby.join()
    run_until_quiet([leader])
    follow(standby)
    assert batches >= 200
    assert len(compared) >= 100
    assert standby.is_compared
    assert state_hash(standby.shard) == state_hash(leader.shard)
    assert not any(settled([leader]).values())


def test_a_standby_that_is_always_behind_compares_nevertheless(memory: MemoryStreamLog) -> None:
    leader, standby = with_standby(memory, OTHERS)
    halted = False
    for _ in range(60):
        enqueue(memory, trade(), MARKETS)
        run_until_quiet([leader])
        try:
            standby.follow(1)
        except StateDiffers:
            halted = True
            break
        assert standby.position.stream_id != leader.position.stream_id
    assert halted


@pytest.mark.parametrize("with_snapshot", [False, True])
def test_a_worker_whose_replay_differs_refuses_to_start(log: StreamLog, with_snapshot: bool) -> None:
    """Alone: the leader was killed, and started again with other settings than those of the log that it replays."""
    leader = make(log)
    leader.start()
    enqueue(log, deposits(), MARKETS)
    run_until_quiet([leader])
    if with_snapshot:
        log.save_snapshot(0, encode_snapshot(leader.shard, leader.position.stream_id), leader.position.stream_id)
    enqueue(log, trade(), MARKETS)
    run_until_quiet([leader])
    with pytest.raises(StateDiffers):
        make(log, OTHERS).start()
    assert log.position(0) == leader.position
    again = make(log)
    again.start()
    assert state_hash(again.shard) == state_hash(leader.shard)


def test_settings_may_change_where_nothing_is_replayed(log: StreamLog) -> None:
    """A worker that was told to stop has saved its state at the very position."""
    leader = make(log)
    leader.start()
    enqueue(log, [*deposits(), *trade()], MARKETS)
    run_until_quiet([leader])
    log.save_snapshot(0, encode_snapshot(leader.shard, leader.position.stream_id), leader.position.stream_id)
    changed = make(log, OTHERS)
    changed.start()
    enqueue(log, trade(), OTHERS)
    run_until_quiet([changed])
    assert log.position(0) == changed.position


def test_a_snapshot_of_another_state_is_noticed_without_any_input_after_it(memory: MemoryStreamLog) -> None:
    leader, _ = with_standby(memory, MARKETS)
    leader.shard.order_count += 1
    memory.save_snapshot(0, encode_snapshot(leader.shard, leader.position.stream_id), leader.position.stream_id)
    with pytest.raises(StateDiffers):
        make(memory).join()


def test_a_market_may_be_added_while_a_standby_follows(
    memory: MemoryStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who know it and those who do not come to the same, `StateHashed` included, until somebody trades on it."""
    monkeypatch.setattr(shard_module, "STATE_HASH_INTERVAL", 10)
    fewer = MarketMap.of(list(MARKETS.markets[:2]), 1)
    leader, standby = make(memory, fewer), make(memory)
    leader.start()
    standby.join()
    enqueue(memory, [*deposits(), *trading(1, 100)], fewer)
    run_until_quiet([leader])
    follow(standby)
    standby.lead()
    order = msgspec.structs.replace(
        cast(PlaceOrder, trade()[1]), request_id=999, market="SOLUSDT", price=PriceTicks(10_000)
    )
    enqueue(memory, [order, *deposits()], MARKETS)
    run_until_quiet([standby])
    with pytest.raises(StateDiffers):
        make(memory, fewer).join()


def test_without_a_checksum_there_is_nothing_to_compare(log: StreamLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is with what an older program has committed."""
    monkeypatch.setattr(worker_module, "state_checksum", lambda _: "")
    leader, standby = with_standby(log, OTHERS)
    assert log.checksum(0) is None
    enqueue(log, trade(), MARKETS)
    run_until_quiet([leader])
    follow(standby)
    assert standby.is_compared


def test_an_older_program_leaves_a_checksum_behind_that_is_compared_only_at_its_own_entry(
    log: StreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, standby = with_standby(log, MARKETS)
    stale = log.checksum(0)
    enqueue(log, trade(), MARKETS)
    run_until_quiet([leader])
    if isinstance(log, MemoryStreamLog):
        assert stale is not None
        log._checksums[0] = stale
    else:
        assert isinstance(log, RedisStreamLog)
        assert stale is not None
        log.at(0).set(streams.checksum(0), "|".join(stale))
    follow(standby)
    assert standby.is_compared
    make(log).join()


def test_a_standby_saves_no_snapshot_of_what_it_has_not_compared(memory: MemoryStreamLog) -> None:
    leader, standby = with_standby(memory, OTHERS)
    enqueue(memory, [*trade(), *trade()], MARKETS)
    run_until_quiet([leader])
    snapshotter = Snapshotter(standby, cast(Any, memory), lambda: cast(Any, memory), 0, 0.0)
    standby.follow(3)
    assert not standby.is_compared
    snapshotter.run()
    assert not snapshotter.busy
    with pytest.raises(StateDiffers):
        follow(standby)
    snapshotter.run()
    assert not snapshotter.busy
    assert memory.snapshots(0) == []


# ---------------------------------------------------------------------- processes


def markets_file(folder: Path) -> Path:
    """Write the shipped markets with another fee."""
    text = Path(streams.__file__).with_name("markets.toml").read_text("utf-8")
    path = folder / "other-markets.toml"
    path.write_text(text.replace("[[markets]]", '[[markets]]\ntaker_fee = "0.007"'), "utf-8")
    return path


@pytest.fixture
def workers(redis_url: str, tmp_path: Path) -> Iterator[Workers]:
    with closing(Workers(redis_url, tmp_path, LEASE_MS, snapshot_interval_s=3_600)) as workers:
        yield workers


def differs(port: int) -> float | None:
    """Return the metric of the process at a port."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=DEADLINE_S) as answer:
            text = answer.read().decode()
    except OSError:
        return None
    families = prometheus_client.parser.text_string_to_metric_families(text)
    samples = (sample for family in families for sample in family.samples)
    return next((sample.value for sample in samples if sample.name == "engine_standby_differs"), None)


def begin(log: StreamLog) -> None:
    """Let there be deposits, and a snapshot of them that is new: processes save none of what comes after it."""
    first = make(log)
    first.start()
    enqueue(log, deposits(), MARKETS)
    run_until_quiet([first])
    log.save_snapshot(0, encode_snapshot(first.shard, first.position.stream_id), first.position.stream_id)


def put(log: StreamLog, commands: list[Command]) -> None:
    """Enqueue commands, and wait until they are committed."""
    enqueue(log, commands, MARKETS)
    last = log.last_id(streams.commands(0))
    eventually("the commit", lambda: log.position(0).stream_id == last)


def test_a_standby_process_says_that_it_differs_and_the_leader_goes_on(
    workers: Workers, redis_url: str, tmp_path: Path
) -> None:
    log, client = RedisStreamLog.connect(redis_url), redis.Redis.from_url(redis_url)
    begin(log)
    workers.start(ENGINE)
    workers.wait_for_leader(ENGINE)
    port = free_port()
    others = {"markets_file": markets_file(tmp_path), "metrics_port": port}
    workers.start(STANDBY, "tests.integration.impatient_standby", **others)
    workers.wait_for_standby(STANDBY)
    assert differs(port) == 0
    put(log, trade())
    eventually("the metric", lambda: differs(port) == 1)
    status, reasons = ask(f"http://127.0.0.1:{port}/readyz")
    assert status == 503
    assert "was committed" in reasons["process"]
    put(log, trade())
    assert workers.leader() == log.lease(0).leader
    assert read_halt(client, 0) is None
    assert workers.running[STANDBY].poll() is None

    # Now nobody is left who may lead: the shard is halted, rather than led from another state.
    workers.send(ENGINE, signal.SIGKILL)
    epoch = log.position(0).epoch
    assert workers.running[STANDBY].wait(DEADLINE_S) == HALTED_EXIT_CODE
    halt = read_halt(client, 0)
    assert halt is not None
    assert "was committed" in halt.reason
    assert log.position(0).epoch == epoch
    workers.start(ENGINE)
    workers.wait_for_leader(ENGINE)
    put(log, trade())
    eventually("the halt is over", lambda: read_halt(client, 0) is None)


def test_a_process_that_replays_with_another_fee_halts_the_shard(
    workers: Workers, redis_url: str, tmp_path: Path
) -> None:
    log, client = RedisStreamLog.connect(redis_url), redis.Redis.from_url(redis_url)
    begin(log)
    workers.start(ENGINE)
    workers.wait_for_leader(ENGINE)
    put(log, trade())
    workers.send(ENGINE, signal.SIGKILL)
    workers.running[ENGINE].wait(DEADLINE_S)
    position = log.position(0)
    workers.start(ENGINE, markets_file=markets_file(tmp_path))
    assert workers.running[ENGINE].wait(DEADLINE_S) == HALTED_EXIT_CODE
    assert log.position(0) == position
    halt = read_halt(client, 0)
    assert halt is not None
    assert "was committed" in halt.reason
    workers.start(ENGINE)
    workers.wait_for_leader(ENGINE)
    eventually("the halt is over", lambda: read_halt(client, 0) is None)


def test_a_process_that_makes_a_snapshot_from_the_log_saves_nothing_that_differs(
    redis_url: str, tmp_path: Path
) -> None:
    log = RedisStreamLog.connect(redis_url)
    leader = make(log)
    leader.start()
    enqueue(log, [*deposits(), *trade()], MARKETS)
    run_until_quiet([leader])
    snapshotter = large(leader, log, redis_url, MARKETS_FILE=str(markets_file(tmp_path)))

    def turned(until: bool) -> bool:
        snapshotter.run()
        return until

    snapshotter.run()
    assert snapshotter.busy
    eventually("the process has ended", lambda: turned(not snapshotter.busy))
    assert log.snapshots(0) == []
    eventually("a forked child has saved one", lambda: turned(bool(log.snapshots(0))))
    snapshotter.abandon()
    assert state_hash(decode_snapshot(log.snapshots(0)[0])[0]) == state_hash(leader.shard)
