"""`exchange up` and `down`: the servers, the migrations, the processes.

Then the supervision until a stop request.
"""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial

import psutil
import psycopg
from rich.console import Console

from cli import inquiries
from cli.console import plain_table
from cli.local import embedded, embedded_redis
from cli.local.backups import RECEIVER, backup_file, receiver
from cli.local.core_build import CoreBuild, core_note
from cli.local.free_ports import PortError, check_ports
from cli.local.processes import ProcessSpec, clients, engines, gateways, pages, readers, urls
from cli.local.state_file import (
    ProcessStatus,
    leftover_processes,
    log_file,
    log_folder,
    read_state,
    state_file,
    trading_processes,
)
from cli.local.supervisor import Supervisor
from cli.market_configs import markets_are_known
from cli.verifying import verify_market_maker
from engine_worker.conversion import why_not
from persist.lost_tail_comparison import LogGuard
from persist.migrate import MigrationError, RoleLogins, migrate
from runtime.lifecycle import stop_flag
from runtime.log import configure_logs
from runtime.operator_keys import first_config
from runtime.settings import PREFIX, Settings, SettingsError
from runtime.tls import ServerTls
from runtime.unsafe_settings import refuse_unsafe

READY_TIMEOUT_S = 120.0
RESTARTS_MAX = 3
"""A process that dies more often before everything is ready will not recover."""
LOOK_EVERY_S = 0.05
ASK_EVERY_S = 0.02
LOG_TAIL_LINES = 15
LEFTOVER_TIMEOUT_S = 20.0


class StartError(RuntimeError):
    """The exchange cannot be started or stopped; the message says why and what to do."""


class _StoppedError(Exception):
    """Told to stop while starting."""


def up(settings: Settings, console: Console) -> None:
    """Run the exchange until SIGINT or SIGTERM.

    Raises:
        StartError: it did not start; everything was ended again.
    """
    began = time.monotonic()
    stopping = stop_flag()
    configure_logs(settings, "up")
    # First: `stop_leftovers` below would end the processes of a running exchange.
    _refuse_second(settings)
    try:
        refuse_unsafe(settings)
        ServerTls.of(settings)
        embedded.make_data_dir(settings)
        stop_leftovers(settings)
        check_ports(settings)
    except (SettingsError, PortError, OSError) as error:
        raise StartError(str(error)) from error
    supervisor = Supervisor(settings)
    build: CoreBuild | None = None
    try:
        with _progress(console) as say:
            _start(settings, supervisor, stopping, say)
        _show_running(settings, console, time.monotonic() - began, "Ctrl-C stops it.")
        build = CoreBuild(settings, partial(console.print, highlight=False, soft_wrap=True))
        programs: set[str] = set()
        while not stopping.is_set():
            _follow_with_backup(settings, supervisor)
            verify_market_maker(settings, programs)
            supervisor.look()
            build.look()
            stopping.wait(LOOK_EVERY_S)
    except _StoppedError:
        pass
    except (embedded.ServerError, MigrationError, psycopg.Error, OSError) as error:
        raise StartError(str(error)) from error
    finally:
        if build is not None:
            build.stop()
        with _progress(console) as say:
            supervisor.stop_all(say)
        state_file(settings).unlink(missing_ok=True)
    console.print(
        f"The exchange has stopped; data is kept in {settings.data_dir}", highlight=False, soft_wrap=True
    )


def detach(settings: Settings, console: Console) -> None:
    """Run `exchange up` in the background, and return when it is ready.

    Raises:
        StartError: it did not come up.
    """
    began = time.monotonic()
    _refuse_second(settings)
    embedded.make_data_dir(settings)
    log_folder(settings).mkdir(mode=0o700, exist_ok=True)
    file = log_file(settings, "up")
    with file.open("wb") as output, _progress(console) as say:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cli.main", "up"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        say("starting in the background")
        while not _all_running(settings):
            if process.poll() is not None:
                raise StartError(file.read_text("utf-8", errors="replace").strip())
            if time.monotonic() > began + READY_TIMEOUT_S:
                raise StartError(f"The exchange is not ready after {READY_TIMEOUT_S:.0f} s; see {file}")
            time.sleep(LOOK_EVERY_S)
    how_to_stop = f"`exchange down` stops it, as it runs in the background (process {process.pid})."
    _show_running(settings, console, time.monotonic() - began, how_to_stop)


