"""A worker's process runs without a collector: a state that is not used any more must be freed all the
same.
"""

import gc
import tracemalloc
from collections.abc import Iterator

import pytest

from engine_worker.core.shard import Shard
from engine_worker.core.snapshot import encode_snapshot
from engine_worker.frame_core import FrameCore
from engine_worker.worker import Worker
from protocol.commands import Deposit, PlaceOrder
from protocol.orders import OrderType, Side, TimeInForce
from protocol.stream_id import STREAM_START, StreamId
from protocol.units import AMOUNT_UNITS_MAX, AccountId, AssetUnits, PriceTicks, QuantityLots, TimeMs
from stream_log.memory_log import MemoryStreamLog
from tests.properties.markets import market_map

ACCOUNTS = 500
MARKETS = market_map(1)


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    tracemalloc.start()
    yield
    tracemalloc.stop()
    gc.enable()


def filled() -> bytes:
    """Return a snapshot of a shard with some thousand resting orders."""
    shard = Shard(0, MARKETS)
    number = 0
    for account in range(1, ACCOUNTS + 1):
        shard.apply(
            Deposit(0, "", AccountId(account), "PLUM", AssetUnits(AMOUNT_UNITS_MAX // 10**6), "d"), TimeMs(1)
        )
        for price in (4, 5, 6, 4):
            number += 1
            order = (AccountId(account), f"o{number}", "FIGPLUM", Side.BUY, OrderType.LIMIT, TimeInForce.GTC)
            shard.apply(PlaceOrder(number, "g", *order, PriceTicks(price), QuantityLots(40)), TimeMs(1))
    shard.take()
    assert len(shard.state.markets["FIGPLUM"].book.orders) == 4 * ACCOUNTS
    snapshot = encode_snapshot(shard, StreamId(1))
    shard.let_go()
    return snapshot


def used() -> int:
    return tracemalloc.get_traced_memory()[0]


class Worked(Worker):
    """Restores again and again, as a standby does that was away for too long."""

    def restore_again(self) -> FrameCore:
        self._restore_shard()
        return self.core


def test_a_worker_that_restores_again_frees_what_it_had() -> None:
    log = MemoryStreamLog(lambda: 1)
    snapshot = filled()
    log.save_snapshot(0, snapshot, StreamId(1))
    log._positions[0] = type(log.position(0))(1, StreamId(1))
    worker = Worked(log, 0, MARKETS, batch_entries_max=10)
    worker.restore_again()
    size = used()
    for _ in range(5):
        assert len(worker.restore_again().symbols) == len(MARKETS.markets)
    assert used() < size * 1.2
    worker.let_go()
    del worker
    assert used() < size * 0.3, "most of it was the state"


def test_without_taking_it_apart_it_would_stay() -> None:
    log = MemoryStreamLog(lambda: 1)
    log.save_snapshot(0, filled(), STREAM_START)
    before = used()
    worker = Worked(log, 0, MARKETS, batch_entries_max=10)
    core, _ = worker._cores.restore(log.read_snapshot(0, log.saved_snapshots(0)[0]))
    size = used() - before
    del core
    assert used() - before > size / 2
