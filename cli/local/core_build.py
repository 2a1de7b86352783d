"""The build of the compiled core, and of the compiled readers of events, beside a running exchange.

It takes some 20 s of a processor, and needs a compiler. Until it is there, engine workers run the core of
objects (docs/decisions/0045-two-cores.md), and persist makes an object of each event.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from signal import SIGTERM

import structlog

from cli.local.state_file import log_file
from cli.local.supervisor import end_with_parent
from engine_worker.core_fast.build import CannotBuild, check_tools, is_current
from engine_worker.cores import COMPILED, CORES, OBJECTS, chosen_core
from runtime.extensions import EXTENSIONS
from runtime.settings import Settings

_NICENESS = 19

_log = structlog.get_logger()


def core_note(settings: Settings) -> str:
    """Return which core engine workers run that start now, and why it is not the compiled one."""
    core = chosen_core(settings)
    if core == COMPILED or settings.core == OBJECTS:
        return core
    try:
        check_tools()
    except CannotBuild as error:
        return f"{core}; {error}"
    return f"{core}; the compiled one is being built"


class CoreBuild:
    """At most one build, in the background, at the lowest priority."""

    def __init__(self, settings: Settings, say: Callable[[str], None]) -> None:
        """Start it, if the compiled core is wanted and can be built; `say` tells when it is there."""
        self._say = say
        self._file = log_file(settings, "core-build")
        self._running: subprocess.Popen[bytes] | None = None
        if settings.core == OBJECTS or (COMPILED in CORES and all(map(is_current, EXTENSIONS))):
            return
        try:
            check_tools()
        except CannotBuild as error:
            _log.info("the compiled core is not built", reason=str(error))
            return
        with self._file.open("wb") as output:
            self._running = subprocess.Popen(
                [sys.executable, "-P", "-m", "engine_worker.core_fast.build"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_last_and_with_parent(),
            )

    def look(self) -> None:
        """Say how it ended, once it has."""
        if self._running is None or (code := self._running.poll()) is None:
            return
        self._running = None
        if code:
            _log.warning("the compiled core was not built", see=str(self._file))
        else:
            self._say(
                "The compiled core has been built: `exchange restart --core compiled` changes to it now, and "
                "`exchange restart feeds persist-worker` to the compiled readers of events; the next "
                "`exchange up` runs both."
            )

    def stop(self) -> None:
        """End a build that is under way."""
        if self._running is not None:
            # Its group: the compiler is a process of its own.
            os.killpg(self._running.pid, SIGTERM)
            self._running.wait()


def _last_and_with_parent() -> Callable[[], None]:
    with_parent = end_with_parent(SIGTERM)

    def prepare() -> None:
        os.nice(_NICENESS)
        if with_parent is not None:
            with_parent()

    return prepare
