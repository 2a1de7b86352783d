"""Graceful shutdown: the first SIGTERM or SIGINT asks a process to finish its work and end.

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
    """An event that a signal handler may set, once and for good.

    The standard library's event has a lock. The handler runs between any two steps of the main thread, also
    while that thread holds the lock, and would then wait for it forever. This class has no lock: a waiter
    waits for a byte in a pipe.
    """

    def __init__(self) -> None:
        super().__init__()
        self._is_set = False
        self._process = os.getpid()
        self._waited_for, self._end = os.pipe()
        for end in (self._waited_for, self._end):
            weakref.finalize(self, os.close, end).atexit = False  # threads may wait until the process ends

    def is_set(self) -> bool:
        """Return whether the flag is set."""
        return self._is_set

    def set(self) -> None:
        """Set the flag, and wake all waiters."""
        was_set, self._is_set = self._is_set, True
        if (
            not was_set and os.getpid() == self._process
        ):  # a forked child has its own flag, but shares the pipe with its parent
            os.write(self._end, b"s")

    def clear(self) -> None:
        """Refuse: a stop request is final."""
        raise NotImplementedError

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the flag is set, or for `timeout` seconds; return whether it is set."""
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
        for signal_number in STOP_SIGNALS:
            signal.signal(signal_number, signal.SIG_DFL)

    for signal_number in STOP_SIGNALS:
        signal.signal(signal_number, stop)
    return flag


def stop_event() -> asyncio.Event:
    """Return an event that the first SIGTERM or SIGINT sets, for a process with an event loop.

    Call it in the running loop.
    """
    event = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        event.set()
        for signal_number in STOP_SIGNALS:
            loop.remove_signal_handler(signal_number)
            signal.signal(signal_number, signal.SIG_DFL)

    for signal_number in STOP_SIGNALS:
        loop.add_signal_handler(signal_number, stop)
    return event
