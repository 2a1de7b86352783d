"""Taking snapshots beside the matching: a forked child has the state as it is now, and all the time it needs to write it.

A fork takes the longer the more there is in memory, so where a standby is, it is the one that forks. Whoever has saved a snapshot
trims the logs, by what Redis says is kept: it need not remember what it, or another, has saved before.
"""

import gc
import mmap
import os
import signal
import struct
import time
from collections.abc import Callable

import structlog

from engine_worker import metrics
from engine_worker.core.accounts import InvariantBroken
from engine_worker.core.snapshot import encode_snapshot
from engine_worker.worker import Worker
from protocol import streams
from protocol.streams import ARCHIVE_READER, STREAM_START, TRIMMED, EventReader, split_stream_id
from runtime.redis_stream_log import RedisStreamLog

LEFT_MAX = 3
"""So often in a row a leader leaves a snapshot that is due to its standby; when none comes it takes one itself."""
_NICENESS = 10
"""A snapshot has time; what matches orders on the same cores has not."""
_IMPOSSIBLE = 4
"""How the child ends when the state must not be saved, nor used any further."""

_log = structlog.get_logger()


class Snapshotter:
    """Saves a worker's state every so often, and trims the logs that no start will need any more."""

    def __init__(
        self, worker: Worker, log: RedisStreamLog, connect: Callable[[], RedisStreamLog], index: int, interval_s: float
    ) -> None:
        """Use `log` from this process; a child calls `connect` for one of its own."""
        self._worker = worker
        self._streams = log
        self._connect = connect
        self._index = index
        self._interval_s = interval_s
        self._due_s = time.monotonic() + interval_s
        metrics.SNAPSHOT_FAILURES.labels(index)  # at 0, so that the first one is seen as an increase
        self._child: int | None = None
        self._began_s = 0.0
        self._size = mmap.mmap(-1, struct.calcsize("Q"))
        """Where a child leaves how large its snapshot was. It keeps off metrics: a thread may have held their locks in the fork."""
        self._newest = STREAM_START
        self._left = 0
        """How often a snapshot after that one was left to a standby."""

    @property
    def busy(self) -> bool:
        """Whether a snapshot is being written."""
        return self._child is not None

    def run(self) -> None:
        """Start a snapshot when one is due, and finish one that is done. Returns at once.

        Raises:
            InvariantBroken: the child, which has time for it, has added everything up, and it is not right.
        """
        if self._child is not None:
            pid, status = os.waitpid(self._child, os.WNOHANG)
            if pid:
                self._child = None
                if os.waitstatus_to_exitcode(status) == _IMPOSSIBLE:
                    self._worker.shard.check_invariants()
                    raise InvariantBroken("the state failed its check when a snapshot was taken; the log says why")
                if status:
                    metrics.SNAPSHOT_FAILURES.labels(self._index).inc()
                    _log.warning("snapshot failed", shard=self._index, status=os.waitstatus_to_exitcode(status))
                else:
                    (size,) = struct.unpack("Q", self._size)
                    metrics.SNAPSHOT_BYTES.labels(self._index).set(size)
                    metrics.SNAPSHOT_DURATION.labels(self._index).set(time.perf_counter() - self._began_s)
                    _log.info("snapshot saved", shard=self._index, bytes=size)
                    self._trim()
        elif time.monotonic() >= self._due_s:
            self._due_s = time.monotonic() + self._interval_s
            if self._has_news() and self._is_its_turn():
                self._child = self._fork()

    def finish(self) -> None:
        """Wait for a running child; save once more if this was the only worker: the next start has nothing to apply."""
        if self._child is not None:
            os.waitpid(self._child, 0)
            self._child = None
        if (
            self._worker.leads
            and self._has_news()
            and not self._streams.standbys(self._index)
            and self._save(self._streams)
        ):
            _log.info("last snapshot saved", shard=self._index)
            self._trim()

    def _has_news(self) -> bool:
        saved = self._streams.saved_snapshots(self._index)
        newest = saved[0].stream_id if saved else STREAM_START
        return split_stream_id(self._worker.position.stream_id) > split_stream_id(newest)

    def _is_its_turn(self) -> bool:
        saved = self._streams.saved_snapshots(self._index)
        if not self._worker.leads:
            # There may be several standbys, and one snapshot is enough for all of them.
            return not saved or saved[0].age_ms >= self._interval_s * 1_000 / 2
        if saved and saved[0].stream_id != self._newest:
            self._newest, self._left = saved[0].stream_id, 0
        if self._left < LEFT_MAX and self._streams.standbys(self._index):
            self._left += 1
            return False
        return True

    def _save(self, log: RedisStreamLog) -> bool:
        """Save the state, unless the log does not lead to it any more, after a failover of Redis; return whether it is saved."""
        position = self._worker.position
        snapshot = encode_snapshot(self._worker.shard, position.stream_id)
        if not log.reaches(self._index, position):
            return False
        log.save_snapshot(self._index, snapshot, position.stream_id)
        self._size[:] = struct.pack("Q", len(snapshot))
        return True

    def abandon(self) -> None:
        """End a running child: what it saves belongs to a state that is no more."""
        if self._child is not None:
            os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
            self._child = None

    def _fork(self) -> int:
        began = time.perf_counter()
        pid = os.fork()
        if pid:
            metrics.FORK_SECONDS.labels(self._index).set(time.perf_counter() - began)
            self._began_s = began
            return pid
        # The child: its own connection, no clean-up of what belongs to the parent, and no collector that would copy pages. It lets
        # go of the parent's connections, or they would outlive a parent that is killed and make it look alive.
        status = 1
        try:
            gc.disable()
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))
            os.nice(_NICENESS)
            self._worker.shard.check_invariants()
            if self._save(self._connect()):
                status = 0
        except InvariantBroken as error:
            status = _IMPOSSIBLE
            _log.critical("the state is wrong", shard=self._index, reason=str(error))
        finally:
            os._exit(status)

    def _trim(self) -> None:
        """Trim the input to the older snapshot and what is archived, and the events to what that and all readers have passed."""
        saved = self._streams.saved_snapshots(self._index)
        if len(saved) < 2:
            return
        older = min((each.stream_id for each in saved), key=split_stream_id)
        passed = self._streams.passed(self._index)
        needed = min(older, passed.get(ARCHIVE_READER, older), key=split_stream_id)
        # Said first: whoever reads the input from its beginning must know that it is gone.
        self._streams.mark_passed(self._index, TRIMMED, needed)
        self._streams.trim(streams.commands(self._index), needed)
        if set(passed) >= set(EventReader):
            readers = (passed[reader] for reader in EventReader)
            self._streams.trim(streams.events(self._index), min(older, *readers, key=split_stream_id))
