"""Worker processes of one shard die, freeze, leave and lose their connections under orders.

The log stays what one writer writes.

The check is the strongest there is: all input, applied by a shard in memory, gives exactly the events that
were published, and every order that was acknowledged is among them.
"""

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from cli.local import embedded
from cli.local.free_ports import free_port
from engine_worker.core.shard import Shard
from engine_worker.entries import apply_entry
from protocol import streams
from protocol.codec import decode_events, decode_replies, encode_frame
from protocol.commands import Deposit, PlaceOrder
from protocol.events import Event, OrderAccepted, TimePassed
from protocol.market import MarketMap
from protocol.orders import OrderType, SelfTradePrevention, Side, TimeInForce
from protocol.replies import OrderReply
from protocol.stream_id import STREAM_START
from protocol.streams import COMMANDS_FIELD, EVENTS_FIELD
from protocol.units import AccountId, AssetUnits, PriceTicks, QuantityLots
from runtime.settings import Settings
from stream_log.redis_log import RedisStreamLog
from tests.support.engine_processes import DEADLINE_S, ENGINE, SHARD, STANDBY, Workers
from tests.support.eventually import eventually
from tests.support.treasury import signed

PATIENT_MS = 10_000
"""A lease so long that nothing in these tests is decided by its end."""
BRIEF_MS = 500
ORDER_EVERY_S = 0.003


class Traffic(threading.Thread):
    """Orders that trade with each other, one per entry, each sent until it is appended.

    And what was acknowledged of them.
    """

    def __init__(self, url: str, folder: Path) -> None:
        """`folder` is the workers' data folder, where the treasury's key is."""
        super().__init__()
        self._folder = folder
        self._redis = redis.Redis.from_url(url, protocol=2)
        self._stop_asked = threading.Event()
        self.acknowledged: set[str] = set()
        self._listening = threading.Event()
        self._listener = threading.Thread(target=self._listen)

    def _append(self, command: Deposit | PlaceOrder) -> None:
        while True:
            try:
                self._redis.xadd(
                    streams.commands(SHARD),
                    {COMMANDS_FIELD: encode_frame(signed(self._folder, SHARD, [command]))},
                )
            except redis.RedisError:
                time.sleep(0.02)
                continue
            return

    def run(self) -> None:
        self._listener.start()
        assert self._listening.wait(DEADLINE_S)
        if not self._wait_until_configured():
            return
        for account in (1, 2):
            for asset in ("USDT", "BTC"):
                self._append(
                    Deposit(0, "test", AccountId(account), asset, AssetUnits(10**16), f"first {asset}")
                )
        number = 0
        while not self._stop_asked.wait(ORDER_EVERY_S):
            number += 1
            self._append(
                PlaceOrder(
                    number,
                    "test",
                    AccountId(1 + number % 2),
                    f"c{number}",
                    "BTCUSDT",
                    Side.BUY if number % 2 else Side.SELL,
                    OrderType.LIMIT,
                    TimeInForce.GTC,
                    PriceTicks(10_000_000),
                    QuantityLots(1_000),
                    self_trade_prevention=SelfTradePrevention.NONE,
                )
            )

    def _wait_until_configured(self) -> bool:
        """Wait until the shard has its markets, which a new one gets from its first leader.

        Return False when told to stop before.
        """
        position = streams.position(SHARD)
        while not self._stop_asked.wait(ORDER_EVERY_S):
            with suppress(redis.RedisError):
                committed: Any = self._redis.get(position)
                # What its first leader configures is the first entry of the input.
                if committed is not None and not committed.endswith(str(STREAM_START).encode()):
                    return True
        return False

    def _listen(self) -> None:
        while not self._stop_asked.is_set():
            try:
                with self._redis.pubsub(ignore_subscribe_messages=True) as channel:  # type: ignore[no-untyped-call]
                    channel.subscribe(streams.replies("test"))
                    while not self._stop_asked.is_set():
                        message = channel.get_message(timeout=0.1)
                        self._listening.set()
                        if message is not None:
                            replies = decode_replies(message["data"])
                            self.acknowledged |= {
                                reply.order.client_order_id
                                for reply in replies
                                if isinstance(reply, OrderReply)
                            }
            except redis.RedisError:
                time.sleep(0.02)

    def wait_for_more(self, count: int = 30) -> None:
        goal = len(self.acknowledged) + count
        eventually("orders are acknowledged", lambda: len(self.acknowledged) >= goal)

    def stop(self) -> None:
        self._stop_asked.set()
        self.join()
        self._listener.join()


