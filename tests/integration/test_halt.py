"""Money that comes from nowhere stops the market before anybody hears of it."""

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from prometheus_client import REGISTRY

from cli.local import supervisor as supervisor_module
from cli.local.embedded import ServerCommand
from cli.local.processes import ProcessSpec
from cli.local.state_file import ProcessStatus, read_state
from cli.local.supervisor import Supervisor
from engine_worker.core.account_half import AccountHalf
from engine_worker.core.accounts import Funds
from engine_worker.core.invariants import InvariantBroken
from engine_worker.core.shard import Shard
from engine_worker.core.snapshot import SnapshotError, _decode, _encode, decode_snapshot, encode_snapshot
from engine_worker.core.transfers import FundsTransfers
from engine_worker.housekeeping import Care
from engine_worker.snapshots import Snapshotter
from engine_worker.worker import LogDamaged, Worker
from protocol import streams
from protocol.codec import decode_commands, encode_commands
from protocol.commands import Command, PlaceOrder, Withdraw
from protocol.events import OrderAccepted, OrderFilled
from protocol.orders import OrderType, Side, TimeInForce
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import COMMANDS_FIELD
from protocol.units import AccountId, PriceTicks, QuantityLots
from runtime.settings import PREFIX, Settings
from stream_log.halt import clear_halt, read_halt, write_halt
from stream_log.redis_log import RedisStreamLog
from tests.support.eventually import eventually
from tests.support.planting import Plant, grow
from tests.support.treasury import signed
from tests.support.workers import (
    deposits,
    enqueue,
    events_of,
    market_map,
    memory_log,
    run_until_quiet,
    worker,
)

DEADLINE_S = 60

CORRUPTIONS = (
    Plant("one unit too much received", AccountHalf, "_exchange", "received - fee", "received - fee + 1"),
    Plant("one unit too little paid", AccountHalf, "_exchange", "paid_funds.pay(paid, unheld - paid)",
          "paid_funds.pay(paid - 1, unheld - paid)"),
    Plant("a fee that nobody gets", AccountHalf, "_exchange", "received_totals.fees += fee", "pass"),
    Plant("a fee that nobody pays", AccountHalf, "_exchange", "received - fee", "received"),
    Plant("a payment that is given back", Funds, "pay", "self.available += released",
          "self.available += released + amount"),
    Plant("a settlement of another size", AccountHalf, "_exchange", "received_totals.settled += received",
          "received_totals.settled += paid"),
    Plant("two prices for one trade", AccountHalf, "_settle", "price * quantity * k",
          "(price - (liquidity is MAKER)) * quantity * k"),
    Plant("a deposit counted twice", FundsTransfers, "_move_funds", "funds.available += command.amount",
          "funds.available += 2 * command.amount"),
    Plant("a withdrawal not paid", FundsTransfers, "_move_funds", "funds.available -= command.amount",
          "pass"),
)  # fmt: skip


def order(number: int, account_id: int, side: Side, price: int = 10_000_000) -> Command:
    return PlaceOrder(
        number,
        "test",
        AccountId(account_id),
        f"c{number}",
        "BTCUSDT",
        side,
        OrderType.LIMIT,
        TimeInForce.GTC,
        PriceTicks(price),
        QuantityLots(1_000),
    )


TRADE = [order(1, 1, Side.BUY), order(2, 2, Side.SELL, 9_999_000)]


def in_money() -> list[Command]:
    return [*TRADE, Withdraw(3, "test", AccountId(3), "USDT", deposits()[0].amount, "out")]  # type: ignore[union-attr]


@pytest.mark.parametrize("plant", CORRUPTIONS, ids=[plant.bug.replace(" ", "-") for plant in CORRUPTIONS])
def test_a_corrupted_fill_stops_the_shard_and_nothing_is_published(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, markets = memory_log(), market_map(1)
    only = worker(log, 0, markets)
    only.start()
    if plant.method != "_move_funds":
        enqueue(log, deposits(), markets)
        run_until_quiet([only])
    before = (log.position(0), log.last_id(streams.events(0)), list(log.published))
    monkeypatch.setattr(plant.owner, plant.method, grow(plant))
    enqueue(log, in_money() if plant.method != "_move_funds" else deposits()[:1], markets)
    if plant.right.startswith("funds.available -="):
        monkeypatch.undo()
        enqueue(log, deposits(), markets)
        run_until_quiet([only])
        before = (log.position(0), log.last_id(streams.events(0)), list(log.published))
        monkeypatch.setattr(plant.owner, plant.method, grow(plant))
        enqueue(log, in_money()[-1:], markets)
    with pytest.raises(InvariantBroken, match="money is not conserved"):
        run_until_quiet([only])
    assert (log.position(0), log.last_id(streams.events(0)), list(log.published)) == before


def test_without_the_check_the_corrupted_fill_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shard, "check_money", lambda _: None)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_a_corrupted_fill_stops_the_shard_and_nothing_is_published(CORRUPTIONS[0], monkeypatch)


