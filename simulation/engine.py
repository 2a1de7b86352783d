"""Engine workers: two candidates per shard, each the real one, with what `engine_worker.main` does around it and its snapshots."""

from typing import Any, cast

import redis

from engine_worker.candidate import Candidate
from engine_worker.checksum import StateDiffers
from engine_worker.core.accounts import InvariantBroken
from engine_worker.core.shard import Shard
from engine_worker.core.snapshot import encode_snapshot
from engine_worker.snapshots import Snapshotter
from engine_worker.worker import Worker
from protocol.codec import LaterFormatError
from protocol.commands import LoggedCommand, ShardMessage
from protocol.lease import Leader
from protocol.streams import StreamId
from protocol.units import TimeMs
from runtime.stream_log import Entry, Fenced
from simulation.faulty_log import FaultyLog, LosingLog
from simulation.next_release import NextCores, Program, Running
from simulation.operator import CONFIG
from simulation.process import Process, Surroundings
from simulation.schedule import Act, Action, Dice, Plan
from simulation.witness import Witness

LEASE_MS = 100
"""Short against a run, so that pauses outlast it."""


class EngineWorker(Process):
    """One of a shard's workers: down, standing by, or leading until it notices that it does no more."""

    kind = "engine"

    def __init__(
        self, surroundings: Surroundings, log: LosingLog, witness: Witness, shard: int, slot: int, plan: Plan
    ) -> None:
        super().__init__(surroundings, f"engine {shard}{'ab'[slot]}")
        self.shard = shard
        self.log = log
        self.witness = witness
        self._batch_entries_max = plan.batch_entries_max
        self._log = FaultyLog(log, self, witness)
        self._worker: Worker | None = None
        self._candidate: Candidate | None = None
        self._snapshotter: _Snapshotter | None = None
        self._child: SnapshotChild | None = None
        """Who writes a snapshot for it; one at a time."""
        self._diverged: Shard | None = None
        """Its state, if that is wrong on purpose."""

    @property
    def leads(self) -> bool:
        """Whether it believes that it leads."""
        return self._candidate is not None and self._candidate.leads

    def step(self, action: Action) -> None:
        """Start when it is down; otherwise do what the loop of `engine_worker.main` does once, or leave, or usurp."""
        if self._candidate is None or self._worker is None:
            self._join()
            return
        led = self.leads
        try:
            if action.act is Act.TAKE_OVER and Dice(action.dice).below(2):
                self._leave(self._candidate)
                return
            if action.act is Act.TAKE_OVER and not led:
                self._usurp(self._worker)
            self._candidate.step(0)
            self._candidate.tick(self.surroundings.now * 1_000)
            if self._child is not None and self._child.is_done:
                is_saved, self._child = self._child.is_saved, None
                if is_saved and self._snapshotter is not None:
                    self._snapshotter.trim()
        except Fenced:
            self.surroundings.inject("fenced (engine)")
            self.end()
        except InvariantBroken as error:
            # Before it comes to a commit with which to compare, such a state may also lead to one that cannot be.
            if self._diverged is None or self.leads:
                raise
            what = "differs" if isinstance(error, StateDiffers) else "breaks an invariant"
            self.surroundings.inject(f"halt of a follower that {what}")
            self.end()
        except LaterFormatError:
            self.surroundings.inject("too old for the log (engine)")
            self.end()
        except redis.ConnectionError:
            if self._candidate is not None:
                self._candidate.redis_was_away()
        if self.leads and not led:
            self.surroundings.inject("takeover (engine)")
            self._compare()

    def _join(self) -> None:
        clock = self.surroundings
        worker = _Worker(
            self._log,
            self.shard,
            self.witness.market_map,
            batch_entries_max=self._batch_entries_max,
            config=CONFIG,
            now_ms=lambda: clock.now,
            cores=NextCores() if self.program is Program.NEXT else None,
        )
        worker.surroundings = clock
        candidate = Candidate(worker, self._log, self.name, 1, LEASE_MS, lambda: clock.now)
        try:
            candidate.join()
        except redis.ConnectionError:
            self.end()
            return
        except LaterFormatError:
            self.surroundings.inject("too old for the log (engine)")
            self.end()
            return
        self._worker, self._candidate = worker, candidate
        self._snapshotter = _Snapshotter(worker, cast(Any, self._log), lambda: cast(Any, self._log), self.shard, 1.0)
        self.surroundings.inject("start (engine)")
        self._compare()

    def _leave(self, candidate: Candidate) -> None:
        """Stop because it was told to."""
        try:
            candidate.leave()
            self.surroundings.inject("hand-over (engine)")
        finally:
            self.end()

    def _usurp(self, worker: Worker) -> None:
        """Take over although somebody leads, as one does that takes a leader for dead."""
        leader = self._log.lease(self.shard).leader
        try:
            worker.lead(Leader(self.name, 1, LEASE_MS), over=leader)
        except Fenced:
            return
        self.surroundings.inject("usurpation (engine)")

    def end(self) -> None:
        """Forget the state; the system closes the connection. A child that writes a snapshot outlives its parent."""
        self._worker = self._candidate = self._snapshotter = self._child = self._diverged = None
        self.log.disconnect(self.name)

    def snapshot(self) -> "SnapshotChild | None":
        """Fork the child that has the state as it is now."""
        if self._worker is None or self._snapshotter is None or self.busy or self._child is not None:
            return None
        if not self._worker.is_compared or not self._snapshotter.has_news():
            return None
        self._compare()
        stream_id = self._worker.position.stream_id
        with Running(self.program):
            self._child = SnapshotChild(self, encode_snapshot(self._worker.shard, stream_id), stream_id)
        return self._child

    def diverge(self) -> None:
        """Let it come to another state with the next command that it follows. It must halt before anybody else is told of that state."""
        worker = self._worker
        if worker is None or self.leads or self.busy or self._diverged is not None:
            return
        process, follower = self, worker
        release: Any = type(worker.shard)

        class DivergingShard(release):  # type: ignore[misc]  # whichever release it is of
            __slots__ = ()

            def apply(self, command: LoggedCommand | ShardMessage, time: TimeMs) -> None:
                super().apply(command, time)
                if process._diverged is None and not follower.leads:
                    self.order_count += 1
                    process._diverged = self
                    process.surroundings.inject("a follower diverges")

        worker.shard.__class__ = DivergingShard

    def look(self) -> None:
        """Compare its state with the twin's, when it is between two steps."""
        if not self.busy:
            self._compare()

    def _compare(self) -> None:
        if self._worker is not None and self._worker.shard is not self._diverged:
            self.witness.compare_state(self._worker.shard, self._worker.position.stream_id)