@pytest.fixture
def traffic(redis_url: str, tmp_path: Path) -> Iterator[Traffic]:
    traffic = Traffic(redis_url, tmp_path)
    traffic.start()
    yield traffic
    traffic.stop()


MakeWorkers = Callable[..., Workers]


@pytest.fixture
def workers_of(redis_url: str, tmp_path: Path) -> Iterator[MakeWorkers]:
    made: list[Workers] = []

    def make(lease_ms: int, **settings: object) -> Workers:
        made.append(Workers(redis_url, tmp_path, lease_ms, **settings))
        return made[-1]

    yield make
    for workers in made:
        workers.close()


def check_that_one_has_written(workers: Workers, traffic: Traffic) -> None:
    """Let everything that was sent be committed, and compare."""
    traffic.stop()
    log = workers.log
    last = log.last_id(streams.commands(SHARD))
    eventually("all is committed", lambda: log.position(SHARD).stream_id >= last)
    published = _events(log)
    # The leader goes on to say that time passes.
    expected = _events_of_one_writer(log)
    assert published == expected[: len(published)]
    assert all(isinstance(event, TimePassed) for event in expected[len(published) :])
    accepted = {event.order.client_order_id for event in published if isinstance(event, OrderAccepted)}
    assert traffic.acknowledged <= accepted


def _events(log: RedisStreamLog) -> list[Event]:
    entries = log.read({streams.events(SHARD): STREAM_START}, 1_000_000, block_ms=0)
    return [event for entry in entries for event in decode_events(entry.fields[EVENTS_FIELD])]


def _events_of_one_writer(log: RedisStreamLog) -> list[Event]:
    shard = Shard(SHARD, MarketMap.placed([], 1))  # what it is to follow is in the log
    events: list[Event] = []
    for entry in log.read({streams.commands(SHARD): STREAM_START}, 1_000_000, block_ms=0):
        apply_entry(shard, entry)
        events += shard.take().events
    return events


def other(name: str) -> str:
    return STANDBY if name == ENGINE else ENGINE


def test_a_killed_leader_is_replaced_before_its_lease_ends(workers_of: MakeWorkers, traffic: Traffic) -> None:
    workers = workers_of(PATIENT_MS)
    workers.start_both()
    leader = ENGINE
    for _ in range(2):
        traffic.wait_for_more()
        killed = time.monotonic()
        workers.send(leader, signal.SIGKILL)
        workers.wait_for_leader(other(leader))
        assert time.monotonic() - killed < PATIENT_MS / 1_000
        traffic.wait_for_more()
        workers.running[leader].wait(DEADLINE_S)
        workers.start(leader)
        workers.wait_for_standby(leader)
        leader = other(leader)
    check_that_one_has_written(workers, traffic)
    assert workers.log.position(SHARD).epoch == 3


def test_a_leader_that_is_told_to_stop_hands_over(workers_of: MakeWorkers, traffic: Traffic) -> None:
    workers = workers_of(PATIENT_MS)
    workers.start_both()
    leader = ENGINE
    for _ in range(2):
        traffic.wait_for_more()
        workers.send(leader, signal.SIGTERM)
        assert workers.running[leader].wait(DEADLINE_S) == 0
        workers.wait_for_leader(other(leader))
        traffic.wait_for_more()
        workers.start(leader)
        workers.wait_for_standby(leader)
        leader = other(leader)
    check_that_one_has_written(workers, traffic)