def tampered(snapshot: bytes, change: Callable[[Any], Any]) -> bytes:
    """Return the snapshot with another content and the digest of that."""
    body = _encode(change(_decode(snapshot[32:])))
    return hashlib.blake2b(body, digest_size=32).digest() + body


def richer(snapshot: Any) -> Any:
    first = snapshot.accounts[0]
    asset, available, held = first.funds[0]
    rich = msgspec.structs.replace(first, funds=[(asset, available + 1, held), *first.funds[1:]])
    return msgspec.structs.replace(snapshot, accounts=[rich, *snapshot.accounts[1:]])


def unheld(snapshot: Any) -> Any:
    first = snapshot.accounts[0]
    assert any(held for _, _, held in first.funds)
    moved = msgspec.structs.replace(
        first, funds=[(asset, available + held, 0) for asset, available, held in first.funds]
    )
    return msgspec.structs.replace(snapshot, accounts=[moved, *snapshot.accounts[1:]])


def fewer_fees(snapshot: Any) -> Any:
    totals = [(asset, (high, low - 1), *others) for asset, (high, low), *others in snapshot.totals]
    return msgspec.structs.replace(snapshot, totals=totals)


@pytest.mark.parametrize("change", [richer, unheld, fewer_fees])
def test_a_tampered_snapshot_is_refused(change: Callable[[Any], Any]) -> None:
    log, markets = memory_log(), market_map(1)
    only = worker(log, 0, markets)
    only.start()
    enqueue(log, [*deposits(), *TRADE, order(3, 1, Side.BUY, 9_000_000)], markets)
    run_until_quiet([only])
    snapshot = encode_snapshot(only.shard, only.position.stream_id)
    assert decode_snapshot(tampered(snapshot, lambda whole: whole))
    with pytest.raises(SnapshotError, match="impossible state"):
        decode_snapshot(tampered(snapshot, change))
    # With the input that it would stand for gone, the shard does not start at all.
    log.save_snapshot(0, tampered(snapshot, change))
    log.trim(streams.commands(0), StreamId(9_999_999_999_999))
    with pytest.raises(LogDamaged):
        worker(log, 0, markets).start()


def test_an_older_format_is_refused_with_a_clear_word() -> None:
    log, markets = memory_log(), market_map(1)
    only = worker(log, 0, markets)
    snapshot = encode_snapshot(only.shard, STREAM_START)
    with pytest.raises(SnapshotError, match="format 1, this program reads 3"):
        decode_snapshot(tampered(snapshot, lambda whole: msgspec.structs.replace(whole, version=1)))


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, redis_url=redis_url)


def started(log: RedisStreamLog) -> Worker:
    only = Worker(log, 0, market_map(1), batch_entries_max=100)
    only.start()
    enqueue(log, deposits(), market_map(1))
    run_until_quiet([only])
    return only


def test_the_full_check_beside_a_snapshot_stops_the_shard(redis_url: str) -> None:
    log = RedisStreamLog.connect(redis_url)
    only = started(log)
    snapshotter = Snapshotter(only, log, partial(RedisStreamLog.connect, redis_url), 0, interval_s=0.0)
    # Too much held, too little available: the sums do not show it.
    funds = only.shard.state.accounts[AccountId(1)].funds["USDT"]
    funds.available, funds.held = funds.available - 7, funds.held + 7
    only.shard.check_money()

    def look() -> None:
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            snapshotter.run()
            time.sleep(0.005)

    with pytest.raises(InvariantBroken, match=r"the books say held 0 of [0-9]+, the accounts have held 7"):
        look()
    assert log.snapshots(0) == []


