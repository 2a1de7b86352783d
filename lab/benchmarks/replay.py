"""`replay`: a shard rebuilt from its log in memory, with and without comparing every event."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from engine_worker.core.shard import Shard
from engine_worker.cores import CORES
from engine_worker.entries import apply_entry
from engine_worker.first_configuration import first_configuration
from engine_worker.replay import Replay, StreamLogSource, Verifier
from lab.benchmarks.core import rate
from lab.benchmarks.report import Result
from lab.benchmarks.workload import ROOMY_CONFIG, commands, deposits, operations, roomy_market_map
from protocol import streams
from protocol.codec import decode_commands, encode_commands
from protocol.commands import Command, LoggedCommand
from protocol.market import MarketMap
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import COMMANDS_FIELD
from stream_log.interface import Commit, Entry
from stream_log.memory_log import MemoryStreamLog

FRAME_COMMANDS = 64
_WRITTEN_US = 10**15
"""Later than all entries."""


def replay(count: int) -> list[Result]:
    """Measure the mix of `core` as an engine worker has logged it, in entries of `FRAME_COMMANDS`."""
    market_map = roomy_market_map()
    prefill, mixed = operations(count)
    steps = [*deposits(market_map), *commands(prefill + mixed, market_map.markets[0])]
    log, goal = _recorded(market_map, steps)
    source = StreamLogSource(log, 0)
    results = []
    reference = rate(len(steps), partial(_read, source))
    for core, step_name in itertools.product(CORES, ("rebuilt", "rebuilt and compared")):
        again = Replay(source, 0, market_map.shard_count, cores=CORES[core])
        verifier = Verifier(source, again, goal)
        run: Callable[[], object] = (
            partial(again.run_to, goal) if step_name == "rebuilt" else partial(_exhaust, verifier.run())
        )
        results.append(
            Result(
                bench="replay",
                what=f"core {core}: {len(steps):,} commands (60 % add, 30 % cancel, 10 % take), {step_name}",
                unit="commands/s",
                runs=[rate(len(steps), run)],
                reference="reading and decoding the same entries",
                reference_runs=[reference],
            )
        )
        if again.position != goal or (step_name != "rebuilt" and verifier.verdict().difference is not None):
            raise RuntimeError(f"the replay is not the same: {verifier.verdict()}")
    return results


def _exhaust(progress: Iterable[int]) -> None:
    for _ in progress:
        pass


def _recorded(market_map: MarketMap, steps: list[Command]) -> tuple[MemoryStreamLog, StreamId]:
    log = MemoryStreamLog(itertools.count(1).__next__)
    shard = Shard(0, MarketMap.placed([], 1))
    position = log.take_over(0)
    frames: list[Sequence[LoggedCommand]] = [first_configuration(0, market_map, ROOMY_CONFIG)]
    frames += [steps[at : at + FRAME_COMMANDS] for at in range(0, len(steps), FRAME_COMMANDS)]
    for frame in frames:
        fields = {COMMANDS_FIELD: encode_commands(frame, _WRITTEN_US)}
        stream_id = log.append(streams.commands(0), fields)
        apply_entry(shard, Entry(streams.commands(0), stream_id, fields))
        log.commit(Commit(0, position, stream_id, shard.take().frame))
        position = log.position(0)
    return log, position.stream_id


def _read(source: StreamLogSource) -> None:
    position = STREAM_START
    while entries := source.entries(position, 500):
        for entry in entries:
            decode_commands(entry.fields[COMMANDS_FIELD])
        position = entries[-1].stream_id
