"""Engine workers: two real candidates per shard, with snapshots and the logic of `engine_worker.main`.

A leader's work takes time: the clock advances within its step, after each command and before each commit, and
its standby looks at the lease meanwhile, as often as on a separate machine. A standby's own work takes none.
"""

import random
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from typing_extensions import override

from engine_worker.candidate import Candidate
from engine_worker.checksum import StateDiffers
from engine_worker.core.frames import ObjectCores
from engine_worker.core.invariants import InvariantBroken
from engine_worker.core.shard import Shard
from engine_worker.core.snapshot import decode_snapshot
from engine_worker.cores import COMPILED, CORES, shard_of
from engine_worker.frame_core import Cores, DeadItem, FrameCore, FrameOutput
from engine_worker.snapshots import Snapshotter
from engine_worker.worker import Worker
from lab.simulation.faulty_log import FaultyLog, LosingLog
from lab.simulation.next_release import NextCores, Program, Running
from lab.simulation.operator import CONFIG
from lab.simulation.process import Process, Stopped, Surroundings, Violation
from lab.simulation.schedule import MIXED, Act, Action, Dice, Plan
from lab.simulation.witness import Witness
from protocol.codec import LaterFormatError
from protocol.commands import LoggedCommand, ShardMessage
from protocol.lease import Leader
from protocol.stream_id import StreamId
from protocol.units import TimeMs
from stream_log.interface import Entry, Fenced
from stream_log.redis_log import Unreachable