def down(settings: Settings, console: Console) -> bool:
    """Stop a running exchange and wait until it has. Return whether anything was running.

    Raises:
        StartError: it does not stop.
    """
    state = read_state(settings)
    if state is None:
        return stop_leftovers(settings)
    with _progress(console) as say:
        say("stopping the exchange")
        try:
            process = psutil.Process(state.pid)
            process.terminate()
        except psutil.NoSuchProcess:
            return True
        deadline = time.monotonic() + READY_TIMEOUT_S
        while _runs(process):
            if time.monotonic() > deadline:
                raise StartError(
                    f"Process {state.pid} does not stop; the terminal that runs `exchange up` may say why."
                )
            time.sleep(LOOK_EVERY_S)
    return True


def _runs(process: psutil.Process) -> bool:
    """Return whether a process has not ended.

    One that has is still listed until its parent waits for it, which not every parent does.
    """
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _start(
    settings: Settings, supervisor: Supervisor, stopping: threading.Event, say: Callable[[str], None]
) -> None:
    """Start everything: first what an order needs, then what tells of it."""

    def start(specs: Iterable[ProcessSpec]) -> None:
        for spec in specs:
            supervisor.start(spec)

    def wait_for(condition: str, ready: Callable[[], bool]) -> None:
        say(f"waiting for {condition}")
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not ready():
            supervisor.look()
            hopeless = supervisor.halted() or max(supervisor.restarts().values()) > RESTARTS_MAX
            if time.monotonic() > deadline or hopeless:
                raise StartError(_why_not(settings, supervisor, condition))
            if stopping.wait(ASK_EVERY_S):
                raise _StoppedError

    if not settings.redis_url:
        say("starting Redis")
        start(ProcessSpec(name, command) for name, command in embedded_redis.redis_commands(settings).items())
    if not settings.database_url:
        say("starting PostgreSQL")
        supervisor.start(ProcessSpec("postgres", embedded.postgres_command(settings)))
    start(gateways(settings))
    wait_for("Redis", lambda: embedded_redis.redis_ready(settings))
    # Before the database is brought up to date: what an earlier release must still finish, it finishes with
    # its own.
    _check_snapshots(settings)
    start(engines(settings))
    wait_for("PostgreSQL", lambda: embedded.postgres_ready(settings))
    say("bringing the database up to date")
    migrate(settings.resolved_database_url(), logins=RoleLogins.of(settings))
    _check_log(settings)
    wait_for("the gateway", lambda: inquiries.gateway_answers(settings))
    wait_for("the shards", lambda: inquiries.shards_answer(settings))
    wait_for("the markets", lambda: markets_are_known(settings))
    start(readers(settings))
    start(clients(settings))
    start(pages(settings))
    # By process id: heartbeats of a killed exchange may still exist. An edge writes one once it serves.
    reader_names = [spec.name for spec in readers(settings)]
    wait_for(
        "feeds, edges and persistence",
        lambda: all(
            inquiries.says_health(settings, name, supervisor.process_ids()[name]) for name in reader_names
        ),
    )
    supervisor.mark_ready()


def _follow_with_backup(settings: Settings, supervisor: Supervisor) -> None:
    """Start what writes the database's log into a backup, once there is one.

    Never before trading, which does not depend on it.
    """
    if RECEIVER not in supervisor.restarts() and backup_file(settings).exists() and not settings.database_url:
        supervisor.start(receiver())
        supervisor.mark_ready()


def _check_snapshots(settings: Settings) -> None:
    """Refuse an earlier release's data that this one cannot use, before anything has been changed."""
    try:
        market_map, config = settings.market_map(), first_config(settings)
    except SettingsError as error:
        raise StartError(str(error)) from error
    with closing(inquiries.connect_log(settings)) as log:
        for shard in range(settings.shard_count):
            if reason := why_not(log, shard, market_map, config):
                raise StartError(f"Shard {shard} cannot open, and nothing was changed: {reason}.")


