"""Snapshots beside the matching, and what may be trimmed after them."""

import itertools
import os
import random
import signal
import socket
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import structlog

from engine_worker.checksum import StateDiffers
from engine_worker.core.snapshot import SnapshotError, decode_snapshot, encode_snapshot, state_hash
from engine_worker.snapshots import LEFT_MAX, LOG_PART, RARELY, Snapshotter
from engine_worker.worker import Worker
from protocol import streams
from protocol.codec import encode_frame
from protocol.commands import Deposit
from protocol.lease import Standby
from protocol.market import MarketMap
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import COMMANDS_FIELD, EventReader
from protocol.units import AccountId, AssetUnits
from stream_log.redis_log import SNAPSHOT_PIECE_BYTES, RedisStreamLog
from tests.support.large_states import MARKETS, large
from tests.support.workers import run_until_quiet

DEADLINE_S = 90


@pytest.fixture
def log(redis_url: str) -> RedisStreamLog:
    return RedisStreamLog.connect(redis_url)


@pytest.fixture
def worker(log: RedisStreamLog) -> Worker:
    worker = Worker(log, 0, MARKETS, batch_entries_max=100)
    worker.start()
    run_until_quiet([worker])  # its configuration is the first entry
    return worker


def deposit(log: RedisStreamLog, worker: Worker, number: int) -> StreamId:
    command = Deposit(number, "test", AccountId(1), "USDT", AssetUnits(1), str(number))
    stream_id = log.append(streams.commands(0), {COMMANDS_FIELD: encode_frame([command])})
    worker.step(block_ms=10)
    return stream_id


