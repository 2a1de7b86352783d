"""One suite over all stream logs: Redis as one server, with a replica, and as a cluster, and the in-memory
twin."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from protocol import streams
from protocol.lease import Leader
from protocol.positions import ShardPosition, StateChecksum
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import COMMANDS_FIELD, EVENTS_FIELD, MESSAGES_FIELD, QUERIES_FIELD
from runtime import redis_clients
from stream_log.interface import Commit, DeadLetter, Fenced, StreamLog
from stream_log.memory_log import MemoryStreamLog
from stream_log.redis_log import RedisStreamLog
from tests.support.redis_servers import RedisServers

SHARD = 2
INPUTS = streams.commands(SHARD)
EVENTS = streams.events(SHARD)


@pytest.fixture(params=["memory", "redis", "sentinel", "cluster"])
def log(request: pytest.FixtureRequest) -> StreamLog:
    if request.param == "memory":
        return MemoryStreamLog(itertools.count(1_000).__next__)
    if request.param == "redis":
        return RedisStreamLog.connect(request.getfixturevalue("redis_url"))
    servers: RedisServers = request.getfixturevalue(f"{request.param}_servers")
    servers.flush()
    return RedisStreamLog.connect(
        servers.url, shard=SHARD, replicas_min=1 if request.param == "sentinel" else 0
    )


def test_entries_are_read_in_order_after_an_id(log: StreamLog) -> None:
    ids = [log.append(INPUTS, {COMMANDS_FIELD: bytes([number])}) for number in range(5)]
    entries = log.read({INPUTS: ids[1]}, 2, block_ms=0)
    assert [(entry.stream, entry.stream_id, entry.fields) for entry in entries] == [
        (INPUTS, ids[2], {COMMANDS_FIELD: b"\x02"}),
        (INPUTS, ids[3], {COMMANDS_FIELD: b"\x03"}),
    ]
    assert log.last_id(INPUTS) == ids[4]


def test_last_id_outlives_trimming(log: StreamLog) -> None:
    assert log.last_id(INPUTS) == STREAM_START
    ids = [log.append(INPUTS, {COMMANDS_FIELD: b"x"}) for _ in range(3)]
    log.trim(INPUTS, ids[1])
    assert [entry.stream_id for entry in log.read({INPUTS: STREAM_START}, 10, block_ms=0)] == ids[1:]
    log.trim(INPUTS, StreamId(9_999_999_999_999))
    assert log.read({INPUTS: STREAM_START}, 10, block_ms=0) == []
    assert log.last_id(INPUTS) == ids[2]


def test_inputs_are_read_once_and_again_after_a_takeover(log: StreamLog) -> None:
    first = log.take_over(SHARD)
    assert first == ShardPosition(1, STREAM_START)
    ids = [log.append(INPUTS, {COMMANDS_FIELD: b"x"}) for _ in range(3)]
    log.append(streams.queries(SHARD), {QUERIES_FIELD: b"q"})
    read = log.read_inputs(SHARD, first, 10, block_ms=10)
    assert [entry.stream for entry in read] == [INPUTS] * 3 + [streams.queries(SHARD)]
    # What is not committed comes again, but a query only once.
    assert [entry.stream_id for entry in log.read_inputs(SHARD, first, 10, block_ms=10)] == ids

    log.commit(Commit(SHARD, first, ids[0]))
    second = log.take_over(SHARD)
    assert second == ShardPosition(2, ids[0])
    assert [entry.stream_id for entry in log.read_inputs(SHARD, second, 10, block_ms=10)] == ids[1:]


def test_the_count_bounds_a_batch(log: StreamLog) -> None:
    position = log.take_over(SHARD)
    for _ in range(5):
        log.append(INPUTS, {COMMANDS_FIELD: b"x"})
    counts = []
    while entries := log.read_inputs(SHARD, position, 2, block_ms=10):
        counts.append(len(entries))
        log.commit(Commit(SHARD, position, entries[-1].stream_id))
        position = log.position(SHARD)
    assert counts == [2, 2, 1]


def test_commit_writes_everything_at_the_position(log: StreamLog) -> None:
    position = log.take_over(SHARD)
    stream_id = log.append(INPUTS, {COMMANDS_FIELD: b"x"})
    letter = DeadLetter(INPUTS, stream_id, "it smells", b"\xff\x00")
    log.commit(
        Commit(
            SHARD,
            position,
            stream_id,
            events=b"events",
            outbox={0: b"to 0", 1: b"to 1"},
            dead_letters=[letter],
        )
    )

    assert log.position(SHARD) == ShardPosition(1, stream_id)
    (events,) = log.read({EVENTS: STREAM_START}, 10, block_ms=0)
    assert (events.stream_id, events.fields) == (stream_id, {EVENTS_FIELD: b"events"})
    (outgoing,) = log.undelivered(SHARD)
    assert (outgoing.stream_id, dict(outgoing.frames)) == (stream_id, {0: b"to 0", 1: b"to 1"})
    (dead,) = log.read({streams.dead_letters(SHARD): STREAM_START}, 10, block_ms=0)
    assert dead.fields == {
        b"source": INPUTS.encode(),
        b"id": str(stream_id).encode(),
        b"reason": b"it smells",
        b"payload": b"\xff\x00",
    }


def test_a_commit_without_events_moves_the_position_only(log: StreamLog) -> None:
    position = log.take_over(SHARD)
    stream_id = log.append(INPUTS, {COMMANDS_FIELD: b"x"})
    log.commit(Commit(SHARD, position, stream_id))
    assert log.position(SHARD).stream_id == stream_id
    assert log.last_id(EVENTS) == STREAM_START


def test_a_commit_takes_its_checksum_along(log: StreamLog) -> None:
    assert log.checksum(SHARD) is None
    position = log.take_over(SHARD)
    ids = [log.append(INPUTS, {COMMANDS_FIELD: b"x"}) for _ in range(3)]
    letter = DeadLetter(INPUTS, ids[0], "it smells", b"\xff")
    log.commit(Commit(SHARD, position, ids[0], b"events", {0: b"to 0"}, [letter], "one"))
    assert log.checksum(SHARD) == StateChecksum(ids[0], "one")
    committed = log.read_committed(SHARD, STREAM_START, 10)
    assert (committed.position.stream_id, committed.checksum) == (ids[0], StateChecksum(ids[0], "one"))
    assert [dict(outgoing.frames) for outgoing in log.undelivered(SHARD)] == [{0: b"to 0"}]
    # A takeover writes the position, and leaves it; a commit that is refused writes neither.
    stale, position = position, log.take_over(SHARD)
    with pytest.raises(Fenced):
        log.commit(Commit(SHARD, stale, ids[1], checksum="stale"))
    assert log.checksum(SHARD) == StateChecksum(ids[0], "one")
    log.commit(Commit(SHARD, position, ids[1], checksum="two"))
    assert log.read_committed(SHARD, ids[1], 10).checksum == StateChecksum(ids[1], "two")
    log.commit(Commit(SHARD, ShardPosition(position.epoch, ids[1]), ids[2]))
    assert log.checksum(SHARD) is None
    assert log.read_committed(SHARD, ids[2], 10).checksum is None


def test_a_stale_writer_is_fenced(log: StreamLog) -> None:
    stale = log.take_over(SHARD)
    stream_id = log.append(INPUTS, {COMMANDS_FIELD: b"x"})
    log.read_inputs(SHARD, stale, 10, block_ms=10)
    current = log.take_over(SHARD)
    with pytest.raises(Fenced):
        log.commit(Commit(SHARD, stale, stream_id, events=b"stale"))
    with pytest.raises(Fenced):
        log.read_inputs(SHARD, stale, 10, block_ms=10)
    assert log.last_id(EVENTS) == STREAM_START
    assert [entry.stream_id for entry in log.read_inputs(SHARD, current, 10, block_ms=10)] == [stream_id]


def test_a_commit_from_an_old_position_is_fenced(log: StreamLog) -> None:
    position = log.take_over(SHARD)
    ids = [log.append(INPUTS, {COMMANDS_FIELD: b"x"}) for _ in range(2)]
    log.commit(Commit(SHARD, position, ids[0]))
    with pytest.raises(Fenced):
        log.commit(Commit(SHARD, position, ids[1]))


def test_delivery_empties_the_outbox_up_to_what_was_delivered(log: StreamLog) -> None:
    position = log.take_over(SHARD)
    for number in range(2):
        stream_id = log.append(INPUTS, {COMMANDS_FIELD: b"x"})
        log.commit(Commit(SHARD, position, stream_id, outbox={0: bytes([number])}))
        position = ShardPosition(position.epoch, stream_id)
    first, second = log.undelivered(SHARD)
    log.deliver(SHARD, first)
    assert log.undelivered(SHARD) == [second]
    delivered = log.read({streams.commands(0): STREAM_START}, 10, block_ms=0)
    assert [entry.fields for entry in delivered] == [{MESSAGES_FIELD: b"\x00"}]


def test_garbage_with_a_larger_id_does_not_stop_the_commits(log: StreamLog) -> None:
    position = log.take_over(SHARD)
    stream_id = log.append(INPUTS, {COMMANDS_FIELD: b"x"})
    for stream in (EVENTS, streams.outbox(SHARD)):
        for _ in range(3):
            log.append(stream, {b"garbage": b"garbage"})
    log.commit(Commit(SHARD, position, stream_id, events=b"events", outbox={0: b"to 0"}))
    assert log.position(SHARD).stream_id == stream_id
    assert log.read({EVENTS: STREAM_START}, 10, block_ms=0)[-1].fields == {EVENTS_FIELD: b"events"}
    assert [dict(outgoing.frames) for outgoing in log.undelivered(SHARD)] == [{}, {}, {}, {0: b"to 0"}]


def test_only_the_leader_says_how_its_shard_is_configured(log: StreamLog) -> None:
    assert log.configuration(SHARD) is None
    stale = log.take_over(SHARD)
    assert log.write_configuration(SHARD, stale, b"one")
    assert log.configuration(SHARD) == b"one"
    position = log.take_over(SHARD)
    assert not log.write_configuration(SHARD, stale, b"of one that leads no more")
    assert log.configuration(SHARD) == b"one"

    stream_id = log.append(INPUTS, {COMMANDS_FIELD: b"x"})
    log.commit(Commit(SHARD, position, stream_id))
    assert not log.write_configuration(SHARD, position, b"of before the commit")
    assert log.write_configuration(SHARD, log.position(SHARD), b"two")
    assert log.write_configuration(SHARD, log.position(SHARD), b"two")
    assert log.configuration(SHARD) == b"two"
    assert log.configuration(SHARD + 1) is None


def test_two_snapshots_are_kept(log: StreamLog) -> None:
    for number in range(3):
        log.save_snapshot(SHARD, bytes([number]))
    assert log.snapshots(SHARD) == [b"\x02", b"\x01"]


def test_readers_say_what_they_have_passed(log: StreamLog) -> None:
    assert log.passed(SHARD) == {}
    log.mark_passed(SHARD, "feeds", StreamId(5, 1))
    assert log.passed(SHARD) == {"feeds": StreamId(5, 1)}


def test_published_messages_reach_who_listens(redis_url: str) -> None:
    listener = redis.Redis.from_url(redis_url).pubsub()  # type: ignore[no-untyped-call]
    listener.subscribe("reply:a")
    assert listener.get_message(timeout=60) is not None  # the subscription itself
    RedisStreamLog.connect(redis_url).publish([("reply:a", b"1"), ("reply:b", b"2")])
    message = listener.get_message(timeout=60)
    assert message is not None
    assert message["data"] == b"1"
    listener.close()


class LossyConnection(redis.Connection):
    """A connection that breaks after the server has done what was asked, before the answer arrives."""

    lose_next = False

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        answer = super().read_response(*arguments, **options)
        if LossyConnection.lose_next:
            LossyConnection.lose_next = False
            raise redis.ConnectionError("lost")
        return answer


@pytest.fixture
def lossy(redis_url: str) -> Iterator[redis.Redis]:
    pool = redis.ConnectionPool.from_url(redis_url, protocol=2, connection_class=LossyConnection)
    yield redis.Redis(connection_pool=pool)
    pool.disconnect()
    LossyConnection.lose_next = False


def test_a_commit_whose_answer_is_lost_is_written_once(lossy: redis.Redis) -> None:
    log = RedisStreamLog(lossy)
    position = log.take_over(SHARD)
    ids = [log.append(INPUTS, {COMMANDS_FIELD: b"x"}) for _ in range(2)]
    log.commit(Commit(SHARD, position, ids[0], events=b"first"))  # so that the script is known
    LossyConnection.lose_next = True
    log.commit(Commit(SHARD, ShardPosition(1, ids[0]), ids[1], events=b"second"))
    assert not LossyConnection.lose_next
    assert [entry.fields[EVENTS_FIELD] for entry in log.read({EVENTS: STREAM_START}, 10, block_ms=0)] == [
        b"first",
        b"second",
    ]


def test_answers_come_as_they_are_errors_among_them(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        first, error, last = redis_clients.pipelined(
            client, ("SET", "a", "1"), ("LPUSH", "a", "2"), ("GET", "a")
        )
        assert (first, last) == (b"OK", b"1")
        assert isinstance(error, redis.ResponseError)
        assert str(error).startswith("WRONGTYPE")


def test_after_a_lost_answer_nothing_is_taken_for_the_answer_to_something_else(lossy: redis.Redis) -> None:
    lossy.ping()
    LossyConnection.lose_next = True
    with pytest.raises(redis.ConnectionError):
        redis_clients.pipelined(
            lossy, ("ECHO", "a"), ("BLPOP", "nothing", 0.2)
        )  # its answer is still to come then
    assert redis_clients.pipelined(lossy, ("ECHO", "d")) == [b"d"]


def test_the_groups_cursor_is_the_committed_position(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url, protocol=2)
    log = RedisStreamLog(client)
    position = log.take_over(SHARD)
    ids = [log.append(INPUTS, {COMMANDS_FIELD: b"x"}) for _ in range(3)]
    log.read_inputs(SHARD, position, 10, block_ms=10)
    log.commit(Commit(SHARD, position, ids[1]))
    (group,) = client.xinfo_groups(INPUTS)
    assert (group["name"], group["last-delivered-id"]) == (
        streams.ENGINE_GROUP.encode(),
        str(ids[1]).encode(),
    )


def test_queries_are_heard_when_redis_clock_was_ahead_and_is_set_right(redis_url: str) -> None:
    """Ids of queries then are an hour before what the clock said when the shard was taken over."""
    log = RedisStreamLog.connect(redis_url)
    leader = Leader("engine-0", 1, 1_000)
    position = log.take_over(SHARD, leader)
    with redis.Redis.from_url(redis_url) as client:
        hour_ago = client.time()[0] * 1_000 - 3_600_000
        client.xadd(streams.queries(SHARD), {QUERIES_FIELD: b"asked"}, id=f"{hour_ago}-0")
    (query,) = log.read_inputs(SHARD, position, 10, 10)
    assert query.fields == {QUERIES_FIELD: b"asked"}
