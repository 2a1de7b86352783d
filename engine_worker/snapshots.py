"""Snapshots in the background: a forked child has the present state, and can take its time to write it.

A fork takes longer the more memory there is. So a standby, if there is one, forks; and a leader without a
standby and with much memory has its snapshots made from the log, by a process that reaches the same state
(engine_worker/snapshot_from_log.py). The saver of a snapshot trims the logs by the snapshots that Redis
lists: it need not remember its own or others' snapshots.
"""

import gc
import os
import signal
import time
from collections.abc import Callable
from typing import NamedTuple

import psutil
import structlog

from engine_worker import metrics
from engine_worker.frame_core import InvariantBroken
from engine_worker.worker import Worker
from protocol import streams
from protocol.stream_id import STREAM_START
from protocol.streams import ARCHIVE_READER, TRIMMED, EventReader
from stream_log.redis_log import RedisStreamLog

LEFT_MAX = 3
"""How often in a row a leader leaves a due snapshot to its standby.

If none comes, it takes one itself.
"""
FORK_BYTES_MAX = 100 << 20
"""With more memory than this a leader does not fork.

On a virtual machine a fork takes 40 µs or more per MB of small pages.
"""
LOG_PART = 8
"""A snapshot is due when the log has grown by this fraction of its maximum size.

Orders are refused at the maximum; after two snapshots the log is trimmed.
"""
RARELY = 10
"""A snapshot is also due after this many intervals in which the log has grown by less than one's size."""
PATIENCE_S = 120
"""How long a snapshot may run only on idle cores; after a timeout or failure the next is forked and nice.

Matching on the same cores is more urgent than a snapshot, and niceness alone would let the snapshot finish
its time slice while matching waits.
"""
HANGS_S = 120
"""How long a merely nice snapshot may take; beyond that it is considered hung, for example on a connection.

Otherwise it would be the last snapshot.
"""
_NICENESS = 10
IMPOSSIBLE = 4
"""Exit code of a child if the state must neither be saved nor used any further."""
STDOUT = 1

_log = structlog.get_logger()


def save(worker: Worker, log: RedisStreamLog, index: int) -> int:
    """Save the state of shard `index`, and return its size in bytes; 0: the log no longer leads to it.

    That happens after a failover of Redis that has lost the end of the log.
    """
    position = worker.position
    snapshot = worker.core.encode_snapshot(position.stream_id)
    if not log.reaches(index, position):
        return 0
    log.save_snapshot(index, snapshot, position.stream_id)
    return len(snapshot)


class _Child(NamedTuple):
    """A process that makes a snapshot."""

    pid: int
    output: int
    """The descriptor of its standard output, on which it writes the size of the snapshot.

    It does not update metrics, which are its parent's.
    """
    began_s: float
    is_from_log: bool
    is_patient: bool


def be_patient() -> None:
    """Let this process run only on idle cores."""
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except PermissionError:  # some sandboxes forbid it
        os.nice(_NICENESS)


