"""A follower compares its state with the leader's commits: one that differs halts, whatever made it differ,
and never leads.

What makes it differ is its program (tests/support/other_rules.py), never its settings: the log
configures what decides outcomes.
"""

import itertools
import random
import signal
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec
import prometheus_client.parser
import pytest
import redis
import structlog

from cli.local.free_ports import free_port
from engine_worker import checksum as checksum_module
from engine_worker import worker as worker_module
from engine_worker.candidate import Candidate
from engine_worker.checksum import StateDiffers, state_checksum
from engine_worker.core import journal
from engine_worker.core.shard import Shard
from engine_worker.core.snapshot import decode_snapshot, encode_snapshot, state_hash
from engine_worker.snapshots import Snapshotter
from engine_worker.worker import Worker
from protocol import streams
from protocol.codec import encode_commands
from protocol.commands import Command, ConfigureMarket, PlaceOrder
from protocol.configuration import MarketConfig, ShardConfig
from protocol.events import OrderAccepted, OrderFilled
from protocol.market import MarketMap
from protocol.orders import Liquidity, OrderType, Side, TimeInForce
from protocol.positions import ShardPosition
from protocol.replies import ConfigQuery
from protocol.streams import COMMANDS_FIELD
from protocol.units import AccountId, PriceTicks, QuantityLots, TimeMs
from protocol.windows import DEFAULT_WINDOWS, Windows
from stream_log.halt import HALTED_EXIT_CODE, read_halt
from stream_log.interface import Fenced, StreamLog
from stream_log.memory_log import MemoryStreamLog
from stream_log.redis_log import RedisStreamLog
from tests.support.engine_processes import DEADLINE_S, ENGINE, STANDBY, Workers
from tests.support.eventually import eventually
from tests.support.large_states import large
from tests.support.other_rules import WorkerWithOtherRules, start_snapshot
from tests.support.probe_questions import ask
from tests.support.redis_servers import RedisServers
from tests.support.workers import (
    FAR_US,
    deposits,
    enqueue,
    events_of,
    market_map,
    run_until_quiet,
    settled,
    trading,
)

LEASE_MS = 60_000
MARKETS = market_map(1)
_numbers = itertools.count(1_000_000)
"""Request ids, which are not those of `trading`."""


def changed(markets: MarketMap, **limits: int) -> MarketMap:
    """Return the markets with other fees or limits."""
    return MarketMap.of(
        [msgspec.structs.replace(each, **limits) for each in markets.markets], markets.shard_count
    )


DOGE = msgspec.structs.replace(MARKETS.markets[0], symbol="DOGEUSDT", base="DOGE")
OTHER_SETTINGS = {
    "another fee": changed(MARKETS, taker_fee_ppm=7_000),
    "narrower limits": changed(MARKETS, quantity_max=1, notional_min=10**17, open_orders_max=1),
    "fewer markets": MarketMap.of(MARKETS.markets[1:], 1),
    "more markets": MarketMap.of([DOGE, *MARKETS.markets], 1),
}


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


@pytest.fixture(params=OTHER_SETTINGS.values(), ids=[name.replace(" ", "-") for name in OTHER_SETTINGS])
def others(request: pytest.FixtureRequest) -> MarketMap:
    """The markets that a worker's settings name, other than those of the log."""
    markets: MarketMap = request.param
    return markets


def make(
    log: StreamLog,
    markets: MarketMap = MARKETS,
    windows: Windows = DEFAULT_WINDOWS,
    of: type[Worker] = Worker,
) -> Worker:
    return of(log, 0, markets, batch_entries_max=3, config=ShardConfig(windows=windows), now_ms=lambda: 0)


def make_other(log: StreamLog) -> Worker:
    """Make a worker whose program has other rules."""
    return make(log, of=WorkerWithOtherRules)


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


def with_standby(log: StreamLog, make_standby: Callable[[StreamLog], Worker]) -> tuple[Worker, Worker]:
    """Return a leader and a standby, perhaps of another program, that is in step before the first trade."""
    leader, standby = make(log), make_standby(log)
    leader.start()
    enqueue(log, deposits(), MARKETS)
    run_until_quiet([leader])
    standby.join()
    follow(standby)
    assert standby.position.stream_id == leader.position.stream_id
    return leader, standby


