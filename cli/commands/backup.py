"""`exchange backup`."""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import psycopg
import rich_click as click
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from cli.console import CommandError, console, plain_table, print_json, running_settings
from cli.local import backups
from cli.local.backups import BASES_KEPT, BackupError, BackupNote, Base, Receiving
from cli.local.embedded import ServerError
from cli.local.state_file import RestartRequest, log_file, read_state, request_restart
from runtime.settings import Settings, SettingsError

FOLLOW_TIMEOUT_S: Final = 30.0
BEHIND_BYTES_MAX: Final = 64 << 20
"""A backup that is further behind the database is not healthy: four segments of the log."""
_MEGABYTE: Final = 1_000_000


class BaseRow(msgspec.Struct, frozen=True):
    """A base backup, as `--status --json` prints it."""

    folder: str
    complete: str
    bytes: int


class Status(msgspec.Struct, frozen=True):
    """The state of a backup, as `--status --json` prints it."""

    ok: bool
    problem: str
    folder: str
    bases: list[BaseRow]
    wal_bytes: int
    receiving: Receiving | None
    """None: the server does not run, or knows of no backup."""


@click.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--status",
    "only_status",
    is_flag=True,
    help="Show what can be recovered; exit code 1 if the backup is not healthy.",
)
@click.option(
    "--keep",
    default=BASES_KEPT,
    show_default=True,
    type=click.IntRange(1),
    help="Base backups that are kept, and the log since.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON: ok, problem, folder, bases, wal_bytes, receiving."
)
def backup(folder: Path | None, only_status: bool, keep: int, as_json: bool) -> None:
    """Back up the database into FOLDER: a base backup now, and from then on its log as it is written.

    Run it once, and then every day or week from cron, on a disk other than the database's. Between the runs
    the running exchange writes the log there. `exchange recover FOLDER` recovers the database as it was at
    any moment since the oldest base backup, and `exchange restore` then rebuilds Redis. It backs up the
    PostgreSQL that `exchange up` starts; docs/how-to/back-up-and-restore.md describes backups of an external
    one. It does not contain the data folder's keys (master.key, operator.key, …): keep a copy of them
    elsewhere.
    """
    settings = running_settings()
    try:
        if settings.database_url:
            raise BackupError(
                "EXCHANGE_DATABASE_URL names a database of your own: back it up by its own means, such as "
                "your provider's point-in-time recovery or pgBackRest (docs/how-to/back-up-and-restore.md)."
            )
        if only_status:
            state = status(settings)
            _show(state, as_json=as_json)
            raise SystemExit(0 if state.ok else 1)
        if folder is None:
            raise click.UsageError("Name the FOLDER that the backup goes to, or ask for --status.")
        if read_state(settings) is None:
            raise BackupError(
                "The exchange does not run, so nothing would write the log. Start it with `exchange up`."
            )
        with _alone(settings):
            _back_up(settings, folder.resolve(), keep, quiet=as_json)
        _show(status(settings), as_json=as_json)
    except (BackupError, ServerError, SettingsError, OSError) as error:
        raise CommandError(str(error)) from error
    except psycopg.Error as error:
        raise CommandError(f"The database returned an error: {str(error).strip()}") from error


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    with (settings.data_dir / "backup.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BackupError("Another `exchange backup` is under way; wait for it.") from error
        yield


def _back_up(settings: Settings, folder: Path, keep: int, *, quiet: bool) -> None:
    # It raises if the server's programs are missing: before anything is changed.
    backups.programs_of(settings, backups.version_of_data(settings.data_dir / "postgres"))
    with psycopg.connect(settings.resolved_database_url(), autocommit=True) as connection:
        note, receiver = backups.read_note(settings), backups.receiving(connection)
        goes_on = (
            note is not None
            and note.folder().parent == folder
            and note.folder().is_dir()
            and receiver is not None
        )
        if note is None or receiver is None or receiver.lost or not goes_on:
            _begin_line(settings, connection, folder)
        _await_receiver(settings, connection)
    note = backups.read_note(settings)
    assert note is not None, "it was written above, or there before"
    with bar(quiet, "base backup") as (progress, _):
        backups.take_base(settings, note.folder(), progress, lambda: datetime.now(UTC))
    removed = backups.prune(settings, note.folder(), keep)
    if removed and not quiet:
        console.print(f"{removed} older base backup{'s' if removed > 1 else ''} and the log before removed.")


def _begin_line(settings: Settings, connection: psycopg.Connection[Any], folder: Path) -> None:
    """Begin a new log: the first one, one in another folder, or one after a gap."""
    backups.backup_file(settings).unlink(missing_ok=True)
    backups.drop_slot(connection)
    backups.make_slot(connection)
    backups.write_note(settings, BackupNote(str(backups.new_line(folder))))
    # A receiver that runs already writes into the folder that it was started with.
    request_restart(settings, RestartRequest(backups.RECEIVER))


def _await_receiver(settings: Settings, connection: psycopg.Connection[Any]) -> None:
    deadline = time.monotonic() + FOLLOW_TIMEOUT_S
    while (receiver := backups.receiving(connection)) is None or not receiver.active:
        if time.monotonic() > deadline:
            raise BackupError(
                f"The log is not written into the backup: see {log_file(settings, backups.RECEIVER)}. An "
                "exchange that was started by an earlier version must be restarted (`exchange down`, "
                "`exchange up`)."
            )
        time.sleep(0.1)


@contextmanager
def bar(quiet: bool, label: str) -> Iterator[tuple[backups.Progress, Callable[[str], None]]]:
    """Show the progress of copying; yield a callback for bytes, and one for a text about the current step."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with ProgressBar(*columns, console=console, transient=True, disable=quiet) as shown:
        task = shown.add_task(label, total=None)
        yield (
            lambda done, total: shown.update(task, completed=done, total=total),
            lambda text: shown.update(task, description=text),
        )


def status(settings: Settings) -> Status:
    """Return what can be recovered.

    Raises:
        BackupError: there is no backup.
    """
    note = backups.read_note(settings)
    if note is None:
        raise BackupError(
            "There is no backup of this database. `exchange backup DIR` makes one; DIR on another disk."
        )
    line = note.folder()
    bases_kept = backups.bases(line)
    wal = [path.stat().st_size for path in (line / "wal").glob("*")] if line.is_dir() else []
    try:
        with psycopg.connect(
            settings.resolved_database_url(), autocommit=True, connect_timeout=5
        ) as connection:
            receiver, reached = backups.receiving(connection), True
    except psycopg.OperationalError:
        receiver, reached = None, False
    problem = _problem(line, bases_kept, receiver, reached=reached)
    rows = [
        BaseRow(str(base.folder), f"{base.complete:%Y-%m-%dT%H:%M:%SZ}", _size(base)) for base in bases_kept
    ]
    return Status(not problem, problem, str(line), rows, sum(wal), receiver)


def _problem(line: Path, bases_kept: list[Base], receiver: Receiving | None, *, reached: bool) -> str:
    again = f"run `exchange backup {line.parent}` again"
    if not line.is_dir():
        return f"{line} is not there: is its disk mounted?"
    if not bases_kept:
        return f"no base backup is complete: {again}"
    if not reached:
        return "the database does not run, so nothing is written"
    if receiver is None:
        return f"the server knows of no backup: {again}"
    if receiver.lost:
        return f"the log has a gap, since the backup did not follow for too long: {again}"
    if not receiver.active:
        return "the log is not written into the backup; the server keeps it meanwhile, up to a limit"
    if receiver.behind_bytes > BEHIND_BYTES_MAX:
        return f"the log is {receiver.behind_bytes / _MEGABYTE:.0f} MB behind"
    return ""


def _size(base: Base) -> int:
    return sum(path.stat().st_size for path in base.folder.rglob("*") if path.is_file())


def _show(state: Status, *, as_json: bool) -> None:
    if as_json:
        print_json(state)
        return
    table = plain_table("base backup", "MB")
    for base in state.bases:
        table.add_row(base.complete, f"{base.bytes / _MEGABYTE:.0f}")
    console.print(table)
    receiver = state.receiving
    log = f"log    {state.wal_bytes / _MEGABYTE:.0f} MB"
    if receiver is not None:
        log += f", {receiver.behind_bytes:,} bytes behind the database" + (
            "" if receiver.active else ", not being written"
        )
    console.print(f"folder {state.folder}\n{log}", highlight=False, soft_wrap=True)
    if state.ok:
        console.print(f"Any moment since {state.bases[0].complete} can be recovered.", highlight=False)
    else:
        console.print(f"[bold red]Not healthy:[/] {state.problem}", highlight=False, soft_wrap=True)
