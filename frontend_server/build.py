"""The build of the frontend, in the background: the exchange does not wait for it."""

import subprocess
import threading
from enum import StrEnum
from pathlib import Path
from typing import Final

import structlog

CHECKOUT: Final = Path(__file__).resolve().parent.parent
BUILT: Final = CHECKOUT / "frontend" / "out"
_SCRIPT: Final = CHECKOUT / "scripts" / "frontend"

_log = structlog.get_logger()


class BuildState(StrEnum):
    """How far it is."""

    BUILDING = "building"
    READY = "ready"
    UNAVAILABLE = "unavailable"
    """The build failed: the log says why, and everything else runs."""


class Build:
    """One build; it is over at once when the sources have not changed since the last."""

    def __init__(self) -> None:
        self.state = BuildState.BUILDING
        self.reason = ""
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._run, name="build", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Give it up if it is not over."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def _run(self) -> None:
        try:
            self._process = subprocess.Popen(
                [str(_SCRIPT), "build"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        except OSError as error:
            self._fail(str(error))
            return
        last_line = ""
        for line in self._process.stdout or ():
            if text := line.strip():
                last_line = text
                _log.info("build", says=text)
        if self._process.wait():
            self._fail(last_line)
        else:
            self.state = BuildState.READY
            _log.info("frontend is ready")

    def _fail(self, reason: str) -> None:
        self.reason = reason
        self.state = BuildState.UNAVAILABLE
        _log.error("frontend is unavailable; everything else runs", reason=reason)