def configure(log: StreamLog, *configs: MarketConfig) -> None:
    commands = [ConfigureMarket(next(_numbers), "test", config) for config in configs]
    log.append(streams.commands(0), {COMMANDS_FIELD: encode_commands(commands, FAR_US)})


def order_for(market: str) -> Command:
    """Return an order to buy in a market where nobody sells."""
    return msgspec.structs.replace(cast(PlaceOrder, trade()[1]), market=market)


def told(log: StreamLog, shard: Shard) -> dict[str, Any]:
    """Return what a shard's clients can see of it, and the hash of its state."""
    return {
        "balances": [account.balances() for _, account in sorted(shard.state.accounts.items())],
        "trade ids": {
            symbol: state.trade_id for symbol, state in shard.state.markets.items() if state.trade_id
        },
        "depth": {symbol: shard.depth(symbol) for symbol in shard.state.markets},
        "events": events_of(log, 0),
        "configuration": shard.answer(ConfigQuery(1, "test"), TimeMs(0)),
        "hash": state_hash(shard),
    }


def taker_fees(log: StreamLog) -> list[int]:
    """Return the fee of every taker, in the order of the trades."""
    fills = [event for event in events_of(log, 0) if isinstance(event, OrderFilled)]
    return [fill.fee for fill in fills if fill.liquidity is Liquidity.TAKER]


def test_a_standby_of_another_program_halts_at_the_next_commit(log: StreamLog) -> None:
    leader, standby = with_standby(log, make_other)
    enqueue(log, trade(), MARKETS)
    leader.step(block_ms=10)
    at = leader.position.stream_id
    with pytest.raises(StateDiffers) as differs:
        follow(standby)
    committed = log.checksum(0)
    assert committed == (at, state_checksum(leader.shard.state))
    for part in ("shard 0", str(at), committed.checksum, state_checksum(standby.shard.state), "version"):
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
    # A worker of the leader's program takes part again, whatever its settings are.
    again = make(log, OTHER_SETTINGS["another fee"])
    again.start()
    assert state_hash(again.shard) == state_hash(leader.shard)


def test_without_the_comparison_it_follows_and_leads(
    memory: MemoryStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "compare", lambda *_: None)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_a_standby_of_another_program_halts_at_the_next_commit(memory)