LEASE_MS = 100
"""Short against a run, so that pauses outlast it."""
TURN_MS: Final = LEASE_MS // 5
"""After so much work the others have a turn: a standby looks at the lease more often."""
HANG_MS: Final = 20 * LEASE_MS
"""So long a command takes in which a machine stands still."""
HANG_TURNS_MIN: Final = 12 * LEASE_MS // TURN_MS
"""After this number of looks without any other event a standby must have taken over.

It is the longest lease, and the standby's patience.
"""
_EVENTS_PER_COMMAND: Final = 8
"""The number of events that take as long as a command by itself."""
_COMMANDS_PER_COMMIT: Final = 2


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
        self._work_us = plan.work_us
        self._owed_us = self._worked_ms = self._since_turn_ms = 0
        self._hang_ms = 0
        """How much longer the next command takes."""
        self._plan = plan
        self._starts = 0
        self._releases: dict[type[Shard], type[Shard]] = {}
        """The shards of a release -> those whose commands take time."""
        self._log = FaultyLog(log, self, witness)
        self._worker: Worker | None = None
        self._candidate: Candidate | None = None
        self._snapshotter: _Snapshotter | None = None
        self._child: SnapshotChild | None = None
        """Who writes a snapshot for it; one at a time."""
        self._diverged: Shard | None = None
        """Its state, if that is wrong on purpose."""
        self.is_working = False
        """In the middle of a command that takes long."""
        self.other: EngineWorker = self
        """The shard's other worker."""

    @property
    def leads(self) -> bool:
        """Whether it believes that it leads; another may have taken over."""
        return self._candidate is not None and self._candidate.leads

    @property
    def standby(self) -> Candidate | None:
        """Its role as a standby; None: it is down, leads, has diverged, or is in the middle of a step."""
        return None if self.leads or self.busy or self._diverged is not None else self._candidate

    def hang(self) -> None:
        """Let the next command that it applies as a leader take for ever so long."""
        self._hang_ms = HANG_MS

    def work(self, commands: float, *, is_command: bool = False) -> None:
        """Let the time of a leader's work on `commands` commands pass, while others act.

        Raises:
            Stopped: by a `Violation` if this process stood still for long, and its standby has left it the
                shard.
            Crashed: it was ended meanwhile.
        """
        if not self.leads:
            return
        hang_ms = 0
        if is_command and self._hang_ms:
            hang_ms, self._hang_ms = self._hang_ms, 0
            self.surroundings.inject("a leader hangs")
        self._owed_us += int(commands * self._work_us) + 1_000 * hang_ms
        standby, disturbances, turns = self.other.standby, self.surroundings.disturbances_of(self.shard), 0
        while self._owed_us >= 1_000:
            passed_ms = min(self._owed_us // 1_000, TURN_MS - self._since_turn_ms)
            self._owed_us -= passed_ms * 1_000
            self._since_turn_ms += passed_ms
            self._worked_ms += passed_ms
            self.surroundings.now += passed_ms
            if self._since_turn_ms == TURN_MS:
                self._since_turn_ms = 0
                turns += 1
                self.is_working = True
                try:
                    self.let_act(lambda: self.surroundings.while_working(self.other, hang_ms > 0))
                finally:
                    self.is_working = False
        # Only a standby that was there all the time, undisturbed, had to take over.
        was_watched = (
            turns >= HANG_TURNS_MIN
            and standby is not None
            and standby is self.other.standby
            and disturbances == self.surroundings.disturbances_of(self.shard)
        )
        if hang_ms and was_watched and self.witness.leader(self.shard) is self:
            stall = f"shard {self.shard}: its leader stands still for {hang_ms} ms, and nobody takes over"
            raise Stopped(Violation(stall))

    def step(self, action: Action) -> None:
        """Start when it is down.

        Otherwise do what the loop of `engine_worker.main` does once, or leave, or usurp.
        """
        if self._candidate is None or self._worker is None:
            self._join()
            return
        led = self.leads
        if led and self.other.is_working:
            # What this one does would take time, too, and the other, which is in the middle of its step,
            # could not take over from it.
            return
        self._worked_ms = 0
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
            # Before it comes to a commit with which to compare, such a state may also lead to one that cannot
            # be.
            if self._diverged is None or self.leads:
                raise
            cause = "differs" if isinstance(error, StateDiffers) else "breaks an invariant"
            self.surroundings.inject(f"halt of a follower that {cause}")
            self.end()
        except LaterFormatError:
            self.surroundings.inject("too old for the log (engine)")
            self.end()
        except Unreachable:
            if self._candidate is not None:
                self._candidate.redis_was_away()
        if self._worked_ms >= LEASE_MS // 2:
            self.surroundings.long_work[self.shard] += 1
        if self._worked_ms >= LEASE_MS:
            self.surroundings.inject("work that takes longer than a lease")
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
            cores=self._cores(),
        )
        worker.surroundings, worker.process = clock, self
        candidate = Candidate(worker, self._log, self.name, 1, LEASE_MS, lambda: clock.now)
        try:
            candidate.join()
        except Unreachable:
            self.end()
            return
        except LaterFormatError:
            self.surroundings.inject("too old for the log (engine)")
            self.end()
            return
        self._worker, self._candidate = worker, candidate
        self._snapshotter = _Snapshotter(
            worker, cast(Any, self._log), lambda: cast(Any, self._log), self.shard, 1.0
        )
        self.surroundings.inject("start (engine)")
        self._compare()

    def _cores(self) -> Cores:
        """Return the cores that it runs until it ends: a shard may change its core at any start."""
        if self.program is Program.NEXT:
            return _WorkingCores(self, NextCores())
        self._starts += 1
        # Not from the plan's dice: with every core the same things happen to a seed.
        dice = random.Random(f"core {self._plan.seed} {self.name} {self._starts}")
        if self._plan.core == COMPILED or (self._plan.core == MIXED and dice.random() < 1 / 2):
            self.surroundings.inject("start (compiled core)")
            return _CompiledCores(self)
        return _WorkingCores(self, ObjectCores())

    def _leave(self, candidate: Candidate) -> None:
        """Stop because it was told to."""
        self.surroundings.disturb()
        try:
            candidate.leave()
            self.surroundings.inject("hand-over (engine)")
        finally:
            self.end()

    def _usurp(self, worker: Worker) -> None:
        """Take over although somebody leads, as one does that takes a leader for dead."""
        leader = self._log.lease(self.shard).leader
        self.surroundings.disturb()
        try:
            worker.lead(Leader(self.name, 1, LEASE_MS), over=leader)
        except Fenced:
            return
        self.surroundings.inject("usurpation (engine)")

    def end(self) -> None:
        """Forget the state; the system closes the connection.

        A child that writes a snapshot outlives its parent.
        """
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
            self._child = SnapshotChild(self, self._worker.core.encode_snapshot(stream_id), stream_id)
        return self._child

    def diverge(self) -> None:
        """Let it come to another state with the next command that it follows.

        It must halt before anybody else is told of that state.
        """
        worker = self._worker
        if worker is None or self.leads or self.busy or self._diverged is not None:
            return
        if isinstance(worker.core, _CompiledCore):
            return  # it is changed by changing the objects' class
        process, follower = self, worker
        self.surroundings.disturb()
        release: Any = type(worker.shard)

        class DivergingShard(release):  # type: ignore[misc]  # whichever release it is of
            __slots__ = ()

            def apply(self, command: LoggedCommand | ShardMessage, time: TimeMs) -> None:
                super().apply(command, time)
                if process._diverged is None and not follower.leads:
                    self.state.order_count += 1
                    process._diverged = self
                    process.surroundings.inject("a follower diverges")

        worker.shard.__class__ = DivergingShard

    def working(self, core: FrameCore) -> FrameCore:
        """Let a core's commands take time, if they do on this machine, or stand still when they are to.

        Return the core.
        """
        shard = shard_of(core)
        release, process = type(shard), self
        if release not in self._releases:
            release_shard: Any = release

            class WorkingShard(release_shard):  # type: ignore[misc]  # whichever release it is of
                __slots__ = ()

                def apply(self, command: LoggedCommand | ShardMessage, time: TimeMs) -> None:
                    before = self.waiting_events
                    super().apply(command, time)
                    process.work(1 + (self.waiting_events - before) / _EVENTS_PER_COMMAND, is_command=True)

            self._releases[release] = WorkingShard
        shard.__class__ = self._releases[release]
        return core

    def look(self) -> None:
        """Compare its state with the twin's, when it is between two steps."""
        if not self.busy:
            self._compare()

    def _compare(self) -> None:
        worker = self._worker
        if worker is None:
            return
        stream_id = worker.position.stream_id
        if isinstance(worker.core, _CompiledCore):
            if stream_id == self.witness.positions[self.shard]:
                shard, _ = decode_snapshot(worker.core.encode_snapshot(stream_id))
                self.witness.compare_state(shard, stream_id)
        elif worker.shard is not self._diverged:
            self.witness.compare_state(worker.shard, stream_id)