def test_a_leader_saves_its_state_before_a_standby_that_is_told_to_stop_as_well(
    workers_of: MakeWorkers, traffic: Traffic
) -> None:
    workers = workers_of(PATIENT_MS)
    workers.start_both()
    traffic.wait_for_more()
    workers.send(STANDBY, signal.SIGSTOP)  # it stands by, and does not get to taking over
    workers.send(ENGINE, signal.SIGTERM)
    assert workers.running[ENGINE].wait(DEADLINE_S) == 0
    workers.send(STANDBY, signal.SIGTERM)
    workers.send(STANDBY, signal.SIGCONT)
    assert workers.running[STANDBY].wait(DEADLINE_S) == 0
    assert workers.leader() is None
    saved = workers.log.saved_snapshots(SHARD)[0]
    assert saved.stream_id == workers.log.position(SHARD).stream_id


def test_the_last_worker_to_stop_saves_its_state(workers_of: MakeWorkers, traffic: Traffic) -> None:
    workers = workers_of(PATIENT_MS)
    workers.start_both()
    traffic.wait_for_more()
    workers.send(STANDBY, signal.SIGTERM)
    assert workers.running[STANDBY].wait(DEADLINE_S) == 0
    workers.send(ENGINE, signal.SIGTERM)
    assert workers.running[ENGINE].wait(DEADLINE_S) == 0
    assert workers.leader() is None
    saved = workers.log.saved_snapshots(SHARD)[0]
    assert saved.stream_id == workers.log.position(SHARD).stream_id
    workers.start(ENGINE)
    check_that_one_has_written(workers, traffic)


def pause_leaders(workers: Workers, traffic: Traffic, times: int, module: str, *, fenced: bool) -> None:
    """Freeze the leader for longer than its lease, and wake it when another one leads."""
    workers.start_both(module)
    leader = ENGINE
    for _ in range(times):
        traffic.wait_for_more()
        workers.send(leader, signal.SIGSTOP)
        workers.wait_for_leader(other(leader))
        traffic.wait_for_more()
        workers.send(leader, signal.SIGCONT)
        if fenced:
            assert workers.running[leader].wait(DEADLINE_S) == 3
            workers.start(leader, module)
            workers.wait_for_standby(leader)
            leader = other(leader)
    traffic.wait_for_more()


def test_a_leader_that_wakes_up_late_writes_nothing(workers_of: MakeWorkers, traffic: Traffic) -> None:
    workers = workers_of(BRIEF_MS)
    pause_leaders(workers, traffic, 3, "engine_worker.main", fenced=True)
    check_that_one_has_written(workers, traffic)


def test_without_the_comparison_a_late_leader_writes(workers_of: MakeWorkers, traffic: Traffic) -> None:
    """The control: the same story with the compare-and-set taken out, and the check must fail."""
    workers = workers_of(BRIEF_MS)
    pause_leaders(workers, traffic, 1, "tests.support.unfenced_worker", fenced=False)
    with pytest.raises(AssertionError):
        check_that_one_has_written(workers, traffic)


def test_a_standby_may_come_and_go(workers_of: MakeWorkers, traffic: Traffic) -> None:
    workers = workers_of(PATIENT_MS)
    workers.start_both()
    for _ in range(2):
        traffic.wait_for_more()
        workers.send(STANDBY, signal.SIGKILL)
        workers.running[STANDBY].wait(DEADLINE_S)
        traffic.wait_for_more()
        workers.start(STANDBY)
        workers.wait_for_standby(STANDBY)
    check_that_one_has_written(workers, traffic)
    epoch, end = workers.log.position(SHARD)
    assert epoch == 1
    eventually(
        "the standby is in step",
        lambda: workers.log.standbys(SHARD)[0].stream_id >= end,
    )


