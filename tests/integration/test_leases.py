"""One suite over both stream logs: the lease, standbys, following, and what a new leader and a stale one may
do."""

import random
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import pytest
import redis

from protocol import streams
from protocol.lease import STANDBY_TTL_MS, Leader, Standby
from protocol.positions import ShardPosition
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import COMMANDS_FIELD, QUERIES_FIELD
from stream_log.interface import Commit, Fenced, StreamLog
from stream_log.memory_log import MemoryStreamLog
from stream_log.redis_log import SNAPSHOT_PIECE_BYTES, RedisStreamLog

SHARD = 1
INPUTS = streams.commands(SHARD)
LEASE_MS = 400
DEADLINE_S = 90
ONE, TWO = Leader("one", 11, LEASE_MS), Leader("two", 12, LEASE_MS)


class Place(Protocol):
    """Where workers meet: each has a log of its own, time passes, connections break."""

    def log(self, process: str) -> StreamLog: ...

    def wait_until(self, true: Callable[[], bool]) -> None: ...

    def disconnect(self, process: str) -> None: ...


class InMemory:
    def __init__(self) -> None:
        self.now_ms = 1_000_000
        self._log = MemoryStreamLog(lambda: self.now_ms)

    def log(self, process: str) -> StreamLog:
        return self._log

    def wait_until(self, true: Callable[[], bool]) -> None:
        deadline_ms = self.now_ms + DEADLINE_S * 1_000
        while not true():
            assert self.now_ms < deadline_ms
            self.now_ms += 1

    def disconnect(self, process: str) -> None:
        self._log.disconnect(process)