def saved(snapshotter: Snapshotter, log: RedisStreamLog, before: list[bytes]) -> list[bytes]:
    """Let the snapshotter run until it has saved one more and cleaned up after it."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        snapshotter.run()
        now = log.snapshots(0)
        if now != before and not snapshotter.busy:
            return now
        time.sleep(0.005)
    pytest.fail("no snapshot was saved")


def test_a_child_saves_the_state_and_the_logs_are_trimmed(
    log: RedisStreamLog, worker: Worker, redis_url: str
) -> None:
    snapshotter = Snapshotter(worker, log, partial(RedisStreamLog.connect, redis_url), 0, interval_s=0.0)
    configured = worker.position.stream_id
    ids = [deposit(log, worker, number) for number in range(3)]
    for reader in EventReader:
        log.mark_passed(0, reader, ids[1])
    first = saved(snapshotter, log, [])
    restored, stream_id = decode_snapshot(first[0])
    assert (state_hash(restored), stream_id) == (state_hash(worker.shard), ids[2])
    left = [entry.stream_id for entry in log.read({streams.commands(0): STREAM_START}, 10, block_ms=0)]
    assert left == [configured, *ids], "one snapshot is not enough to trim"

    later = deposit(log, worker, 3)
    saved(snapshotter, log, first)
    left = [entry.stream_id for entry in log.read({streams.commands(0): STREAM_START}, 10, block_ms=0)]
    assert left == [ids[2], later], "what the older snapshot has not applied must stay"
    kept = [entry.stream_id for entry in log.read({streams.events(0): STREAM_START}, 10, block_ms=0)]
    assert kept == [ids[1], ids[2], later], "what a reader has not passed must stay"

    again = Worker(log, 0, MARKETS, batch_entries_max=100)
    again.start()
    assert state_hash(again.shard) == state_hash(worker.shard)


def test_a_worker_that_starts_long_after_the_last_snapshot_saves_one_at_once(
    log: RedisStreamLog, worker: Worker, redis_url: str
) -> None:
    """Or workers that are killed again and again would have more and more to apply."""

    def starts_saving(interval_s: float) -> bool:
        snapshotter = Snapshotter(worker, log, partial(RedisStreamLog.connect, redis_url), 0, interval_s)
        for _ in range(3):
            snapshotter.run()
        begun = snapshotter.busy
        snapshotter.abandon()
        return begun

    deposit(log, worker, 0)
    assert starts_saving(interval_s=3_600), "there is none"
    log.save_snapshot(0, b"of a worker before", STREAM_START)
    assert not starts_saving(interval_s=3_600)
    time.sleep(0.3)
    assert starts_saving(interval_s=0.2), "it is older than the interval, and the log has grown by more"


def test_a_large_state_is_saved_as_often_as_the_log_grows_by_its_size(
    log: RedisStreamLog, worker: Worker, redis_url: str
) -> None:
    def starts_saving(snapshotter: Snapshotter) -> bool:
        snapshotter._due_s = 0.0
        snapshotter.run()
        begun = snapshotter.busy
        snapshotter.abandon()
        return begun

    number = itertools.count()
    size = 3 * SNAPSHOT_PIECE_BYTES + 5
    log.save_snapshot(0, random.Random(1).randbytes(size), STREAM_START)  # cannot be compressed
    deposit(log, worker, next(number))
    snapshotter = Snapshotter(worker, log, partial(RedisStreamLog.connect, redis_url), 0, interval_s=100.0)
    assert not starts_saving(snapshotter)
    while worker.event_bytes < size:
        assert not starts_saving(snapshotter), f"the log has grown by {worker.event_bytes} bytes"
        for _ in range(100):
            deposit(log, worker, next(number))
    assert starts_saving(snapshotter)
    log.save_snapshot(0, random.Random(2).randbytes(size), worker.position.stream_id)
    deposit(log, worker, next(number))
    assert not starts_saving(snapshotter), "it counts from the newest one on"


def test_a_log_that_fills_up_is_a_reason_however_large_the_state_is(
    log: RedisStreamLog, worker: Worker, redis_url: str
) -> None:
    log.save_snapshot(0, random.Random(1).randbytes(10 * SNAPSHOT_PIECE_BYTES), STREAM_START)
    connect = partial(RedisStreamLog.connect, redis_url)
    snapshotter = Snapshotter(worker, log, connect, 0, interval_s=100.0, log_bytes_max=LOG_PART * 20_000)
    number = itertools.count()
    while worker.event_bytes < 20_000:
        snapshotter._due_s = 0.0
        snapshotter.run()
        assert not snapshotter.busy
        deposit(log, worker, next(number))
    snapshotter._due_s = 0.0
    snapshotter.run()
    assert snapshotter.busy
    snapshotter.abandon()


def test_what_readers_have_passed_is_trimmed_also_without_a_new_snapshot(
    log: RedisStreamLog, worker: Worker, redis_url: str
) -> None:
    """A log that was full while a reader stood still must not stay so: no order, no event, no snapshot."""
    ids = [deposit(log, worker, number) for number in range(3)]
    for seed, stream_id in enumerate(ids[:2]):
        log.save_snapshot(0, random.Random(seed).randbytes(SNAPSHOT_PIECE_BYTES), stream_id)
    for reader in EventReader:
        log.mark_passed(0, reader, ids[2])
    snapshotter = Snapshotter(worker, log, partial(RedisStreamLog.connect, redis_url), 0, interval_s=100.0)
    snapshotter._due_s = 0.0
    snapshotter.run()
    assert not snapshotter.busy
    kept = [entry.stream_id for entry in log.read({streams.events(0): STREAM_START}, 10, block_ms=0)]
    assert kept == ids, "what the older snapshot has not applied stays"


def test_a_large_state_that_hardly_changes_is_saved_rarely(
    log: RedisStreamLog, worker: Worker, redis_url: str
) -> None:
    log.save_snapshot(0, random.Random(1).randbytes(SNAPSHOT_PIECE_BYTES), STREAM_START)
    deposit(log, worker, 0)
    interval_s = 0.05
    snapshotter = Snapshotter(worker, log, partial(RedisStreamLog.connect, redis_url), 0, interval_s)
    began = time.monotonic()
    while not snapshotter.busy and time.monotonic() < began + DEADLINE_S:
        snapshotter.run()
        time.sleep(0.005)
    assert snapshotter.busy
    snapshotter.abandon()
    assert time.monotonic() - began >= (RARELY - 2) * interval_s


def test_a_failed_snapshot_is_said_and_trims_nothing(log: RedisStreamLog, worker: Worker) -> None:
    nowhere = Snapshotter(
        worker, log, partial(RedisStreamLog.connect, "redis://127.0.0.1:1/0"), 0, interval_s=0.0
    )
    deposit(log, worker, 0)
    with structlog.testing.capture_logs() as logs:
        deadline = time.monotonic() + DEADLINE_S
        while not logs and time.monotonic() < deadline:
            nowhere.run()
            time.sleep(0.005)
    assert [entry["event"] for entry in logs][:1] == ["snapshot failed"]
    assert log.snapshots(0) == []
    nowhere.finish()
    assert len(log.snapshots(0)) == 1, "the last one is saved by the process itself"


def test_a_leader_leaves_snapshots_to_its_standby_unless_none_come(
    log: RedisStreamLog, worker: Worker, redis_url: str
) -> None:
    snapshotter = Snapshotter(worker, log, partial(RedisStreamLog.connect, redis_url), 0, interval_s=0.0)
    deposit(log, worker, 0)
    for _ in range(LEFT_MAX):
        log.announce(0, Standby("standby", 1))
        snapshotter.run()
        assert not snapshotter.busy
    snapshotter.run()
    assert snapshotter.busy, "the standby has had its chances"
    saved(snapshotter, log, [])
    last = deposit(log, worker, 1)
    snapshotter.run()
    assert not snapshotter.busy, "it has them again after every snapshot"
    snapshotter.finish()
    assert decode_snapshot(log.snapshots(0)[0])[1] == last, "the last state is saved, whoever stands by"


def test_what_is_trimmed_is_decided_by_what_is_kept(
    log: RedisStreamLog, worker: Worker, redis_url: str
) -> None:
    """A worker that has just begun to lead knows nothing of what others have saved."""
    ids = [deposit(log, worker, number) for number in range(2)]
    log.save_snapshot(0, b"saved by another worker", ids[0])
    saved(
        Snapshotter(worker, log, partial(RedisStreamLog.connect, redis_url), 0, interval_s=0.0),
        log,
        log.snapshots(0),
    )
    left = [entry.stream_id for entry in log.read({streams.commands(0): STREAM_START}, 10, block_ms=0)]
    assert left == ids, "up to where the older one reaches"


def test_of_several_standbys_one_saves(log: RedisStreamLog, worker: Worker, redis_url: str) -> None:
    deposit(log, worker, 0)
    standby = Worker(log, 0, MARKETS, batch_entries_max=100)
    standby.join()
    log.save_snapshot(0, b"saved by another standby", STREAM_START)
    snapshotter = Snapshotter(standby, log, partial(RedisStreamLog.connect, redis_url), 0, interval_s=3_600.0)
    snapshotter._due_s = 0.0
    snapshotter.run()
    assert not snapshotter.busy


def test_a_child_lets_go_of_its_parents_connections(log: RedisStreamLog, worker: Worker) -> None:
    """Or a leader that is killed while its child writes would look alive."""
    deposit(log, worker, 0)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # whoever connects waits here for an answer
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        snapshotter = Snapshotter(worker, log, partial(RedisStreamLog.connect, url), 0, interval_s=0.0)
        snapshotter.run()
        assert snapshotter._child is not None
        child = snapshotter._child.pid
        silent.settimeout(DEADLINE_S)
        connection, _ = silent.accept()
        try:
            assert not sockets_of(child) & sockets_of(os.getpid())
            assert sockets_of(child), "its own connection is there"
        finally:
            os.kill(child, signal.SIGKILL)
            connection.close()
            os.waitpid(child, 0)


def test_a_leader_with_much_in_memory_does_not_fork(
    log: RedisStreamLog, worker: Worker, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("it forked"))
    snapshotter = large(worker, log, redis_url)
    first = deposit(log, worker, 0)
    with structlog.testing.capture_logs() as logs:
        before = saved(snapshotter, log, [])
    assert [(each["bytes"], each["from_log"]) for each in logs] == [(len(before[0]), True)]
    restored, stream_id = decode_snapshot(before[0])
    assert (state_hash(restored), stream_id) == (state_hash(worker.shard), first)

    ids = [deposit(log, worker, number) for number in range(1, 4)]
    snapshotter.run()
    ids.append(deposit(log, worker, 4))  # the leader goes on meanwhile
    after = saved(snapshotter, log, before)
    restored, stream_id = decode_snapshot(after[0])
    assert stream_id in ids
    assert len(log.snapshots(0)) == 2
    left = [entry.stream_id for entry in log.read({streams.commands(0): STREAM_START}, 10, block_ms=0)]
    assert left == [first, *ids], "what the older snapshot has not applied must stay"
    snapshotter.finish()
    assert decode_snapshot(log.snapshots(0)[0])[1] == ids[-1], "the only worker leaves nothing to apply"


def test_a_snapshot_that_the_log_does_not_give_is_forked(
    log: RedisStreamLog, worker: Worker, redis_url: str
) -> None:
    snapshotter = large(worker, log, redis_url, REDIS_URL="redis://127.0.0.1:1/0")
    deposit(log, worker, 0)
    with structlog.testing.capture_logs() as logs:
        saved(snapshotter, log, [])
    assert [each["event"] for each in logs] == ["snapshot failed", "snapshot saved"]
    assert not logs[1]["from_log"]


def test_a_snapshot_for_which_no_core_is_idle_is_made_anew(
    log: RedisStreamLog, worker: Worker, redis_url: str
) -> None:
    deposit(log, worker, 0)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # whoever asks here waits for ever
        snapshotter = large(
            worker, log, redis_url, REDIS_URL=f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        )
        snapshotter._patience_s = 0.2
        with structlog.testing.capture_logs() as logs:
            saved(snapshotter, log, [])
    assert len(logs) == 2, "the one that took too long is no failure"
    assert (logs[1]["event"], logs[1]["from_log"]) == ("snapshot saved", False)


def test_a_forked_snapshot_that_hangs_is_ended_and_made_anew(
    log: RedisStreamLog, worker: Worker, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deposit(log, worker, 0)
    snapshotter = Snapshotter(worker, log, partial(RedisStreamLog.connect, redis_url), 0, interval_s=0.0)
    snapshotter._is_urgent = True
    snapshotter._hangs_s = 0.2
    with monkeypatch.context() as hanging, structlog.testing.capture_logs() as logs:
        hanging.setattr("engine_worker.snapshots.save", lambda *_: time.sleep(60))
        deadline = time.monotonic() + DEADLINE_S
        while not logs:
            assert time.monotonic() < deadline, "it was not ended"
            snapshotter.run()
        assert not snapshotter.busy
    assert [each["event"] for each in logs] == ["snapshot hangs, and is ended"]
    saved(snapshotter, log, [])


def test_a_standby_forks(log: RedisStreamLog, worker: Worker, redis_url: str) -> None:
    deposit(log, worker, 0)
    standby = Worker(log, 0, MARKETS, batch_entries_max=100)
    standby.join()
    with structlog.testing.capture_logs() as logs:
        saved(large(standby, log, redis_url), log, [])
    assert [each["from_log"] for each in logs] == [False], "it holds nobody up, and has the state already"


def sockets_of(pid: int) -> set[str]:
    found = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(each.readlink())
        except FileNotFoundError:  # the one that lists them
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


def test_only_whole_snapshots_of_this_exchange_are_read(worker: Worker, log: RedisStreamLog) -> None:
    deposit(log, worker, 0)
    snapshot = encode_snapshot(worker.shard, worker.position.stream_id)
    for torn in (b"", snapshot[:-1], snapshot[:40] + b"x" + snapshot[41:]):
        with pytest.raises(SnapshotError, match="torn"):
            decode_snapshot(torn)


@pytest.mark.parametrize(("index", "shard_count"), [(0, 3), (1, 2)])
def test_a_snapshot_of_another_shard_or_number_of_shards_is_not_used(
    worker: Worker, log: RedisStreamLog, index: int, shard_count: int
) -> None:
    deposit(log, worker, 0)
    log.save_snapshot(index, encode_snapshot(worker.shard, STREAM_START), STREAM_START)
    other = Worker(log, index, MarketMap.of(MARKETS.markets, shard_count), batch_entries_max=100)
    with structlog.testing.capture_logs() as logs, suppress(StateDiffers):
        other.join()
    assert "cannot change its number of shards" in logs[0]["reason"]
    assert (other.shard.state.index, other.shard.state.shard_count) == (index, shard_count)


def test_a_snapshot_is_used_whatever_markets_the_settings_name(worker: Worker, log: RedisStreamLog) -> None:
    deposit(log, worker, 0)
    log.save_snapshot(0, encode_snapshot(worker.shard, worker.position.stream_id), worker.position.stream_id)
    log.trim(streams.commands(0), StreamId(9_999_999_999_999))
    again = Worker(log, 0, MarketMap.of(MARKETS.markets[:1], 1), batch_entries_max=100)
    again.start()
    assert state_hash(again.shard) == state_hash(worker.shard)
