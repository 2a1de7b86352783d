"""What the simulation has found in the programs, as tests of their own where no other place has one."""

import itertools
from typing import Any, cast

import pytest

from engine_worker.snapshots import Snapshotter
from engine_worker.worker import Worker
from lab.simulation.clients import endowment
from lab.simulation.markets import market_map
from lab.simulation.run import run
from lab.simulation.schedule import plan_of
from protocol import streams
from protocol.codec import encode_frame
from protocol.stream_id import STREAM_START
from protocol.streams import COMMANDS_FIELD
from stream_log.memory_log import MemoryStreamLog


def test_a_standby_that_is_behind_takes_no_snapshot() -> None:
    # It would be of an empty shard, whose id "0-0" means that nobody said how far it reaches; kept as the
    # newest, it was restored, and the input that it needs was trimmed long ago.
    log = MemoryStreamLog(itertools.count(1_000).__next__)
    leader, standby = (
        Worker(log, 0, market_map(1), batch_entries_max=100, now_ms=lambda: 0) for _ in range(2)
    )
    standby.join()
    leader.start()
    snapshotter = Snapshotter(leader, cast(Any, log), lambda: cast(Any, log), 0, 1.0)
    assert not snapshotter._has_news()
    for _, deposits in endowment(market_map(1)):
        log.append(streams.commands(0), {COMMANDS_FIELD: encode_frame(deposits)})
    leader.step(0)
    assert snapshotter._has_news()
    log.save_snapshot(0, b"of the leader", leader.position.stream_id)
    assert not snapshotter._has_news()
    assert standby.position.stream_id == STREAM_START
    assert not Snapshotter(standby, cast(Any, log), lambda: cast(Any, log), 0, 1.0)._has_news()


@pytest.mark.parametrize("seed", [13, 531])
def test_gateways_hold_back_from_a_shard_that_is_behind(seed: int) -> None:
    # They repeated more than the slowest machines work off: the input of a shard grew for ever.
    assert not run(plan_of(seed, commands_min=500)).failure