class _WorkingCores(ObjectCores):
    """The cores of a release, on the machine of a process."""

    def __init__(self, process: EngineWorker, cores: ObjectCores) -> None:
        self._process = process
        self._cores = cores

    @override
    def new(self, index: int, shard_count: int) -> FrameCore:
        return self._process.working(self._cores.new(index, shard_count))

    @override
    def restore(self, snapshot: bytes) -> tuple[FrameCore, StreamId]:
        core, stream_id = self._cores.restore(snapshot)
        return self._process.working(core), stream_id


class _CompiledCores(Cores):
    """The compiled core, on the machine of a process."""

    def __init__(self, process: EngineWorker) -> None:
        self._process = process

    @override
    def new(self, index: int, shard_count: int) -> FrameCore:
        return cast(FrameCore, _CompiledCore(self._process, CORES[COMPILED].new(index, shard_count)))

    @override
    def restore(self, snapshot: bytes) -> tuple[FrameCore, StreamId]:
        core, stream_id = CORES[COMPILED].restore(snapshot)
        return cast(FrameCore, _CompiledCore(self._process, core)), stream_id


class _CompiledCore:
    """A compiled core whose frames take time, a `FrameCore`."""

    def __init__(self, process: EngineWorker, core: FrameCore) -> None:
        self._process = process
        self._compiled = core

    def __getattr__(self, name: str) -> Any:
        return getattr(self._compiled, name)

    def apply_frame(
        self,
        stream_id: StreamId,
        fields: Mapping[bytes, bytes],
        progressed: Callable[[], None] | None = None,
    ) -> list[DeadItem]:
        core = self._compiled
        commands, events = core.command_count, core.waiting_events
        dead = core.apply_frame(stream_id, fields, progressed)
        events = core.waiting_events - events
        self._process.work(core.command_count - commands + events / _EVENTS_PER_COMMAND, is_command=True)
        return dead


class _Worker(Worker):
    surroundings: Surroundings
    process: EngineWorker

    def _take(self) -> FrameOutput:
        output = super()._take()
        self.process.work(_COMMANDS_PER_COMMIT)
        return output

    def _hold(self, entry: Entry, error: LaterFormatError) -> None:
        self.surroundings.inject("held (engine)")
        self.surroundings.disturb()
        super()._hold(entry, error)


class _Snapshotter(Snapshotter):
    def has_news(self) -> bool:
        """Return whether a snapshot now would reach further than the newest one."""
        return self._has_news()

    def trim(self) -> None:
        """Trim the logs to what Redis says is kept."""
        self._trim()


class SnapshotChild(Process):
    """The forked child of a worker: it saves the snapshot, taking its time, even after its parent's end."""

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
        """Save the snapshot, and exit."""
        self.is_done = True
        try:
            self._log.save_snapshot(self._shard, self._snapshot, self._stream_id)
        except Unreachable:
            return
        self.is_saved = True
        self.surroundings.inject("snapshot saved")

    def end(self) -> None:
        """Mark the child as ended; it has no state that another process needs."""
        self.is_done = True