def test_a_candidate_that_differs_never_takes_the_lease(memory: MemoryStreamLog) -> None:
    now = [0]
    workers = make(memory), make_other(memory)
    one, two = (
        Candidate(worker, memory, name, 1, LEASE_MS, lambda: now[0])
        for worker, name in zip(workers, "ab", strict=True)
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
    leader, standby = with_standby(log, make_other)
    enqueue(log, trade(), MARKETS)
    run_until_quiet([leader])
    with pytest.raises(StateDiffers):
        standby.lead()
    assert log.position(0) == leader.position


def test_a_commit_that_comes_just_before_the_takeover_is_compared_as_well(
    memory: MemoryStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, standby = with_standby(memory, make_other)
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
    monkeypatch.setattr(journal, "STATE_HASH_INTERVAL", 10)
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
            log.save_snapshot(
                0, encode_snapshot(standby.shard, standby.position.stream_id), standby.position.stream_id
            )
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
    leader, standby = with_standby(memory, make_other)
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
    """Alone: the leader was killed, and another program is started on the log."""
    leader = make(log)
    leader.start()
    enqueue(log, deposits(), MARKETS)
    run_until_quiet([leader])
    if with_snapshot:
        log.save_snapshot(
            0, encode_snapshot(leader.shard, leader.position.stream_id), leader.position.stream_id
        )
    enqueue(log, trade(), MARKETS)
    run_until_quiet([leader])
    with pytest.raises(StateDiffers):
        make_other(log).start()
    assert log.position(0) == leader.position
    again = make(log)
    again.start()
    assert state_hash(again.shard) == state_hash(leader.shard)


def test_another_program_may_go_on_where_nothing_is_replayed(log: StreamLog) -> None:
    """A worker that was told to stop has saved its state at the very position."""
    leader = make(log)
    leader.start()
    enqueue(log, [*deposits(), *trade()], MARKETS)
    run_until_quiet([leader])
    log.save_snapshot(0, encode_snapshot(leader.shard, leader.position.stream_id), leader.position.stream_id)
    other = make_other(log)
    other.start()
    enqueue(log, trade(), MARKETS)
    run_until_quiet([other])
    assert log.position(0) == other.position


def test_a_snapshot_of_another_state_is_noticed_without_any_input_after_it(memory: MemoryStreamLog) -> None:
    leader, _ = with_standby(memory, make)
    leader.shard.state.order_count += 1
    memory.save_snapshot(
        0, encode_snapshot(leader.shard, leader.position.stream_id), leader.position.stream_id
    )
    with pytest.raises(StateDiffers):
        make(memory).join()


# ---------------------------------------------------------------------- settings decide no outcome


def test_a_standby_with_other_settings_follows_and_leads(
    log: StreamLog, others: MarketMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "STATE_HASH_INTERVAL", 10)
    leader, standby = with_standby(log, partial(make, markets=others, windows=Windows(1_000, 1_000, 1)))
    enqueue(log, [*trade(), *trading(1, 60)], MARKETS)
    while leader.step(block_ms=1):
        follow(standby)
        assert standby.is_compared
        assert state_hash(standby.shard) == state_hash(leader.shard)
    fees = taker_fees(log)
    standby.lead()
    enqueue(log, [*trade(), *trading(2, 120)[60:]], MARKETS)  # requests of their own
    run_until_quiet([standby])
    assert standby.shard.state.market_map == MARKETS
    assert standby.shard.state.windows == DEFAULT_WINDOWS

    # What it did when it led is what a worker with the first one's settings would have done.
    again = make(log)
    again.join()
    assert told(log, again.shard) == told(log, standby.shard)
    assert len(taker_fees(log)) > len(fees) + 1 > 2
    assert not any(settled([standby]).values())


@pytest.mark.parametrize("with_snapshot", [False, True])
def test_a_restart_with_another_markets_file_changes_nothing(
    log: StreamLog, others: MarketMap, with_snapshot: bool
) -> None:
    leader = make(log)
    leader.start()
    enqueue(log, [*deposits(), *trade(), *trading(3, 40)], MARKETS)
    run_until_quiet([leader])
    if with_snapshot:
        log.save_snapshot(
            0, encode_snapshot(leader.shard, leader.position.stream_id), leader.position.stream_id
        )
    enqueue(log, trade(), MARKETS)
    run_until_quiet([leader])
    before = told(log, leader.shard)
    assert before["trade ids"]["BTCUSDT"] > 2
    inputs = log.last_id(streams.commands(0))

    restarted = make(log, others)
    restarted.start()
    run_until_quiet([restarted])
    assert told(log, restarted.shard) == before
    assert log.last_id(streams.commands(0)) == inputs, "a shard that is configured is not configured again"
    enqueue(log, trade(), MARKETS)
    run_until_quiet([restarted])
    back = make(log)
    back.start()
    assert told(log, back.shard) == told(log, restarted.shard)
    assert told(log, back.shard)["trade ids"]["BTCUSDT"] == before["trade ids"]["BTCUSDT"] + 1


def test_a_market_that_only_new_settings_name_is_there_when_a_command_has_listed_it(log: StreamLog) -> None:
    first = make(log)
    first.start()
    enqueue(log, deposits(), MARKETS)
    run_until_quiet([first])
    restarted, standby = make(log, OTHER_SETTINGS["more markets"]), make(log)
    restarted.start()
    standby.join()
    enqueue(log, [order_for("DOGEUSDT")], MARKETS)
    run_until_quiet([restarted])
    assert "DOGEUSDT" not in restarted.shard.state.markets
    assert not any(isinstance(event, OrderAccepted) for event in events_of(log, 0))

    configure(log, MarketConfig(DOGE, 0))
    enqueue(log, [order_for("DOGEUSDT")], MARKETS)
    run_until_quiet([restarted])
    follow(standby)
    assert [event.order.market for event in events_of(log, 0) if isinstance(event, OrderAccepted)] == [
        "DOGEUSDT"
    ]
    assert told(log, standby.shard) == told(log, restarted.shard)


def test_markets_are_listed_and_changed_by_commands_while_a_standby_follows(
    log: StreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "STATE_HASH_INTERVAL", 10)
    leader, standby = with_standby(log, make)
    known = leader.shard.state.market_configs["BTCUSDT"]
    dearer = msgspec.structs.replace(
        known, market=OTHER_SETTINGS["another fee"].by_symbol["BTCUSDT"], version=2
    )
    enqueue(log, trade(), MARKETS)
    run_until_quiet([leader])
    (fee,) = taker_fees(log)
    configure(log, MarketConfig(DOGE, 0), dearer)
    enqueue(log, [*trade(), order_for("DOGEUSDT"), *trading(1, 30)], MARKETS)
    run_until_quiet([leader])
    assert taker_fees(log)[1] == fee * 7_000 // known.market.taker_fee_ppm
    follow(standby)
    assert standby.is_compared
    assert told(log, standby.shard) == told(log, leader.shard)
    restarted = make(log)
    restarted.start()
    assert told(log, restarted.shard) == told(log, leader.shard)


# ---------------------------------------------------------------------- what is compared


def test_without_a_checksum_there_is_nothing_to_compare(
    log: StreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is with what an older program has committed."""
    monkeypatch.setattr(worker_module, "state_checksum", lambda _: "")
    leader, standby = with_standby(log, make_other)
    assert log.checksum(0) is None
    enqueue(log, trade(), MARKETS)
    run_until_quiet([leader])
    follow(standby)
    assert standby.is_compared


def test_an_older_program_leaves_a_checksum_behind_that_is_compared_only_at_its_own_entry(
    log: StreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, standby = with_standby(log, make)
    stale = log.checksum(0)
    enqueue(log, trade(), MARKETS)
    run_until_quiet([leader])
    if isinstance(log, MemoryStreamLog):
        assert stale is not None
        log._checksums[0] = stale
    else:
        assert isinstance(log, RedisStreamLog)
        assert stale is not None
        log.at(0).set(streams.checksum(0), stale.encode())
    follow(standby)
    assert standby.is_compared
    make(log).join()


def test_a_standby_saves_no_snapshot_of_what_it_has_not_compared(memory: MemoryStreamLog) -> None:
    leader, standby = with_standby(memory, make_other)
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
    """Write the shipped markets with another fee, and one more."""
    text = Path(streams.__file__).with_name("markets.toml").read_text("utf-8")
    markets = text.replace("[[markets]]", '[[markets]]\ntaker_fee = "0.007"')
    first = markets[: markets.index("[[markets]]", markets.index("[[markets]]") + 1)]
    path = folder / "other-markets.toml"
    path.write_text(markets + "\n" + first.replace('"BTC', '"DOGE'), "utf-8")
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
    """Let there be deposits, and a snapshot of them that is new: processes save none of what comes
    after it.
    """
    first = make(log)
    first.start()
    enqueue(log, deposits(), MARKETS)
    run_until_quiet([first])
    log.save_snapshot(0, encode_snapshot(first.shard, first.position.stream_id), first.position.stream_id)


def put(log: StreamLog, commands: list[Command]) -> None:
    """Enqueue commands, and wait until they are committed."""
    enqueue(log, commands, MARKETS)
    last = log.last_id(streams.commands(0))
    eventually("the commit", lambda: log.position(0).stream_id >= last)


def test_a_standby_process_says_that_it_differs_and_the_leader_goes_on(
    workers: Workers, redis_url: str
) -> None:
    log, client = RedisStreamLog.connect(redis_url), redis.Redis.from_url(redis_url)
    begin(log)
    workers.start(ENGINE)
    workers.wait_for_leader(ENGINE)
    port = free_port()
    workers.start(STANDBY, "tests.support.other_rules", metrics_port=port)
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


def test_a_process_of_another_program_that_replays_halts_the_shard(workers: Workers, redis_url: str) -> None:
    log, client = RedisStreamLog.connect(redis_url), redis.Redis.from_url(redis_url)
    begin(log)
    workers.start(ENGINE)
    workers.wait_for_leader(ENGINE)
    put(log, trade())
    workers.send(ENGINE, signal.SIGKILL)
    workers.running[ENGINE].wait(DEADLINE_S)
    position = log.position(0)
    workers.start(ENGINE, "tests.support.other_rules")
    assert workers.running[ENGINE].wait(DEADLINE_S) == HALTED_EXIT_CODE
    assert log.position(0) == position
    halt = read_halt(client, 0)
    assert halt is not None
    assert "was committed" in halt.reason
    workers.start(ENGINE)
    workers.wait_for_leader(ENGINE)
    eventually("the halt is over", lambda: read_halt(client, 0) is None)


# Takes long: several workers start one after the other, each restoring and comparing.
def test_processes_with_another_markets_file_follow_and_lead(
    workers: Workers, redis_url: str, tmp_path: Path
) -> None:
    log, client = RedisStreamLog.connect(redis_url), redis.Redis.from_url(redis_url)
    begin(log)
    other_markets = markets_file(tmp_path)
    workers.start(ENGINE)
    workers.wait_for_leader(ENGINE)
    put(log, trade())
    port = free_port()
    workers.start(STANDBY, metrics_port=port, markets_file=other_markets)
    workers.wait_for_standby(STANDBY)
    put(log, trade())
    workers.send(ENGINE, signal.SIGKILL)
    workers.running[ENGINE].wait(DEADLINE_S)
    workers.wait_for_leader(STANDBY)
    put(log, trade())
    assert differs(port) == 0

    # Alone, started anew: what is replayed was led by both.
    workers.send(STANDBY, signal.SIGKILL)
    workers.running[STANDBY].wait(DEADLINE_S)
    workers.start(STANDBY, markets_file=other_markets)
    workers.wait_for_leader(STANDBY)
    put(log, [*trade(), order_for("DOGEUSDT")])
    workers.send(STANDBY, signal.SIGKILL)
    workers.running[STANDBY].wait(DEADLINE_S)
    assert read_halt(client, 0) is None
    again = make(log)
    again.start()
    assert again.shard.state.market_map == MARKETS
    assert again.shard.state.markets["BTCUSDT"].trade_id == 4
    assert len(set(taker_fees(log))) == 1, "the fee is that of the log, whoever leads"


def test_a_process_that_makes_a_snapshot_from_the_log_saves_nothing_that_differs(redis_url: str) -> None:
    log = RedisStreamLog.connect(redis_url)
    leader = make(log)
    leader.start()
    enqueue(log, [*deposits(), *trade()], MARKETS)
    run_until_quiet([leader])
    snapshotter = large(leader, log, redis_url, start_snapshot)

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


def test_a_process_with_another_markets_file_makes_the_same_snapshot(redis_url: str, tmp_path: Path) -> None:
    log = RedisStreamLog.connect(redis_url)
    leader = make(log)
    leader.start()
    enqueue(log, [*deposits(), *trade()], MARKETS)
    run_until_quiet([leader])
    snapshotter = large(leader, log, redis_url, MARKETS_FILE=str(markets_file(tmp_path)))

    def saved() -> bool:
        snapshotter.run()
        return bool(log.snapshots(0)) and not snapshotter.busy

    with structlog.testing.capture_logs() as logs:
        eventually("a snapshot", saved)
    snapshotter.abandon()
    assert [each["from_log"] for each in logs if each["event"] == "snapshot saved"] == [True]
    assert state_hash(decode_snapshot(log.snapshots(0)[0])[0]) == state_hash(leader.shard)