class Snapshotter:
    """Saves a worker's state periodically, and trims the parts of the logs that no start will need.

    Snapshots are written to the server of the log, whose file grows by each until it is rewritten. So one is
    due when the log has grown by the size of the last one: then snapshots are at most half of the writes,
    however large the state is, and a start has no more to apply than to restore. A state that hardly changes
    is saved rarely.
    """

    def __init__(
        self,
        worker: Worker,
        log: RedisStreamLog,
        connect: Callable[[], RedisStreamLog],
        index: int,
        interval_s: float,
        *,
        start_from_log: Callable[[int], int] | None = None,
        fork_bytes_max: int = FORK_BYTES_MAX,
        log_bytes_max: int = 1 << 62,
    ) -> None:
        """Use `log` in this process; a forked child calls `connect` for its own.

        `start_from_log` starts a process that makes the snapshot from the log, with the given file descriptor
        as its standard output, and returns its id. A leader uses it if it has more than `fork_bytes_max` in
        memory. `log_bytes_max` is the maximum size of the shard's log in Redis.
        """
        self._log_bytes_max = log_bytes_max
        self._worker = worker
        self._streams = log
        self._connect = connect
        self._index = index
        self._interval_s = interval_s
        self._start_from_log = start_from_log
        self._fork_bytes_max = fork_bytes_max
        self._due_s: float | None = None
        """When the next snapshot is due; None: unknown yet."""
        metrics.SNAPSHOT_FAILURES.labels(index)  # at 0, so that the first one is visible as an increase
        self._child: _Child | None = None
        self._patience_s: float = PATIENCE_S
        self._hangs_s: float = HANGS_S
        self._is_urgent = False
        """Whether the last snapshot was not saved, or not in time."""
        self._newest = STREAM_START
        self._sized: tuple[str, int, int] | None = None
        """The newest snapshot, its size, and the worker's applied bytes when it was first seen."""
        self._left = 0
        """How often a later snapshot was left to a standby."""

    @property
    def busy(self) -> bool:
        """Whether a snapshot is in progress."""
        return self._child is not None

    def run(self) -> None:
        """Start a due snapshot, and complete a finished one. Returns at once.

        Raises:
            InvariantBroken: the child, which has time for it, has recomputed all sums, and they are wrong.
        """
        if self._child is not None:
            pid, status = os.waitpid(self._child.pid, os.WNOHANG)
            if pid:
                child, self._child = self._child, None
                self._ended(child, os.waitstatus_to_exitcode(status))
            elif time.perf_counter() - self._child.began_s > (
                self._patience_s if self._child.is_patient else self._hangs_s
            ):
                self._ran_late(self._child)
        elif self._worker.is_compared and self._falls_due() and self._has_news() and self._is_its_turn():
            self._child = self._start()

    def _ran_late(self, child: _Child) -> None:
        if child.is_patient:
            _log.info("no core is idle for a snapshot; the next one takes its share", shard=self._index)
        else:
            metrics.SNAPSHOT_FAILURES.labels(self._index).inc()
            _log.warning("snapshot hangs, and is ended", shard=self._index)
        self._is_urgent = True
        self.abandon()

    def _falls_due(self) -> bool:
        """Return whether a snapshot is due, once in an interval."""
        now_s = time.monotonic()
        if self._due_s is None:
            # By the newest snapshot's age, whoever saved it: short-lived workers would otherwise never save
            # one, and each would have to apply more of the log than the previous one.
            snapshots = self._streams.saved_snapshots(self._index)
            age_s = snapshots[0].age_ms / 1_000 if snapshots else self._interval_s
            self._due_s = now_s + self._interval_s - age_s
        if now_s < self._due_s:
            return False
        self._due_s = now_s + self._interval_s
        if self._is_worth_it():
            return True
        if self._worker.leads:
            self._trim()  # readers may have advanced since the last snapshot
        return False

    def _is_worth_it(self) -> bool:
        """Return whether the log has grown by the size of the newest snapshot, or that snapshot is old.

        Only the events are counted, which are most of the log's growth.
        """
        snapshots = self._streams.saved_snapshots(self._index)
        if not snapshots or snapshots[0].age_ms >= RARELY * self._interval_s * 1_000:
            return True
        newest, applied = snapshots[0], self._worker.event_bytes
        if self._sized is None or newest.name != self._sized[0]:
            # The first one that it sees is most likely the one it has started with.
            before = 0 if self._sized is None else applied
            self._sized = newest.name, self._streams.snapshot_bytes(self._index, newest), before
        _, size, before = self._sized
        return applied - before >= min(size, self._log_bytes_max // LOG_PART)

    def _ended(self, child: _Child, status: int) -> None:
        with os.fdopen(child.output) as output:
            size = output.read()
        self._is_urgent = status != 0
        if status == IMPOSSIBLE:
            self._worker.core.check_invariants()
            raise InvariantBroken("the state failed its check when a snapshot was taken; the log says why")
        if status:
            metrics.SNAPSHOT_FAILURES.labels(self._index).inc()
            _log.warning("snapshot failed", shard=self._index, status=status)
            return
        metrics.SNAPSHOT_BYTES.labels(self._index).set(int(size))
        metrics.SNAPSHOT_DURATION.labels(self._index).set(time.perf_counter() - child.began_s)
        _log.info("snapshot saved", shard=self._index, bytes=int(size), from_log=child.is_from_log)
        self._trim()

    def finish(self) -> None:
        """End a running child, and save once more if this worker led: the next start has nothing to apply.

        This also applies with a standby. If all stop, the standby may be stopped before it has taken over,
        and then nobody else saves.
        """
        self.abandon()
        worker, index = self._worker, self._index
        # Checked first, too: a state that another worker has passed need not be encoded.
        if (
            worker.leads
            and self._has_news()
            and self._streams.reaches(index, worker.position)
            and save(worker, self._streams, index)
        ):
            _log.info("last snapshot saved", shard=self._index)
            self._trim()

    def _has_news(self) -> bool:
        snapshots = self._streams.saved_snapshots(self._index)
        newest = snapshots[0].stream_id if snapshots else STREAM_START
        return self._worker.position.stream_id > newest

    def _is_its_turn(self) -> bool:
        snapshots = self._streams.saved_snapshots(self._index)
        if not self._worker.leads:
            # There may be several standbys, and one snapshot is enough for all of them.
            return not snapshots or snapshots[0].age_ms >= self._interval_s * 1_000 / 2
        if snapshots and snapshots[0].stream_id != self._newest:
            self._newest, self._left = snapshots[0].stream_id, 0
        if self._left < LEFT_MAX and self._streams.standbys(self._index):
            self._left += 1
            return False
        return True

    def abandon(self) -> None:
        """End a running child, because the state that it saves is obsolete."""
        if self._child is not None:
            os.kill(self._child.pid, signal.SIGKILL)
            os.waitpid(self._child.pid, 0)
            os.close(self._child.output)
            self._child = None

    def _start(self) -> _Child:
        is_patient, self._is_urgent = not self._is_urgent, False
        output, childs = os.pipe()
        began = time.perf_counter()
        start = self._start_from_log
        if (
            start is not None
            and is_patient
            and self._worker.leads
            and _resident_bytes() > self._fork_bytes_max
        ):
            child = _Child(start(childs), output, began, is_from_log=True, is_patient=True)
        else:
            child = _Child(
                self._fork(childs, is_patient=is_patient),
                output,
                began,
                is_from_log=False,
                is_patient=is_patient,
            )
        os.close(childs)
        metrics.FORK_SECONDS.labels(self._index).set(time.perf_counter() - began)
        return child

    def _fork(self, output: int, *, is_patient: bool) -> int:
        pid = os.fork()
        if pid:
            return pid
        # The child: its own connection, no clean-up of the parent's resources, and no collector, which would
        # copy pages. It closes the parent's connections, which would otherwise outlive a killed parent and
        # make it look alive.
        status = 1
        try:
            gc.disable()
            os.dup2(output, STDOUT)
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))
            if is_patient:
                be_patient()
            else:
                os.nice(_NICENESS)
            self._worker.core.check_invariants()
            if size := save(self._worker, self._connect(), self._index):
                os.write(STDOUT, str(size).encode())
                status = 0
        except InvariantBroken as error:
            status = IMPOSSIBLE
            _log.critical("the state is wrong", shard=self._index, reason=str(error))
        finally:
            os._exit(status)

    def _trim(self) -> None:
        """Trim the input to the older snapshot and the archive, and the events also to all readers."""
        snapshots = self._streams.saved_snapshots(self._index)
        if len(snapshots) < 2:
            return
        older = min(snapshot.stream_id for snapshot in snapshots)
        passed = self._streams.passed(self._index)
        needed = min(older, passed.get(ARCHIVE_READER, older))
        # Recorded first: a reader of the input's beginning must know that it is gone.
        self._streams.mark_passed(self._index, TRIMMED, needed)
        self._streams.trim(streams.commands(self._index), needed)
        if set(passed) >= set(EventReader):
            readers = (passed[reader] for reader in EventReader)
            self._streams.trim(streams.events(self._index), min(older, *readers))


def _resident_bytes() -> int:
    rss: int = psutil.Process().memory_info().rss
    return rss
