"""`exchange up`: the servers, the migrations, the processes; then watching over them until told to stop."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import redis
from rich.console import Console
from rich.table import Table

from cli import embedded, probes
from cli.ports import PortError, check_ports
from cli.processes import process_specs, urls
from cli.state import log_file, read_state, state_file
from cli.supervisor import Supervisor
from runtime.lifecycle import stop_flag
from runtime.settings import Settings

READY_TIMEOUT_S = 120.0
LOOK_EVERY_S = 0.05
LOG_TAIL_LINES = 15
LEFTOVER_TIMEOUT_S = 20.0


class StartError(RuntimeError):
    """The exchange cannot be started; the message says why and what to do."""


class _Stopped(Exception):  # noqa: N818 - what the user asked for
    """Told to stop while starting."""


def up(settings: Settings, console: Console) -> None:
    """Run the exchange until SIGINT or SIGTERM.

    Raises:
        StartError: it did not come up; what was started has been ended again.
    """
    if (state := read_state(settings)) is not None:
        raise StartError(f"the exchange is already running (process {state.pid}); `exchange down` stops it")
    stopping = stop_flag()
    began = time.monotonic()
    try:
        embedded.make_data_dir(settings)
        _stop_leftovers(settings)
        check_ports(settings)
    except (embedded.ServerError, PortError, OSError) as error:
        raise StartError(str(error)) from error
    supervisor = Supervisor(settings)
    try:
        with _progress(console) as say:
            _start(settings, supervisor, stopping, say)
        _show_running(settings, console, time.monotonic() - began)
        while not stopping.is_set():
            supervisor.look()
            stopping.wait(LOOK_EVERY_S)
    except (_Stopped, KeyboardInterrupt):
        pass
    except embedded.ServerError as error:
        raise StartError(str(error)) from error
    finally:
        with _progress(console) as say:
            supervisor.stop_all(lambda name: say(f"stopping {name}"))
        state_file(settings).unlink(missing_ok=True)
    console.print("The exchange has stopped; its data stays in", str(settings.data_dir))


def detach(settings: Settings, console: Console) -> None:
    """Run `exchange up` in the background, and return when it is ready.

    Raises:
        StartError: it did not come up.
    """
    if (state := read_state(settings)) is not None:
        raise StartError(f"the exchange is already running (process {state.pid}); `exchange down` stops it")
    embedded.make_data_dir(settings)
    (settings.data_dir / "logs").mkdir(mode=0o700, exist_ok=True)
    file = log_file(settings, "up")
    with file.open("wb") as output, _progress(console) as say:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "up"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        say("starting in the background")
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            if process.poll() is not None:
                raise StartError(file.read_text("utf-8", errors="replace").strip())
            state = read_state(settings)
            if state is not None and state.processes and all(each.state == "running" for each in state.processes):
                break
            if time.monotonic() > deadline:
                raise StartError(f"the exchange is not ready after {READY_TIMEOUT_S:.0f} s; see {file}")
            time.sleep(LOOK_EVERY_S)
    console.print(f"The exchange runs in the background (process {process.pid}); `exchange down` stops it.")


def down(settings: Settings, console: Console) -> bool:
    """Stop a running exchange and wait until it has. Return whether one was running."""
    state = read_state(settings)
    if state is None:
        try:
            return bool(_stop_leftovers(settings))
        except embedded.ServerError as error:
            raise StartError(str(error)) from error
    process = psutil.Process(state.pid)
    with _progress(console) as say:
        say("stopping the exchange")
        process.terminate()
        process.wait(timeout=READY_TIMEOUT_S)
    return True


def _start(settings: Settings, supervisor: Supervisor, stopping: threading.Event, say: Callable[[str], None]) -> None:
    specs = process_specs(settings)
    if not settings.redis_url:
        say("starting Redis")
        _start_server(supervisor, "redis", embedded.redis_command(settings))
    if not settings.database_url:
        say("starting PostgreSQL")
        _start_server(supervisor, "postgres", embedded.postgres_command(settings))

    def wait_for(what: str, ready: Callable[[], bool]) -> None:
        say(f"waiting for {what}")
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not ready():
            if stopping.is_set():
                raise _Stopped
            supervisor.look()
            if time.monotonic() > deadline or any(restarts > 3 for _, restarts in supervisor.failed()):
                raise StartError(_why_not(settings, supervisor, what))
            time.sleep(LOOK_EVERY_S)

    wait_for("Redis", lambda: embedded.redis_ready(settings))
    for spec in specs:
        if not spec.needs_database:
            supervisor.start_module(spec.name, spec.module, spec.arguments, spec.environment)
    wait_for("PostgreSQL", lambda: embedded.postgres_ready(settings))
    say("migrating the database")
    _migrate()
    for spec in specs:
        if spec.needs_database:
            supervisor.start_module(spec.name, spec.module, spec.arguments, spec.environment)
    wait_for("the gateway", lambda: probes.gateway_answers(settings))
    wait_for("the shards", lambda: _shards_answer(settings))
    supervisor.mark_ready()


def _start_server(supervisor: Supervisor, name: str, command: embedded.ServerCommand) -> None:
    supervisor.start(name, command.arguments, None, command.stop_signal, command.user, command.group)


def _migrate() -> None:
    result = subprocess.run([sys.executable, "-m", "persist.main", "migrate"], capture_output=True, check=False)
    if result.returncode:
        raise StartError(f"the database could not be migrated:\n{result.stderr.decode(errors='replace').strip()}")


def _shards_answer(settings: Settings) -> bool:
    shards = list(range(settings.shard_count))
    try:
        with probes.connect(settings) as client:
            return len(probes.audit(client, shards, timeout_s=1.0)) == len(shards)
    except redis.RedisError:
        return False


def _why_not(settings: Settings, supervisor: Supervisor, what: str) -> str:
    lines = [f"{what} did not become ready."]
    for name, _ in supervisor.failed():
        file = log_file(settings, name)
        tail = file.read_text("utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:] if file.exists() else []
        lines += [f"{name} ended by itself; the end of {file}:", *(f"  {line}" for line in tail)]
    if len(lines) == 1:
        lines.append(f"See the logs in {settings.data_dir / 'logs'}.")
    return "\n".join(lines)


def _stop_leftovers(settings: Settings) -> list[str]:
    """End servers that an `exchange up` left behind when it was killed; return their names."""
    stopped = []
    for process in embedded.leftover_servers(settings):
        name = process.name()
        process.send_signal(signal.SIGINT if name.startswith("postgres") else signal.SIGTERM)
        try:
            process.wait(LEFTOVER_TIMEOUT_S)
        except psutil.TimeoutExpired as error:
            raise embedded.ServerError(
                f"{name} (process {process.pid}) is left from an earlier start and does not end; stop it by hand"
            ) from error
        stopped.append(name)
    return stopped


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[str], None]]:
    """Show what is being done: one changing line on a terminal, a line each elsewhere."""
    if console.is_terminal:
        with console.status("") as status:
            yield lambda text: status.update(f"{text} …")
    else:
        yield lambda text: console.print(f"{text} …")


def _show_running(settings: Settings, console: Console, seconds: float) -> None:
    state = read_state(settings)
    table = Table(title=f"The exchange is running ({seconds:.1f} s)", title_justify="left")
    table.add_column("process")
    table.add_column("pid", justify="right")
    table.add_column("log")
    for process in state.processes if state else []:
        table.add_row(process.name, str(process.pid), os.path.relpath(log_file(settings, process.name)))
    console.print(table)
    for name, url in urls(settings).items():
        console.print(f"{name:>18}  {url}", highlight=False)
    console.print("Next: `exchange demo-account` makes a funded account; Ctrl-C stops the exchange.", highlight=False)