def test_of_workers_that_start_at_once_one_leads(workers_of: MakeWorkers, traffic: Traffic) -> None:
    workers = workers_of(PATIENT_MS)
    names = [ENGINE, STANDBY, "engine-0-standby-2"]
    for name in names:
        workers.start(name)
    traffic.wait_for_more()
    leader = workers.leader()
    assert leader is not None
    names.remove(leader.process)
    for name in names:
        workers.wait_for_standby(name)
    check_that_one_has_written(workers, traffic)
    assert workers.log.position(SHARD).epoch == 1
    assert all(process.poll() is None for process in workers.running.values())


def test_a_leader_whose_connection_is_cut_goes_on(
    workers_of: MakeWorkers, traffic: Traffic, redis_url: str
) -> None:
    workers = workers_of(PATIENT_MS)
    workers.start_both()
    with redis.Redis.from_url(redis_url, protocol=2) as admin:
        for _ in range(5):
            traffic.wait_for_more()
            before = workers.leader()
            assert before is not None
            admin.client_kill_filter(_id=str(before.client_id))
            traffic.wait_for_more()
            after = workers.leader()
            assert after is not None
            assert after == before._replace(client_id=after.client_id)
            assert after.client_id != before.client_id
    check_that_one_has_written(workers, traffic)


def test_the_standby_takes_the_snapshots(workers_of: MakeWorkers, traffic: Traffic) -> None:
    workers = workers_of(PATIENT_MS, snapshot_interval_s=1)
    workers.start_both()
    leaders = standbys_before = 0

    def standby_takes_them() -> bool:
        """Whether the standby has taken four since the leader took its last.

        The leader may have begun one before there was a standby, and takes one where the standby, on a slow
        machine, does not come to it in time.
        """
        nonlocal leaders, standbys_before
        standbys, known = workers.said(STANDBY).count("snapshot saved"), leaders
        leaders = workers.said(ENGINE).count("snapshot saved")
        if leaders != known:
            standbys_before = standbys
        return standbys >= standbys_before + 4

    eventually("four snapshots of the standby without one of the leader", standby_takes_them)
    traffic.wait_for_more()
    older = workers.log.saved_snapshots(SHARD)[-1].stream_id
    first = workers.log.read({streams.commands(SHARD): STREAM_START}, 1, block_ms=0)[0].stream_id
    assert STREAM_START < first <= older, "the input was trimmed to it"

    # From what is left, and the standby's snapshots, a worker starts and goes on.
    for name in (ENGINE, STANDBY):
        workers.send(name, signal.SIGKILL)
        workers.running[name].wait(DEADLINE_S)
    workers.start(ENGINE)
    workers.wait_for_leader(ENGINE)
    traffic.wait_for_more()
    assert workers.said(ENGINE).count("snapshot not used") == 0


def test_both_live_through_a_restart_of_redis(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, redis_port=free_port())
    embedded.make_data_dir(settings)
    command = embedded.redis_command(settings)
    server = subprocess.Popen(command.arguments, stdout=subprocess.DEVNULL)
    url = settings.resolved_redis_url()
    eventually("Redis answers", lambda: embedded.redis_ready(settings))
    workers, traffic = Workers(url, tmp_path, lease_ms=1_000), Traffic(url, tmp_path)
    try:
        workers.start_both()
        traffic.start()
        for _ in range(3):
            traffic.wait_for_more()
            server.kill()
            server.wait()
            server = subprocess.Popen(command.arguments, stdout=subprocess.DEVNULL)
            eventually("Redis answers", lambda: embedded.redis_ready(settings))
            traffic.wait_for_more()
        for name, process in list(workers.running.items()):
            if process.poll() is not None:  # one that was taken over from while it could not answer
                assert process.returncode == 3
                workers.start(name)
        check_that_one_has_written(workers, traffic)
    finally:
        traffic.stop()
        workers.close()
        server.kill()
        server.wait()
