"""An external PostgreSQL for the exchange, which nobody restarts while it is meant to be unreachable."""

import signal
import subprocess
import time
from contextlib import suppress
from typing import Final

import msgspec
import psutil

from cli.local import embedded
from cli.local.supervisor import end_with_parent
from runtime.settings import Settings

START_S: Final = 60
ASK_EVERY_S: Final = 0.05


class Database:
    """A PostgreSQL server that a run may kill and pause."""

    def __init__(self, settings: Settings) -> None:
        """Make its data folder below that of `settings`, apart from what `exchange up` looks after.

        Raises:
            ServerError: there is no usable PostgreSQL.
        """
        settings = msgspec.structs.replace(settings, data_dir=settings.data_dir / "database")
        embedded.make_data_dir(settings)
        self._settings = settings
        self._command = embedded.postgres_command(settings)
        self._log = settings.data_dir / "postgres.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._paused: list[psutil.Process] = []

    @property
    def url(self) -> str:
        """The server's address for the exchange."""
        return self._settings.resolved_database_url()

    def start(self) -> None:
        """Start the server; `wait` returns once it answers."""
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command.arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=self._command.user,
                group=self._command.group,
                preexec_fn=end_with_parent(self._command.stop_signal),
            )

    def wait(self) -> None:
        """Wait until it answers.

        Raises:
            ServerError: it does not.
        """
        deadline = time.monotonic() + START_S
        while not embedded.postgres_ready(self._settings):
            self.keep_up()
            if time.monotonic() > deadline:
                raise embedded.ServerError(
                    f"PostgreSQL does not start:\n{self._log.read_text(errors='replace')[-2000:]}"
                )
            time.sleep(ASK_EVERY_S)

    def keep_up(self) -> None:
        """Restart it if it has ended by itself: right after a kill its memory may still be in use."""
        if self._process is not None and self._process.poll() is not None:
            self.start()

    def kill(self) -> None:
        """Kill the server and all its processes (SIGKILL), as a power cut does."""
        for process in self._family():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if self._process is not None:
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Stop all its processes (SIGSTOP)."""
        self._paused = self._family()
        for process in self._paused:
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def resume(self) -> None:
        """Continue the processes that `pause` has stopped."""
        for process in self._paused:
            with suppress(psutil.NoSuchProcess):
                process.resume()
        self._paused = []

    def stop(self) -> None:
        """Shut the server down."""
        self.resume()
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(START_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def _family(self) -> list[psutil.Process]:
        if self._process is None:
            return []
        leader = psutil.Process(self._process.pid)
        return [leader, *leader.children(recursive=True)]
