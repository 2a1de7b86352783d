"""Every core makes the same bytes of the same input, whoever has applied what came before."""

from typing import get_args

import msgspec
import pytest

from engine_worker.core.frames import ObjectOutput
from engine_worker.core.snapshot import encode_snapshot
from engine_worker.cores import CORES
from engine_worker.frame_core import Cores, SnapshotError
from protocol.codec import decode_events
from protocol.events import EntrySkipped, OrderFilled, ShardEvent, TradeExecuted
from protocol.listing import decode_configuration
from protocol.stream_id import STREAM_START, StreamId
from protocol.units import TimeMs
from tests.properties.cores import GOLDEN, MARKETS, QUERIES, SHARDS, Recorder, Running, golden, recorded

SEEDS = (1, 2, 3)


@pytest.fixture(scope="module")
def logs() -> dict[int, Recorder]:
    return {seed: recorded(seed) for seed in SEEDS}


@pytest.fixture(params=list(CORES.values()), ids=list(CORES))
def cores(request: pytest.FixtureRequest) -> Cores:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=SEEDS)
def log(request: pytest.FixtureRequest, logs: dict[int, Recorder]) -> Recorder:
    return logs[request.param]


def test_the_recordings_hold_what_matters(logs: dict[int, Recorder]) -> None:
    made = [each for log in logs.values() for each in log.made]
    told = {type(event) for each in made if each.frame for event in decode_events(each.frame)}
    assert {TradeExecuted, OrderFilled, EntrySkipped} <= told
    assert len(told & set(get_args(ShardEvent))) >= 6
    assert sum(1 for each in made if each.outbox) > 100
    assert sum(1 for each in made if isinstance(each.dead, list) and each.dead) > 3
    reasons = {each.dead.partition(":")[0] for each in made if isinstance(each.dead, str)}
    assert reasons >= {"NotUnderstoodError", "LaterFormatError"}
    assert reasons & {"MessageNotUnderstood", "InvariantBroken"}


def test_the_same_frames_replies_messages_and_digests(cores: Cores, log: Recorder) -> None:
    for number, (made, expected) in enumerate(zip(Running(cores).run(log.steps), log.made, strict=True)):
        assert made == expected, f"step {number}: {log.steps[number]}"


@pytest.mark.parametrize("method", ["replies", "outbox"])
def test_a_core_that_leaves_something_out_is_noticed(
    logs: dict[int, Recorder], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ObjectOutput, method, lambda _: {} if method == "outbox" else [])
    assert list(Running(CORES["objects"]).run(logs[1].steps)) != logs[1].made


def test_the_same_snapshots_answers_and_configuration(cores: Cores, log: Recorder) -> None:
    running = Running(cores)
    for _ in running.run(log.steps):
        pass
    for core, reference, position in zip(running.cores, log.shards, running.positions, strict=True):
        shard = reference.shard
        assert core.encode_snapshot(position) == encode_snapshot(shard, position)
        answers = core.answer(QUERIES, TimeMs(position.ms), position)
        found = [(each.reply_to, each.reply, each.unknown_order is not None) for each in answers]
        assert found == reference.answers(QUERIES, position)
        configuration = decode_configuration(core.encode_configuration(position))
        assert (configuration.stream_id, configuration.config) == (str(position), shard.state.config)
        assert {each.market.symbol for each in configuration.markets} == shard.state.markets.keys()
        assert set(core.symbols) == set(MARKETS.by_symbol)
        assert (core.index, core.shard_count, core.is_configured, core.has_work) == (
            shard.state.index,
            SHARDS,
            True,
            False,
        )
        assert {name: counts.trades for name, counts in core.market_counts().items()} == {
            name: state.trade_id for name, state in shard.state.markets.items()
        }
        assert not any(core.differences().values())
        core.check_money()
        core.check_invariants()


@pytest.mark.parametrize("every", [7, 90])
@pytest.mark.parametrize("other", list(CORES.values()), ids=list(CORES))
def test_another_core_goes_on_from_its_snapshot(
    cores: Cores, other: Cores, log: Recorder, every: int
) -> None:
    running, turn = Running(cores), 0
    at = 0
    while at < len(log.steps):
        end = at + every
        # What was applied is taken before a snapshot is made, as the shell does.
        while end < len(log.steps) and not _all_taken(log, end):
            end += 1
        assert list(running.run(log.steps[at:end])) == log.made[at:end]
        at, turn = end, turn + 1
        running.restore((cores, other)[turn % 2])


def _all_taken(log: Recorder, end: int) -> bool:
    last = {step.shard: step.is_taken for step in log.steps[:end]}
    return all(last.values())


def test_what_is_no_snapshot_is_refused(cores: Cores) -> None:
    whole = cores.new(0, 1).encode_snapshot(STREAM_START)
    for torn in (b"", whole[:-1], whole[:40] + b"x" + whole[41:]):
        with pytest.raises(SnapshotError):
            cores.restore(torn)
    core, stream_id = cores.restore(whole)
    assert (stream_id, core.is_configured, core.digest()) == (STREAM_START, False, cores.new(0, 1).digest())


def test_what_is_no_frame_of_queries_is_refused(cores: Cores) -> None:
    for frame in (b"", b"\xc1", msgspec.msgpack.encode([[99]])):
        with pytest.raises(msgspec.MsgspecError):
            cores.new(0, 1).answer(frame, TimeMs(1), StreamId(1))


def test_a_change_of_the_configuration_is_noticed(cores: Cores, log: Recorder) -> None:
    core = cores.new(0, SHARDS)
    numbers = [core.configuration_number]
    for step in [each for each in log.steps if each.shard == 0][:3]:
        core.apply_frame(step.stream_id, step.fields)
        numbers.append(core.configuration_number)
    assert numbers[1] != numbers[0]
    assert core.configuration_number == numbers[-1]


def test_the_bytes_are_those_of_the_golden_file() -> None:
    """Whoever means to change them writes it anew: `python -m tests.properties.cores`."""
    assert golden() == msgspec.json.decode(GOLDEN.read_bytes())
