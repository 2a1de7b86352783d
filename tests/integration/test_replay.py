"""Replaying a shard's log, and finding what is not as the log says."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from click.testing import CliRunner

from cli.main import main
from engine_worker.core import journal
from engine_worker.core.account_half import AccountHalf
from engine_worker.core.outcomes import Transfer
from engine_worker.core.snapshot import encode_snapshot
from engine_worker.replay import Difference, Replay, SourceTrimmed, StreamLogSource, Verifier
from engine_worker.worker import Worker
from protocol import streams
from protocol.codec import decode_events, encode_frame
from protocol.commands import Deposit
from protocol.events import StateHashed, TradeExecuted
from protocol.market import MarketMap
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import COMMANDS_FIELD, EVENTS_FIELD
from protocol.units import AccountId, AssetUnits, TimeMs
from runtime.settings import PREFIX
from stream_log.interface import Entry, StreamLog
from stream_log.memory_log import MemoryStreamLog
from stream_log.redis_log import RedisStreamLog
from tests.support.workers import deposits, enqueue, market_map, run_until_quiet, trading, worker

INTERVAL = 10


@pytest.fixture(autouse=True)
def _hashed_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "STATE_HASH_INTERVAL", INTERVAL)


@pytest.fixture(params=["memory", "redis"])
def log(request: pytest.FixtureRequest) -> StreamLog:
    if request.param == "memory":
        return MemoryStreamLog(itertools.count(1_767_225_600_000).__next__)
    return RedisStreamLog.connect(request.getfixturevalue("redis_url"))


def exchange(log: StreamLog, shard_count: int) -> list[Worker]:
    """Return workers that have traded, saved two snapshots on the way, and traded on."""
    markets = market_map(shard_count)
    workers = [worker(log, index, markets) for index in range(shard_count)]
    for each in workers:
        each.start()
    enqueue(log, deposits(), markets)
    for seed in (1, 2, 3):
        enqueue(log, trading(seed, 60 * seed)[60 * (seed - 1) :], markets)
        log.append(streams.commands(0), {b"x": b"garbage"})
        run_until_quiet(workers)
        if seed < 3:
            for each in workers:
                log.save_snapshot(
                    each.shard.state.index, encode_snapshot(each.shard, each.position.stream_id)
                )
    return workers


def replay(log: StreamLog, index: int, markets: MarketMap, snapshot: bytes | None = None) -> Replay:
    return Replay(StreamLogSource(log, index), index, markets.shard_count, snapshot)


def verified(log: StreamLog, index: int, markets: MarketMap, snapshot: bytes | None = None) -> Verifier:
    source = StreamLogSource(log, index)
    again, goal = replay(log, index, markets, snapshot), log.position(index).stream_id
    verifier = Verifier(source, again, goal, checksum=log.checksum(index))
    for _ in verifier.run():
        pass
    return verifier


def difference(log: StreamLog, markets: MarketMap) -> Difference:
    found = verified(log, 0, markets).verdict().difference
    assert found is not None, "the replay did not notice"
    return found


@pytest.mark.parametrize("shard_count", [1, 3])
def test_a_replay_from_anywhere_is_the_same(log: StreamLog, shard_count: int) -> None:
    workers = exchange(log, shard_count)
    for each in workers:
        index, markets = each.shard.state.index, market_map(shard_count)
        newer, older = log.snapshots(index)
        for snapshot, passed in ((None, 2), (older, 1), (newer, 0)):
            verifier = verified(log, index, markets, snapshot)
            verifier.compare_digest(each.shard.state.command_count, each.shard.digest())
            verdict = verifier.verdict()
            assert verdict.difference is None
            assert (verdict.snapshots, verdict.checksums) == (passed, 1)
            assert encode_snapshot(verifier.replay.shard, STREAM_START) == encode_snapshot(
                each.shard, STREAM_START
            )
            if snapshot is None:
                entries = log.read({streams.events(index): STREAM_START}, 10_000, 0)
                events = [event for entry in entries for event in decode_events(entry.fields[EVENTS_FIELD])]
                hashes = sum(isinstance(event, StateHashed) for event in events)
                assert (verdict.events, verdict.state_hashes) == (len(events), hashes)
                assert hashes == each.shard.state.command_count // INTERVAL > 0
                assert verdict.commands == each.shard.state.command_count
                assert verdict.dead_letters == (3 if index == 0 else 0)


def rewritten(log: MemoryStreamLog, stream: str, change: Callable[[list[Entry]], list[Entry]]) -> None:
    log._streams[stream] = change(log._streams[stream])


@pytest.fixture
def memory() -> MemoryStreamLog:
    return MemoryStreamLog(itertools.count(1_767_225_600_000).__next__)


def test_an_event_that_was_changed_is_named(memory: MemoryStreamLog) -> None:
    exchange(memory, 1)

    def dearer(entries: list[Entry]) -> list[Entry]:
        for place, entry in enumerate(entries):
            events = decode_events(entry.fields[EVENTS_FIELD])
            for number, event in enumerate(events):
                if isinstance(event, TradeExecuted):
                    events[number] = msgspec.structs.replace(event, price=event.price + 1)
                    entries[place] = entry._replace(fields={EVENTS_FIELD: encode_frame(events)})
                    changed.append((entry.stream_id, event.price))
                    return entries
        raise AssertionError

    changed: list[tuple[StreamId, int]] = []
    rewritten(memory, streams.events(0), dearer)
    found = difference(memory, market_map(1))
    [(stream_id, price)] = changed
    assert (found.stream, found.stream_id) == ("ev:{0}", str(stream_id))
    assert f"price={price}," in found.expected
    assert f"price={price + 1}," in found.found
    assert 0 < found.commands[0] < found.commands[1]


def test_an_entry_that_is_missing_is_noticed_in_the_middle_and_at_the_end(memory: MemoryStreamLog) -> None:
    exchange(memory, 1)
    whole = list(memory._streams[streams.events(0)])
    rewritten(memory, streams.events(0), lambda entries: entries[:20] + entries[21:])
    assert difference(memory, market_map(1)).stream_id == str(whole[21].stream_id)
    rewritten(memory, streams.events(0), lambda _: whole[:-1])
    last = difference(memory, market_map(1))
    assert last.found == "nothing"
    assert "at the end" in last.what


def test_an_input_that_was_changed_is_noticed(memory: MemoryStreamLog) -> None:
    exchange(memory, 1)
    more = encode_frame([Deposit(0, "test", AccountId(1), "USDT", AssetUnits(10**15 + 1), "first USDT")])
    rewritten(
        memory,
        streams.commands(0),
        lambda entries: [entries[0]._replace(fields={COMMANDS_FIELD: more}), *entries[1:]],
    )
    found = difference(memory, market_map(1))
    assert (found.stream, found.commands[0]) == ("ev:{0}", 0)


def test_another_state_in_a_snapshot_is_noticed(memory: MemoryStreamLog) -> None:
    workers = exchange(memory, 1)
    markets = market_map(1)
    newer, older = memory.snapshots(0)
    again = replay(memory, 0, markets, older)
    again.shard.state.transfers.remember(
        Transfer(b"never seen", again.shard.state.time, "BTC", AssetUnits(1))
    )
    memory._snapshots[0] = [(again.position, 0, encode_snapshot(again.shard, again.position))]
    assert workers[0].position.stream_id != again.position
    found = difference(memory, markets)
    assert (found.stream, found.stream_id) == ("snapshots:{0}", str(again.position))
    assert newer != older


def test_another_state_of_the_running_shard_is_noticed(memory: MemoryStreamLog) -> None:
    [only] = exchange(memory, 1)
    only.shard.state.order_count += 1
    verifier = verified(memory, 0, market_map(1))
    assert verifier.verdict().difference is None
    verifier.compare_digest(only.shard.state.command_count, only.shard.digest())
    found = verifier.verdict().difference
    assert found is not None
    assert found.what == "the running shard's state"


def test_a_commit_of_another_state_is_noticed_where_no_event_shows_it(memory: MemoryStreamLog) -> None:
    exchange(memory, 1)
    committed = memory.checksum(0)
    assert committed is not None
    memory._checksums[0] = committed._replace(checksum="another")
    found = difference(memory, market_map(1))
    assert (found.stream, found.stream_id, found.found) == (
        "pos:{0}:checksum",
        str(committed.stream_id),
        "another",
    )
    # One that the replay does not come by is not compared.
    memory._checksums[0] = committed._replace(checksum="another", stream_id=StreamId(1))
    verdict = verified(memory, 0, market_map(1)).verdict()
    assert (verdict.difference, verdict.checksums) == (None, 0)


def test_another_program_is_noticed(memory: MemoryStreamLog, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange(memory, 1)
    place_order = AccountHalf.place_order

    def other(half: AccountHalf, command: object) -> None:
        place_order(half, command)  # type: ignore[arg-type]
        half._state.order_count += half._state.command_count == 50

    monkeypatch.setattr(AccountHalf, "place_order", other)
    found = difference(memory, market_map(1))
    assert 40 <= found.commands[0] <= found.commands[1] <= 60


def test_garbage_among_the_events_is_counted_and_passed_over(log: StreamLog) -> None:
    exchange(log, 1)
    log.append(streams.events(0), {EVENTS_FIELD: b"garbage"})
    log.append(streams.events(0), {b"x": b"y"})
    enqueue(log, [Deposit(1_000_001, "test", AccountId(1), "USDT", AssetUnits(5), "later")], market_map(1))
    again = worker(log, 0, market_map(1))
    again.start()
    run_until_quiet([again])
    verdict = verified(log, 0, market_map(1)).verdict()
    assert verdict.difference is None
    assert verdict.foreign == 2


def test_what_was_trimmed_is_said(log: StreamLog) -> None:
    exchange(log, 1)
    newer, older = log.snapshots(0)
    markets = market_map(1)
    before, after = (replay(log, 0, markets, each).position for each in (older, newer))
    log.trim(streams.commands(0), before)
    assert verified(log, 0, markets, older).verdict().difference is None
    with pytest.raises(SourceTrimmed, match="trimmed to"):
        verified(log, 0, markets)
    log.trim(streams.commands(0), after)
    with pytest.raises(SourceTrimmed, match="trimmed to"):
        verified(log, 0, markets, older)


def test_the_command_ends_with_0_or_1_and_names_the_first_difference(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RedisStreamLog.connect(redis_url)
    [only] = exchange(log, 1)
    monkeypatch.setenv(f"{PREFIX}REDIS_URL", redis_url)
    monkeypatch.setenv(f"{PREFIX}DATA_DIR", str(tmp_path))
    told = CliRunner().invoke(main, ["replay", "--verify", "--from-beginning"])
    assert told.exit_code == 0, told.output
    assert f"{only.shard.state.command_count:,} commands" in told.output
    assert "does not answer" in told.output
    assert "1 checksums of commits" in told.output
    forged = encode_frame([StateHashed(TimeMs(1), 1, "forged")])
    client = redis.Redis.from_url(redis_url)
    # In the place of an entry that the shard has written.
    newest: Any = client.xrevrange(streams.events(0), count=1)
    client.xdel(streams.events(0), newest[0][0])
    client.xadd(streams.events(0), {EVENTS_FIELD: forged})
    told = CliRunner().invoke(main, ["replay", "--verify", "--from-beginning"])
    assert told.exit_code == 1
    assert "not the same" in told.output
    assert "digest='forged'" in told.output
    log.trim(streams.commands(0), only.position.stream_id)
    told = CliRunner().invoke(main, ["replay", "--verify", "--from-beginning"])
    assert told.exit_code == 1
    assert "cannot be replayed" in told.output
