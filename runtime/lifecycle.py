"""Stopping: the first SIGTERM or SIGINT asks a process to finish what it has and leave; a second one ends it at once."""

import asyncio
import signal
import threading
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def stop_flag() -> threading.Event:
    """Return a flag that the first SIGTERM or SIGINT sets, for a process with a plain loop. Call it in the main thread."""
    flag = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        flag.set()
        for each in STOP_SIGNALS:
            signal.signal(each, signal.SIG_DFL)

    for each in STOP_SIGNALS:
        signal.signal(each, stop)
    return flag


def stop_event() -> asyncio.Event:
    """Return an event that the first SIGTERM or SIGINT sets, for a process with an event loop. Call it in the running loop."""
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
