"""Engine workers: two slots per shard, each with the real `Worker`, what `engine_worker.main` does around it, and a snapshotter."""

from collections import deque

import redis

from engine_worker.core.snapshot import encode_snapshot
from engine_worker.worker import Worker
from protocol import streams
from protocol.market import MarketMap
from protocol.streams import EventReader, StreamId, split_stream_id
from runtime.memory_stream_log import MemoryStreamLog
from runtime.stream_log import Fenced
from simulation.faulty_log import FaultyLog
from simulation.process import Process, Surroundings
from simulation.schedule import Act, Action, Plan
from simulation.witness import Witness


class EngineWorker(Process):
    """One slot of a shard. Down, starting, or leading until it notices that it does no more."""

    kind = "engine"

    def __init__(
        self, surroundings: Surroundings, log: MemoryStreamLog, witness: Witness, shard: int, slot: int, plan: Plan
    ) -> None:
        super().__init__(surroundings, f"engine {shard}{'ab'[slot]}")
        self.shard = shard
        self.worker: Worker | None = None
        self._market_map: MarketMap = witness.market_map
        self._batch_entries_max = plan.batch_entries_max
        self.log = log
        self.witness = witness
        self._log = FaultyLog(log, self, witness)
        self.kept: deque[StreamId] = deque(maxlen=2)
        """Up to where those snapshots reach that this worker has saved, older first."""
        self.child: SnapshotChild | None = None
        """Who writes a snapshot for it; one at a time."""

    @property
    def is_up(self) -> bool:
        """Whether it runs; it may have been fenced without knowing."""
        return self.worker is not None

    def step(self, action: Action) -> None:
        """Start when it is down; otherwise do what the loop of `engine_worker.main` does once."""
        try:
            if self.worker is None:
                self._start()
            else:
                self.worker.step(0)
        except Fenced:
            self.surroundings.inject("fenced (engine)")
            self.end()
        except redis.ConnectionError:
            if self.worker is None or action.act is Act.TAKE_OVER:
                self.end()

    def _start(self) -> None:
        worker = Worker(
            self._log,
            self.shard,
            self._market_map,
            closed_orders_max=100_000,
            batch_entries_max=self._batch_entries_max,
        )
        worker.start()
        self.worker, self.kept = worker, deque(maxlen=2)
        self.surroundings.inject("start (engine)")
        self.witness.compare_state(worker.shard, worker.position.stream_id)

    def end(self) -> None:
        """Forget the state. A child that writes a snapshot outlives its parent."""
        self.worker = self.child = None

    def snapshot(self) -> "SnapshotChild | None":
        """Fork the child that has the state as it is now."""
        worker = self.worker
        if worker is None or self.busy or not (self.child is None or self.child.is_done):
            return None
        stream_id = worker.position.stream_id
        self.witness.compare_state(worker.shard, stream_id)
        self.child = SnapshotChild(self, worker, encode_snapshot(worker.shard, stream_id), stream_id)
        return self.child

    def look(self) -> None:
        """Compare the state of a worker that nobody has fenced with what a replay gives."""
        if self.worker is not None and not self.busy:
            self.witness.compare_state(self.worker.shard, self.worker.position.stream_id)


class SnapshotChild(Process):
    """The forked child of a worker: it saves the snapshot; then its parent, if it still runs, trims the logs."""

    kind = "snapshot"

    def __init__(self, parent: EngineWorker, worker: Worker, snapshot: bytes, stream_id: StreamId) -> None:
        super().__init__(parent.surroundings, f"snapshot of {parent.name} at {stream_id}")
        self.is_done = False
        self._parent = parent
        self._worker = worker
        self._snapshot = snapshot
        self._stream_id = stream_id
        self._log = FaultyLog(parent.log, self, parent.witness)
        self._kept = parent.kept

    def step(self, action: Action) -> None:
        """Save, and trim."""
        self.is_done = True
        try:
            self._log.save_snapshot(self._parent.shard, self._snapshot)
            self.surroundings.inject("snapshot saved")
            if self._parent.worker is self._worker:
                self._kept.append(self._stream_id)
                self._trim()
        except redis.ConnectionError:
            return

    def _trim(self) -> None:
        if len(self._kept) < 2:
            return
        older, shard = self._kept[0], self._parent.shard
        self._log.trim(streams.commands(shard), older)
        passed = self._log.passed(shard)
        if set(passed) >= set(EventReader):
            self._log.trim(streams.events(shard), min(older, *passed.values(), key=split_stream_id))

    def end(self) -> None:
        """Nothing to forget."""
        self.is_done = True
