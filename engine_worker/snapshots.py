"""Taking snapshots beside the matching: a forked child has the state as it is now, and all the time it needs to write it."""

import gc
import os
import signal
import time
from collections import deque
from collections.abc import Callable

import structlog

from engine_worker.core.snapshot import encode_snapshot
from engine_worker.worker import Worker
from protocol import streams
from protocol.streams import EventReader, StreamId, split_stream_id
from runtime.redis_stream_log import RedisStreamLog

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
        self._child: int | None = None
        self._taken: StreamId | None = None
        """Up to where the snapshot reaches that was begun last."""
        self._kept: deque[StreamId] = deque(maxlen=2)
        """Up to where those reach that this process has saved, older first."""

    @property
    def busy(self) -> bool:
        """Whether a snapshot is being written."""
        return self._child is not None

    def run(self) -> None:
        """Start a snapshot when one is due, and finish one that is done. Returns at once."""
        if self._child is not None:
            pid, status = os.waitpid(self._child, os.WNOHANG)
            if pid:
                self._child = None
                if status:
                    _log.warning("snapshot failed", shard=self._index, status=os.waitstatus_to_exitcode(status))
                    self._taken = None
                elif self._taken is not None:
                    self._kept.append(self._taken)
                    self._trim()
        elif time.monotonic() >= self._due_s:
            self._due_s = time.monotonic() + self._interval_s
            if self._worker.position.stream_id != self._taken:
                self._taken = self._worker.position.stream_id
                self._child = self._fork()

    def finish(self) -> None:
        """Wait for a running child, and save once more in this process: the next start has nothing to replay."""
        if self._child is not None:
            os.waitpid(self._child, 0)
        if self._worker.position.stream_id != self._taken and self._streams.reaches(self._index, self._worker.position):
            self._streams.save_snapshot(
                self._index, encode_snapshot(self._worker.shard, self._worker.position.stream_id)
            )

    def abandon(self) -> None:
        """End a running child: what it saves belongs to a state that is no more."""
        if self._child is not None:
            os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
            self._child = None

    def _fork(self) -> int:
        pid = os.fork()
        if pid:
            return pid
        # The child: its own connection, no clean-up of what belongs to the parent, and no collector that would copy pages.
        status = 1
        try:
            gc.disable()
            position = self._worker.position
            snapshot = encode_snapshot(self._worker.shard, position.stream_id)
            log = self._connect()
            # After a failover the log may not lead here any more.
            if log.reaches(self._index, position):
                log.save_snapshot(self._index, snapshot)
                status = 0
        finally:
            os._exit(status)

    def _trim(self) -> None:
        """Trim the input to the older snapshot, and the events to what that and all readers have passed."""
        if len(self._kept) < 2:
            return
        older = self._kept[0]
        self._streams.trim(streams.commands(self._index), older)
        passed = self._streams.passed(self._index)
        if set(passed) >= set(EventReader):
            self._streams.trim(streams.events(self._index), min(older, *passed.values(), key=split_stream_id))