class OnRedis:
    def __init__(self, url: str) -> None:
        self._url = url
        self._logs: dict[str, RedisStreamLog] = {}
        self._admin = redis.Redis.from_url(url, protocol=2)

    def log(self, process: str) -> StreamLog:
        if process not in self._logs:
            self._logs[process] = RedisStreamLog.connect(self._url, process)
        return self._logs[process]

    def wait_until(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not true():
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def disconnect(self, process: str) -> None:
        for client in self._admin.client_list():
            if client["name"].startswith(f"{process}:"):
                self._admin.client_kill_filter(_id=client["id"])

    def close(self) -> None:
        self._admin.close()
        for log in self._logs.values():
            log._redis.close()


@pytest.fixture(params=["memory", "redis"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    if request.param == "memory":
        yield InMemory()
        return
    on_redis = OnRedis(request.getfixturevalue("redis_url"))
    yield on_redis
    on_redis.close()


def append(log: StreamLog, count: int = 1) -> list[StreamId]:
    return [log.append(INPUTS, {COMMANDS_FIELD: b"x"}) for _ in range(count)]


def test_a_candidate_takes_the_shard_and_its_lease(place: Place) -> None:
    log = place.log("one")
    assert log.lease(SHARD).leader is None
    assert log.take_over(SHARD, ONE) == ShardPosition(1, STREAM_START)
    sight = log.lease(SHARD)
    assert sight.leader is not None
    assert (sight.leader.process, sight.leader.pid, sight.leader.epoch) == ("one", 11, 1)
    assert 0 < sight.remaining_ms <= LEASE_MS
    assert sight.connected


def test_a_held_lease_keeps_others_out(place: Place) -> None:
    place.log("one").take_over(SHARD, ONE)
    with pytest.raises(Fenced):
        place.log("two").take_over(SHARD, TWO)
    assert place.log("two").position(SHARD).epoch == 1, "nothing was changed"


def test_of_two_that_see_the_same_leader_gone_one_takes_over(place: Place) -> None:
    place.log("one").take_over(SHARD, ONE)
    place.disconnect("one")
    seen = place.log("two").lease(SHARD)
    assert not seen.connected
    assert place.log("two").take_over(SHARD, TWO, over=seen.leader).epoch == 2
    with pytest.raises(Fenced):
        place.log("three").take_over(SHARD, TWO._replace(process="three"), over=seen.leader)
    now = place.log("three").lease(SHARD).leader
    assert now is not None
    assert now.process == "two"


def test_a_lease_runs_out_unless_it_is_renewed(place: Place) -> None:
    log = place.log("one")
    position = log.take_over(SHARD, ONE)
    held = ONE._replace(epoch=position.epoch)
    place.wait_until(lambda: log.lease(SHARD).remaining_ms < LEASE_MS / 2)
    log.read_inputs(SHARD, position, 10, 1, renew=held)
    assert log.lease(SHARD).remaining_ms > LEASE_MS / 2
    place.wait_until(lambda: log.lease(SHARD).remaining_ms < LEASE_MS / 2)
    log.renew_lease(SHARD, held)
    assert log.lease(SHARD).remaining_ms > LEASE_MS / 2
    place.wait_until(lambda: log.lease(SHARD).leader is None)
    assert place.log("two").take_over(SHARD, TWO).epoch == 2


def test_a_stale_leader_neither_renews_nor_releases_its_successors_lease(place: Place) -> None:
    stale = ONE._replace(epoch=place.log("one").take_over(SHARD, ONE).epoch)
    place.log("one").release_lease(SHARD, stale)
    assert place.log("two").lease(SHARD).leader is None
    place.log("two").take_over(SHARD, TWO)
    place.log("one").renew_lease(SHARD, stale)
    place.log("one").release_lease(SHARD, stale)
    place.disconnect("one")
    held = place.log("two").lease(SHARD)
    assert held.leader is not None
    assert (held.leader.process, held.leader.epoch) == ("two", 2)


def test_a_leader_that_reconnects_is_there_again(place: Place) -> None:
    log = place.log("one")
    leader = ONE._replace(epoch=log.take_over(SHARD, ONE).epoch)
    before = place.log("two").lease(SHARD)
    place.disconnect("one")
    assert not place.log("two").lease(SHARD).connected
    try:
        log.renew_lease(SHARD, leader)
    except redis.ConnectionError:
        log.position(
            SHARD
        )  # whatever is asked over the new connection: it has written itself into the lease before
    after = place.log("two").lease(SHARD)
    assert after.connected
    assert before.leader is not None
    assert after.leader is not None
    assert after.leader.client_id != before.leader.client_id
    with pytest.raises(Fenced):
        place.log("two").take_over(SHARD, TWO, over=before.leader)


def test_answers_of_a_stale_leader_are_not_published(place: Place) -> None:
    """A leader that is paused between reading a query and answering it would answer from a state that is no
    more."""
    log = place.log("one")
    position = log.take_over(SHARD)
    heard = _heard(place)
    log.publish_answers(SHARD, position, [("reply:gate", b"first")])
    log.read_inputs(SHARD, position, 10, 1, answers=[("reply:gate", b"second"), ("reply:gate", b"third")])
    place.log("two").take_over(SHARD)
    with pytest.raises(Fenced):
        log.read_inputs(
            SHARD, position, 10, 1, [("reply:gate", b"committed")], answers=[("reply:gate", b"stale")]
        )
    log.publish_answers(SHARD, position, [("reply:gate", b"stale")])
    assert heard() == [b"first", b"second", b"third", b"committed"]


def _heard(place: Place) -> Callable[[], list[bytes]]:
    if isinstance(place, InMemory):
        return lambda: [payload for _, payload in place._log.published]
    assert isinstance(place, OnRedis)
    listener = place._admin.pubsub()  # type: ignore[no-untyped-call]
    listener.subscribe("reply:gate")
    assert listener.get_message(timeout=DEADLINE_S) is not None  # the subscription itself

    def heard() -> list[bytes]:
        place._admin.publish("reply:gate", b"end")
        found: list[bytes] = []
        while True:
            message = listener.get_message(timeout=DEADLINE_S)
            assert message is not None
            if message["data"] == b"end":
                listener.close()
                return found
            found.append(message["data"])

    return heard


def test_a_query_that_nobody_answered_is_heard_by_the_next_leader(place: Place) -> None:
    place.log("one").take_over(SHARD, ONE)
    query = place.log("one").append(streams.queries(SHARD), {QUERIES_FIELD: b"q"})
    place.wait_until(lambda: place.log("two").lease(SHARD).leader is None)
    position = place.log("two").take_over(SHARD, TWO)
    read = place.log("two").read_inputs(SHARD, position, 10, 1)
    assert [entry.stream_id for entry in read] == [query]


def test_following_shows_what_is_committed_only(place: Place) -> None:
    log = place.log("one")
    position = log.take_over(SHARD)
    ids = append(log, 4)
    assert log.read_committed(SHARD, STREAM_START, 10).entries == []
    log.commit(Commit(SHARD, position, ids[2]))
    seen = log.read_committed(SHARD, ids[0], 10)
    assert [entry.stream_id for entry in seen.entries] == ids[1:3]
    assert (seen.position, seen.trimmed_to) == (ShardPosition(1, ids[2]), STREAM_START)
    assert [entry.stream_id for entry in log.read_committed(SHARD, STREAM_START, 2).entries] == ids[:2]


def test_following_tells_what_may_have_been_trimmed(place: Place) -> None:
    log = place.log("one")
    for stream_id in (StreamId(5), StreamId(7, 1)):
        log.save_snapshot(SHARD, b"state", stream_id)
    assert log.read_committed(SHARD, STREAM_START, 10).trimmed_to == StreamId(5)
    log.save_snapshot(SHARD, b"state", StreamId(9))
    assert log.read_committed(SHARD, STREAM_START, 10).trimmed_to == StreamId(7, 1)


def test_a_snapshot_that_comes_late_does_not_displace_a_newer_one(place: Place) -> None:
    log = place.log("one")
    for stream_id in (StreamId(5), StreamId(7, 1), StreamId(6), StreamId(7), StreamId(7, 1)):
        log.save_snapshot(SHARD, f"at {stream_id}".encode(), stream_id)
    assert [saved.stream_id for saved in log.saved_snapshots(SHARD)] == [StreamId(7, 1), StreamId(5)]
    assert log.snapshots(SHARD) == [b"at 7-1", b"at 5-0"]
    place.wait_until(lambda: log.saved_snapshots(SHARD)[0].age_ms > 0)


def test_a_snapshot_of_many_pieces_is_whole(place: Place) -> None:
    log = place.log("one")
    for size in (0, 1, SNAPSHOT_PIECE_BYTES, 8 * SNAPSHOT_PIECE_BYTES, 20 * SNAPSHOT_PIECE_BYTES + 1):
        data = random.Random(size).randbytes(size)  # cannot be made smaller
        log.save_snapshot(SHARD, data, StreamId(1_000 + size))
        assert log.read_snapshot(SHARD, log.saved_snapshots(SHARD)[0]) == data


def test_standbys_are_known_until_they_leave_or_fall_silent(place: Place) -> None:
    log = place.log("one")
    assert log.standbys(SHARD) == []
    first, second = Standby("one", 11, StreamId(5), 20), Standby("two", 12)
    log.announce(SHARD, first)
    log.announce(SHARD, second)
    assert {each._replace(age_ms=0) for each in log.standbys(SHARD)} == {first, second}
    log.withdraw(SHARD, second)
    assert [each.process for each in log.standbys(SHARD)] == ["one"]
    place.wait_until(lambda: not log.standbys(SHARD))


def test_one_standby_that_goes_on_does_not_keep_another_one_alive(place: Place) -> None:
    log = place.log("one")
    log.announce(SHARD, Standby("two", 12))
    began = log.standbys(SHARD)[0].age_ms

    def only_one_is_left() -> bool:
        log.announce(SHARD, Standby("one", 11))
        return [each.process for each in log.standbys(SHARD)] == ["one"]

    place.wait_until(only_one_is_left)
    assert began < STANDBY_TTL_MS


def test_dropped_snapshots_leave_nothing_behind(redis_url: str) -> None:
    log = RedisStreamLog.connect(redis_url)
    for number in range(5):
        log.save_snapshot(SHARD, b"state", StreamId(1 + number))
    log.save_snapshot(SHARD, b"late", StreamId(2))
    with redis.Redis.from_url(redis_url) as client:
        assert len(client.keys(f"snapshot:{{{SHARD}}}:*")) == 2
        assert all(client.ttl(key) == -1 for key in client.keys(f"snapshot:{{{SHARD}}}:*"))


def test_a_snapshot_of_an_earlier_version_is_still_read(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.rpush(streams.snapshots(SHARD), b"whole", b"the one before")
        log = RedisStreamLog.connect(redis_url)
        assert log.read_snapshot(SHARD, log.saved_snapshots(SHARD)[0]) == b"whole"
        log.save_snapshot(SHARD, b"new", StreamId(5))
        assert log.snapshots(SHARD) == [b"new", b"whole"]
        assert log.read_committed(SHARD, STREAM_START, 1).trimmed_to == STREAM_START


def test_a_snapshot_that_is_not_compressed_is_still_read(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.rpush(streams.snapshot(SHARD, "aa"), b"in two ", b"pieces")
        client.rpush(streams.snapshots(SHARD), b"saved|5-0|1|aa")
        assert RedisStreamLog.connect(redis_url).snapshots(SHARD) == [b"in two pieces"]


def test_redis_keeps_less_than_a_snapshot_is_long(redis_url: str) -> None:
    log = RedisStreamLog.connect(redis_url)
    with redis.Redis.from_url(redis_url) as client:
        log.save_snapshot(SHARD, b"alike " * 100_000, StreamId(5))
        (key,) = client.keys(f"snapshot:{{{SHARD}}}:*")
        assert sum(map(len, client.lrange(key, 0, -1))) < 10_000


def test_a_snapshot_waits_until_redis_has_rewritten_its_log(redis_url: str) -> None:
    log = RedisStreamLog.connect(redis_url)
    with redis.Redis.from_url(redis_url) as client:
        client.mset({f"key {number}": "" for number in range(10)})
        client.config_set(
            "rdb-key-save-delay", 50_000
        )  # microseconds; for the log as well, which begins as one
        try:
            client.bgrewriteaof()
            assert client.info("persistence")["aof_rewrite_in_progress"]
            log.save_snapshot(SHARD, b"state", StreamId(5))
            assert not client.info("persistence")["aof_rewrite_in_progress"]
        finally:
            client.config_set("rdb-key-save-delay", 0)


def test_a_stale_worker_does_not_disturb_the_consumer_group(redis_url: str) -> None:
    stale, log = RedisStreamLog.connect(redis_url), RedisStreamLog.connect(redis_url)
    old = stale.take_over(SHARD)
    ids = append(log, 5)
    new = log.take_over(SHARD)
    log.commit(Commit(SHARD, new, ids[2]))
    for attempt in (
        lambda: stale.read_inputs(SHARD, old, 10, 1),
        lambda: stale.commit(Commit(SHARD, old, ids[4])),
        lambda: stale.commit(Commit(SHARD, ShardPosition(old.epoch, ids[2]), ids[4])),
    ):
        with pytest.raises(Fenced):
            attempt()
    stale.publish_answers(SHARD, old, [("reply:gate", b"stale")])
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        (group,) = client.xinfo_groups(INPUTS)
    assert (group["last-delivered-id"], group["pending"]) == (str(ids[2]).encode(), 0)
    assert [entry.stream_id for entry in log.read_inputs(SHARD, log.position(SHARD), 10, 1)] == ids[3:]
