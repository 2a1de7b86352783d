"""The archive: everything that the shards were told, in the database before what came of it."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import psycopg
import pytest

from engine_worker.core.shard import Shard
from engine_worker.core.snapshot import decode_snapshot, state_hash
from engine_worker.entries import apply_entry
from engine_worker.snapshots import Snapshotter
from persist.archive import Archiver, LostTailError, Retention, drop_old, withdraw
from persist.archived import ShardArchive
from persist.ingest import IngestStoppedError, Progress, ShardIngest
from persist.segments import ArchiveDamagedError
from protocol import streams
from protocol.market import MarketMap
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import ARCHIVE_READER
from stream_log.interface import Entry, StreamLog
from stream_log.memory_log import MemoryStreamLog
from stream_log.redis_log import RedisStreamLog
from tests.integration.persist.stored import query
from tests.support.archive_clock import ALWAYS, Clock
from tests.support.databases import as_persist
from tests.support.market_log import START_MS, market_map
from tests.support.worked_log import WorkedLog

NEVER = Retention(snapshot_interval_s=10**9, snapshots_max=1_000, days=36_500)


@pytest.fixture
def log() -> MemoryStreamLog:
    return MemoryStreamLog(Clock())


@contextmanager
def archiver_of(
    log: StreamLog, database_url: str, shard_count: int = 1, retention: Retention = NEVER
) -> Iterator[Archiver]:
    archiver = Archiver(log, range(shard_count), as_persist(database_url), retention)
    yield archiver
    archiver.close()


def archived(database_url: str, shard: int = 0, after: StreamId = STREAM_START) -> list[Entry]:
    with psycopg.connect(database_url) as connection:
        return list(ShardArchive(connection, shard).entries(after))


def inputs(log: StreamLog, shard: int = 0, after: StreamId = STREAM_START) -> list[Entry]:
    return log.read({streams.commands(shard): after}, 1_000_000, 0)


@pytest.mark.parametrize("shard_count", [1, 3])
def test_the_archive_is_the_log_however_often_and_by_whom_it_is_brought_up_to_date(
    database_url: str, log: MemoryStreamLog, shard_count: int
) -> None:
    dice, trading = random.Random(1), WorkedLog(log, 1, market_map(shard_count))
    with (
        archiver_of(log, database_url, shard_count) as one,
        archiver_of(log, database_url, shard_count) as other,
    ):
        for _ in range(120):
            trading.trade(dice.randint(1, 5))
            dice.choice((one, other)).step()
        one.step()
    for shard in range(shard_count):
        assert archived(database_url, shard) == inputs(log, shard)
        last_id = log.position(shard).stream_id
        assert log.passed(shard)[ARCHIVE_READER] == last_id
        assert query(database_url, "SELECT shard, last_id FROM archive ORDER BY 1")[shard] == (
            shard,
            str(last_id),
        )
    ((segments, entries),) = query(database_url, "SELECT count(*), sum(entries) FROM log_segments")
    assert segments < 60 * shard_count, "small segments are merged"
    assert entries == sum(len(inputs(log, shard)) for shard in range(shard_count))


def test_what_is_not_committed_is_not_archived(database_url: str, log: MemoryStreamLog) -> None:
    trading = WorkedLog(log, 2, market_map())
    with archiver_of(log, database_url) as archiver:
        archiver.step()
        before = archived(database_url)
        log.append(streams.commands(0), {b"c": b"not looked at yet"})
        archiver.step()
        assert archived(database_url) == before
        trading.work()
        archiver.step()
        assert archived(database_url)[-1].fields == {b"c": b"not looked at yet"}


def rebuilt(database_url: str, shard: int, markets: MarketMap) -> Shard:
    """The shard that the archive leads to."""
    built = Shard(shard, MarketMap.placed([], markets.shard_count))
    for entry in archived(database_url, shard):
        apply_entry(built, entry)
    return built


def test_a_message_is_never_archived_without_the_command_that_sent_it(
    database_url: str, log: MemoryStreamLog
) -> None:
    """The states that the archive leads to belong together at any moment: no shard has heard what another has
    not said."""
    markets, dice = market_map(3), random.Random(3)
    trading = WorkedLog(log, 3, markets)
    others = 0
    with archiver_of(log, database_url, 3) as archiver:
        for _ in range(15):
            trading.enqueue(5)
            for _ in range(dice.randint(1, 8)):
                dice.choice(trading.workers).step(block_ms=1)
            shard = dice.randrange(3)
            archiver.cover(shard, log.last_id(streams.events(shard)))
            shards = [rebuilt(database_url, shard, markets) for shard in range(3)]
            for target in shards:
                for source, number in target.state.received.items():
                    assert number <= shards[source].state.sent.get(target.state.index, 0)
                    others += number < shards[source].state.sent[target.state.index]
    assert others, "some messages were on their way"


def test_nothing_is_ingested_that_is_not_archived(database_url: str, log: MemoryStreamLog) -> None:
    markets = market_map()
    trading = WorkedLog(log, 4, markets)
    with archiver_of(log, database_url) as archiver:

        def archived_then_more(shard: int, stream_id: StreamId) -> None:
            archiver.cover(shard, stream_id)
            trading.trade(5)  # while the ingest is at it

        ingest = ShardIngest(0, log, as_persist(database_url), 1, 50, archived_then_more)
        for _ in range(20):
            assert ingest.step() in (Progress.MORE, Progress.CAUGHT_UP)
            ((ingested, archived_id),) = query(
                database_url, "SELECT ingest.last_id, archive.last_id FROM ingest JOIN archive USING (shard)"
            )
            assert StreamId.parse(ingested) <= StreamId.parse(archived_id)
        ingest.close()
    assert query(database_url, "SELECT count(*) > 0 FROM trades") == [(True,)]


def test_the_input_is_trimmed_only_to_what_is_archived(database_url: str, redis_url: str) -> None:
    log = RedisStreamLog.connect(redis_url)
    trading = WorkedLog(log, 5, market_map())
    snapshotter = Snapshotter(
        trading.workers[0], log, partial(RedisStreamLog.connect, redis_url), 0, interval_s=0.0
    )

    def saved_twice() -> None:
        for _ in range(2):
            trading.trade(3)
            before = log.snapshots(0)
            while log.snapshots(0) == before or snapshotter.busy:
                snapshotter.run()

    with archiver_of(log, database_url) as archiver:
        archiver.step()
        last_archived = inputs(log)[-1]
        saved_twice()
        assert inputs(log)[0] == last_archived
        archiver.step()
        saved_twice()
        assert inputs(log)[0].stream_id > last_archived.stream_id
        withdraw(log, database_url, [0])
        first = inputs(log)[0]
        saved_twice()
        assert inputs(log)[0].stream_id > first.stream_id, "nobody archives"


def test_an_archive_that_was_away_goes_on_at_a_snapshot(database_url: str, log: MemoryStreamLog) -> None:
    trading = WorkedLog(log, 6, market_map())
    with archiver_of(log, database_url) as archiver:
        trading.trade(50)
        archiver.step()
        end = log.position(0).stream_id
        withdraw(log, database_url, [0])
        trading.trade(50)
        trading.save_snapshots()
        snapshot = log.position(0).stream_id
        log.trim(streams.commands(0), snapshot)
        trading.trade(50)
        archiver.step()
        trading.trade(50)
        archiver.step()
    assert archived(database_url, after=snapshot) == inputs(log, after=snapshot)
    with pytest.raises(ArchiveDamagedError, match=f"nothing between {end} and {snapshot}"):
        archived(database_url, after=end)
    assert query(database_url, "SELECT may_restart FROM archive") == [(False,)]
    with psycopg.connect(database_url) as connection:
        shard, stream_id = decode_snapshot(ShardArchive(connection, 0).snapshot(snapshot))
    assert stream_id == snapshot
    assert shard.state.command_count < trading.workers[0].shard.state.command_count


def test_snapshots_are_archived_when_due_and_the_oldest_go_with_their_log(
    database_url: str, log: MemoryStreamLog
) -> None:
    trading = WorkedLog(log, 7, market_map())
    ids = [STREAM_START]
    with archiver_of(log, database_url, retention=ALWAYS) as archiver:
        for _ in range(6):
            trading.trade(40)
            trading.save_snapshots()
            archiver.step()
            ids.append(log.position(0).stream_id)
    with psycopg.connect(database_url) as connection:
        archive = ShardArchive(connection, 0)
        assert [each.stream_id for each in archive.snapshots()] == ids[:0:-1]
        newest = archive.snapshots()[0]
        assert newest.sequences == {
            symbol: state.sequence for symbol, state in trading.workers[0].shard.state.markets.items()
        }
        restored, stream_id = decode_snapshot(archive.snapshot(newest.stream_id))
        assert (state_hash(restored), stream_id) == (state_hash(trading.workers[0].shard), ids[-1])
        assert archive.oldest_id() == STREAM_START

        drop_old(connection, 0, Retention(0, 3, 36_500), START_MS)
        assert [each.stream_id for each in archive.snapshots()] == ids[:3:-1]
        assert list(archive.entries(ids[4])) == inputs(log, after=ids[4])
        assert archive.oldest_id() == ids[4]
        assert all(each.last_id > ids[4] for each in archive.segments(STREAM_START))
        a_day_later = ids[-1].ms + 86_400_001
        drop_old(connection, 0, Retention(0, 3, 1), a_day_later)
        assert [each.stream_id for each in archive.snapshots()] == ids[-1:], "the newest always stays"


def test_a_log_that_lost_its_end_is_archived_and_ingested_no_further(database_url: str) -> None:
    markets, log = market_map(), MemoryStreamLog(Clock())
    trading = WorkedLog(log, 8, markets)
    trading.trade(100)
    with archiver_of(log, database_url) as archiver:
        ingest = ShardIngest(0, log, as_persist(database_url), 1, 1_000, archiver.cover)
        ingest.step()
        ingest.close()
    before = query(database_url, "SELECT * FROM trades ORDER BY trade_id")
    end = log.position(0).stream_id

    clock = Clock()
    shorter = MemoryStreamLog(clock)
    again = WorkedLog(shorter, 8, markets)
    again.trade(20)
    with archiver_of(shorter, database_url) as archiver:
        with pytest.raises(LostTailError, match=f"its log ends at .* but was archived up to {end}"):
            archiver.step()
        # Also when it has gone on since, past where it once was.
        clock.now_ms = end.ms
        again.trade(50)
        assert shorter.position(0).stream_id > end
        with pytest.raises(LostTailError, match=f"goes on without entry {end}"):
            archiver.step()
        ingest = ShardIngest(0, shorter, as_persist(database_url), 1, 1_000, archiver.cover)
        with pytest.raises(IngestStoppedError, match="exchange restore"):
            ingest.step()
        ingest.close()
    assert query(database_url, "SELECT * FROM trades ORDER BY trade_id") == before
    assert "exchange restore" in query(database_url, "SELECT error FROM ingest")[0][0]