def _check_log(settings: Settings) -> None:
    """Compare the shards' logs with the database; the shards wait for it."""
    if not settings.lost_tail_check_enabled:
        return
    with closing(inquiries.connect_log(settings)) as log:
        reasons = LogGuard(log, settings.resolved_database_url(), range(settings.shard_count)).step()
    if reasons:
        raise StartError("The exchange cannot open: " + "\n".join(reasons))


def _refuse_second(settings: Settings) -> None:
    if (state := read_state(settings)) is not None:
        raise StartError(
            f"The exchange is already running (process {state.pid}): `exchange status` shows it, `exchange "
            f"down` stops it. For a second one set {PREFIX}DATA_DIR and the ports."
        )


def _all_running(settings: Settings) -> bool:
    state = read_state(settings)
    return bool(state and state.processes) and all(
        process.state is ProcessStatus.RUNNING
        for process in trading_processes(state.processes if state else ())
    )


def _why_not(settings: Settings, supervisor: Supervisor, condition: str) -> str:
    lines = [f"Timed out waiting for {condition}."]
    for name, restarts in supervisor.restarts().items():
        if restarts or name in supervisor.halted():
            file = log_file(settings, name)
            tail = file.read_text("utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
            lines += [f"{name} exited by itself; the end of {file}:", *(f"  {line}" for line in tail)]
    if len(lines) == 1:
        lines.append(f"The logs are in {log_folder(settings)}.")
    return "\n".join(lines)


def stop_leftovers(settings: Settings) -> bool:
    """End what an `exchange up` left behind when it was killed. Return whether there was anything."""
    processes = [*leftover_processes(settings), *embedded.leftover_servers(settings)]
    for process in processes:
        try:
            process.send_signal(signal.SIGINT if process.name().startswith("postgres") else signal.SIGTERM)
            process.wait(LEFTOVER_TIMEOUT_S)
        except psutil.NoSuchProcess:
            continue
        except psutil.TimeoutExpired:
            process.kill()
            process.wait()
    state_file(settings).unlink(missing_ok=True)
    return bool(processes)


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[str], None]]:
    """Show the current step: one changing line on a terminal, otherwise one line per step."""
    if console.is_terminal:
        with console.status("") as status:
            yield lambda text: status.update(f"{text} …")
    else:
        yield lambda text: console.print(f"{text} …", highlight=False)


def _show_running(settings: Settings, console: Console, seconds: float, how_to_stop: str) -> None:
    state = read_state(settings)
    console.print(f"The exchange is running, after {seconds:.1f} s.", highlight=False)
    table = plain_table("process", "pid")
    for process in state.processes if state else ():
        table.add_row(process.name, str(process.pid))
    console.print(table)
    console.print()
    for name, url in urls(settings).items():
        note = inquiries.frontend_note(settings) if name == "frontend" else ""
        console.print(f"{name:>8}  {url}{note}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"{'logs':>8}  {log_folder(settings)}", highlight=False, soft_wrap=True)
    console.print(
        f"{'data':>8}  {settings.data_dir}{_data_elsewhere(settings)}", highlight=False, soft_wrap=True
    )
    console.print(f"{'core':>8}  {core_note(settings)}", highlight=False, soft_wrap=True)
    if not settings.has_faucet():
        note = (
            "The faucet is off because servers listen for other machines: only `exchange treasury` gives "
            "funds."
        )
        console.print(f"\n{note}", highlight=False, soft_wrap=True)
    console.print(
        f"\n`exchange demo-account` makes a funded account; `exchange status` shows its state; {how_to_stop}",
        highlight=False,
        soft_wrap=True,
    )


def _data_elsewhere(settings: Settings) -> str:
    folder = settings.data_dir / "postgres"
    return (
        f"; PostgreSQL's in {folder.resolve()}, since its user may not enter here"
        if folder.is_symlink()
        else ""
    )
