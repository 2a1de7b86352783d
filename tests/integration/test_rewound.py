"""Workers whose Redis has lost what they have of it, as a promoted replica has: they start anew, whatever its
position says."""

from collections.abc import Iterator

import pytest
import redis

from engine_worker.worker import Worker
from protocol import streams
from protocol.codec import encode_frame
from protocol.commands import Deposit
from protocol.lease import Leader
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import COMMANDS_FIELD, EVENTS_FIELD
from protocol.units import AccountId, AssetUnits
from runtime.settings import Settings
from stream_log.interface import Commit, Rewound
from stream_log.redis_log import RedisStreamLog

MARKETS = Settings().market_map()
INPUTS = streams.commands(0)


@pytest.fixture
def admin(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def worker(log: RedisStreamLog) -> Worker:
    return Worker(log, 0, MARKETS, batch_entries_max=100)


def deposit(number: int) -> dict[bytes, bytes]:
    command = Deposit(number, "test", AccountId(1), "USDT", AssetUnits(number), str(number))
    return {COMMANDS_FIELD: encode_frame([command])}


def followed(redis_url: str) -> tuple[Worker, StreamId]:
    """Return a standby that has followed two deposits, and the id of the second."""
    leader_log = RedisStreamLog.connect(redis_url)
    leader, standby = worker(leader_log), worker(RedisStreamLog.connect(redis_url))
    leader.start()
    standby.join()
    for number in (1, 2):
        stream_id = leader_log.append(INPUTS, deposit(number))
        leader.step(block_ms=10)
    standby.follow()
    assert standby.position.stream_id == stream_id
    leader_log.close()
    return standby, stream_id


def end_connections(admin: redis.Redis) -> None:
    admin.client_kill_filter(_type="normal", skipme=True)


def replace(admin: redis.Redis, stream_id: StreamId, number: int) -> None:
    """Let another input stand where the last one was, under the same position."""
    fields: dict[bytes, bytes] = deposit(number)
    admin.xdel(INPUTS, str(stream_id))
    rest = admin.xrange(INPUTS)
    admin.delete(INPUTS)
    for each, values in [*rest, (str(stream_id), fields)]:  # type: ignore[misc]
        admin.xadd(INPUTS, values, id=each)


def follow(standby: Worker) -> None:
    """Follow, over a new connection if the old one is gone."""
    try:
        standby.follow()
    except redis.ConnectionError:
        standby.follow()


def test_a_standby_whose_input_is_another_one_starts_anew(redis_url: str, admin: redis.Redis) -> None:
    standby, stream_id = followed(redis_url)
    replace(admin, stream_id, 3)
    end_connections(admin)
    with pytest.raises(Rewound, match="was lost"):
        follow(standby)


def test_a_standby_whose_connection_alone_was_lost_goes_on(redis_url: str, admin: redis.Redis) -> None:
    standby, stream_id = followed(redis_url)
    replace(admin, stream_id, 2)
    end_connections(admin)
    follow(standby)
    assert standby.position.stream_id == stream_id


@pytest.mark.parametrize("step", ["follow", "lead"])
def test_a_standby_that_is_ahead_of_the_position_starts_anew(
    redis_url: str, admin: redis.Redis, step: str
) -> None:
    standby, _ = followed(redis_url)
    admin.set(streams.position(0), "1|1-0")
    with pytest.raises(Rewound, match="is back at"):
        getattr(standby, step)()


def test_a_renewal_that_fails_in_the_middle_of_a_batch_leaves_it_whole(
    redis_url: str, admin: redis.Redis
) -> None:
    """It must neither be begun again nor be committed where its input may not be."""
    log = RedisStreamLog.connect(redis_url, "engine-0")
    position = log.take_over(0, Leader("engine-0", 1, 1_000))
    leader = Leader("engine-0", 1, 1_000, position.epoch)
    stream_id = log.append(INPUTS, deposit(1))
    assert [entry.stream_id for entry in log.read_inputs(0, position, 10, 10)] == [stream_id]
    replace(admin, stream_id, 2)
    end_connections(admin)
    log.renew_lease(0, leader)
    with pytest.raises(Rewound):
        log.commit(Commit(0, position, stream_id, b"events"))


@pytest.mark.parametrize("is_lost", [True, False])
def test_what_was_applied_ahead_is_not_committed_where_its_input_is_not(
    redis_url: str, admin: redis.Redis, is_lost: bool
) -> None:
    """Two batches were made of what was read at once.

    The first is being written when another master takes over, which lacks the end.
    """
    log = RedisStreamLog.connect(redis_url)
    position = log.take_over(0)
    first, second = (log.append(INPUTS, deposit(number)) for number in (1, 2))
    assert [entry.stream_id for entry in log.read_inputs(0, position, 10, 10)] == [first, second]
    replace(admin, second, 3 if is_lost else 2)
    end_connections(admin)
    log.begin_commit(Commit(0, position, first, b"of the first"))

    def commit_both() -> None:
        log.finish_commit()
        log.commit(Commit(0, position._replace(stream_id=first), second, b"of the second"))

    if is_lost:
        with pytest.raises(Rewound):
            commit_both()
    else:
        commit_both()
    events = [
        entry.fields[EVENTS_FIELD] for entry in log.read({streams.events(0): STREAM_START}, 10, block_ms=0)
    ]
    assert events == ([] if is_lost else [b"of the first", b"of the second"])
