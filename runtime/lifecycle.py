"""Stopping: the first SIGTERM or SIGINT asks a process to finish what it has and leave.

A second one ends it at once.
"""

import asyncio
import os
import select
import signal
import threading
import weakref
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class SignalFlag(threading.Event):
    """An event that a signal's handler may set, once and for good.

    The library's own has a lock, and the handler runs between any two steps of the main thread: also while
    that waits and holds the lock, which the handler then waits for without end. This one has none: who waits,
    waits until there is something in a pipe.
    """

    def __init__(self) -> None:
        super().__init__()
        self._is_set = False
        self._process = os.getpid()
        self._waited_for, self._end = os.pipe()
        for end in (self._waited_for, self._end):
            weakref.finalize(self, os.close, end).atexit = False  # threads may wait until the end

    def is_set(self) -> bool:
        """Return whether it is."""
        return self._is_set

    def set(self) -> None:
        """Set it, and wake whoever waits."""
        was_set, self._is_set = self._is_set, True
        if (
            not was_set and os.getpid() == self._process
        ):  # a forked child's flag is not its parent's, but their pipe is one
            os.write(self._end, b"s")

    def clear(self) -> None:
        """Refuse: who was asked to stop stops."""
        raise NotImplementedError

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, or for so many seconds; return whether it is."""
        if not self._is_set:
            poll = select.poll()
            poll.register(self._waited_for, select.POLLIN)
            poll.poll(None if timeout is None else max(0.0, timeout * 1_000))
        return self._is_set


def stop_flag() -> threading.Event:
    """Return a flag that the first SIGTERM or SIGINT sets, for a process with a plain loop.

    Call it in the main thread.
    """
    flag = SignalFlag()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        flag.set()
        for each in STOP_SIGNALS:
            signal.signal(each, signal.SIG_DFL)

    for each in STOP_SIGNALS:
        signal.signal(each, stop)
    return flag


def stop_event() -> asyncio.Event:
    """Return an event that the first SIGTERM or SIGINT sets, for a process with an event loop.

    Call it in the running loop.
    """
    event = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        event.set()
        for each in STOP_SIGNALS:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)

    for each in STOP_SIGNALS:
        loop.add_signal_handler(each, stop)
    return event