def test_the_metric_says_by_how_much_and_an_old_halt_is_removed(redis_url: str, settings: Settings) -> None:
    log = RedisStreamLog.connect(redis_url)
    only = started(log)
    client = redis.Redis.from_url(redis_url)
    write_halt(client, 0, "as before")
    Care(only, log, settings).run()
    assert read_halt(client, 0) is None
    assert REGISTRY.get_sample_value("engine_money_conserved", {"shard": "0"}) == 1
    assert REGISTRY.get_sample_value("engine_money_difference", {"shard": "0", "asset": "BTC"}) == 0
    only.shard.state.totals["BTC"].funds += 3
    with pytest.raises(InvariantBroken, match="BTC: money is not conserved"):
        Care(only, log, settings).run()
    assert REGISTRY.get_sample_value("engine_money_conserved", {"shard": "0"}) == 0
    assert REGISTRY.get_sample_value("engine_money_difference", {"shard": "0", "asset": "BTC"}) == 3


CORRUPT = """
from engine_worker.core.account_half import AccountHalf
from engine_worker.main import main
from tests.integration.test_halt import CORRUPTIONS
from tests.support.planting import grow
AccountHalf._exchange = grow(CORRUPTIONS[0])
main()
"""


@pytest.fixture
def supervisor(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    supervisor = Supervisor(settings)
    yield supervisor
    supervisor.stop_all(lambda _: None)


def test_a_halted_worker_says_why_ends_with_4_and_is_not_started_at_once(
    redis_url: str, settings: Settings, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, log = redis.Redis.from_url(redis_url), RedisStreamLog.connect(redis_url)
    environment = {
        f"{PREFIX}REDIS_URL": redis_url,
        f"{PREFIX}DATA_DIR": str(settings.data_dir),
        f"{PREFIX}LOST_TAIL_CHECK_ENABLED": "false",
        f"{PREFIX}CORE": "objects",  # these are corrupted
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
    }
    supervisor.start(ProcessSpec("engine-0", ServerCommand((sys.executable, "-c", CORRUPT)), environment))

    wait = partial(eventually, meanwhile=supervisor.look)
    wait("the configuration", lambda: log.position(0).stream_id != STREAM_START)
    signed_deposits = signed(settings.data_dir, 0, deposits())
    log.append(
        streams.commands(0), {COMMANDS_FIELD: encode_commands(signed_deposits, time.time_ns() // 1_000)}
    )
    enqueue(log, TRADE[:1], market_map(1))
    resting = log.last_id(streams.commands(0))
    wait("the resting order", lambda: log.position(0).stream_id >= resting)
    enqueue(log, TRADE[1:], market_map(1))
    wait("the halt", lambda: read_halt(client, 0))
    wait("the end of the process", supervisor.halted)
    halt = read_halt(client, 0)
    assert halt is not None
    assert "BTC: money is not conserved" in halt.reason
    # The leader may have said before the trade that time passes.
    events, position = log.last_id(streams.events(0)), log.position(0).stream_id
    assert any(isinstance(event, OrderAccepted) for event in events_of(log, 0))
    assert not any(isinstance(event, OrderFilled) for event in events_of(log, 0))
    untold = log.read({streams.commands(0): position}, 10, block_ms=0)[0].fields[COMMANDS_FIELD]
    assert TRADE[1] in decode_commands(untold)
    state = read_state(settings)
    # `read_state` knows only a running `exchange up`, which this process stands for.
    assert state is not None
    assert [(each.state, each.restarts) for each in state.processes] == [(ProcessStatus.HALTED, 0)]
    for _ in range(20):
        supervisor.look()
    assert supervisor.restarts() == {"engine-0": 0}

    # When it is tried again, it stops again: not one of the 20 looks finds it running for long.
    monkeypatch.setattr(supervisor_module, "HALTED_PAUSE_S", 0.0)
    supervisor._processes[0].due = 0.0
    wait("another try", lambda: supervisor.restarts()["engine-0"] >= 1)
    monkeypatch.setattr(supervisor_module, "HALTED_PAUSE_S", 1_000.0)
    wait("another halt", supervisor.halted)
    assert (log.last_id(streams.events(0)), log.position(0).stream_id) == (events, position)


def test_a_halt_keeps_its_time_for_the_same_reason(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    write_halt(client, 0, "one")
    first = read_halt(client, 0)
    write_halt(client, 0, "one")
    assert read_halt(client, 0) == first
    write_halt(client, 0, "another")
    again = read_halt(client, 0)
    assert again is not None
    assert again.reason == "another"
    clear_halt(client, 0)
    assert read_halt(client, 0) is None
    client.set(streams.halted(0), b"garbage")
    assert read_halt(client, 0) is not None