class _Worker(Worker):
    surroundings: Surroundings

    def _hold(self, entry: Entry, error: LaterFormatError) -> None:
        self.surroundings.inject("held (engine)")
        super()._hold(entry, error)


class _Snapshotter(Snapshotter):
    def has_news(self) -> bool:
        """Return whether a snapshot now would reach further than the newest one."""
        return self._has_news()

    def trim(self) -> None:
        """Trim the logs to what Redis says is kept."""
        self._trim()


class SnapshotChild(Process):
    """The forked child of a worker: it saves the snapshot, and has all the time it needs, also after its parent's end."""

    kind = "snapshot"

    def __init__(self, parent: EngineWorker, snapshot: bytes, stream_id: StreamId) -> None:
        super().__init__(parent.surroundings, f"snapshot of {parent.name} at {stream_id}")
        self.program = parent.program
        self.is_done = False
        self.is_saved = False
        self._shard = parent.shard
        self._snapshot = snapshot
        self._stream_id = stream_id
        self._log = FaultyLog(parent.log, self, parent.witness)

    def step(self, action: Action) -> None:
        """Save, and exit."""
        self.is_done = True
        try:
            self._log.save_snapshot(self._shard, self._snapshot, self._stream_id)
        except redis.ConnectionError:
            return
        self.is_saved = True
        self.surroundings.inject("snapshot saved")

    def end(self) -> None:
        """Nothing to forget."""
        self.is_done = True
