"""Recovers the database from a backup of cli/local/backups.py: a base backup and the log since.

PostgreSQL itself replays the log. Everything is prepared beside the data folder's `postgres` and renamed when
it is complete; an interrupted recovery is repeated. During the replay PostgreSQL listens on a socket in a
private folder, and requires no password, since the data folder's present password may differ from the
backup's.
"""

import os
import pwd
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import sql

from cli.local import embedded
from cli.local.backups import (
    BackupError,
    Base,
    Progress,
    backup_file,
    copied,
    programs_of,
    version_of_data,
    wal_since,
)
from cli.local.state_file import read_state
from cli.local.supervisor import end_with_parent
from runtime.settings import Settings

LOOK_EVERY_S: Final = 0.1
STOP_TIMEOUT_S: Final = 120
_BEFORE_TARGET: Final = "recovery ended before configured recovery target was reached"


class Recovered(NamedTuple):
    """The base backup of a recovery, and the end of what was replayed on it."""

    base: Base
    last_commit: datetime | None
    """Of the last transaction that was replayed; None: there was none after the base backup."""


def why_not(settings: Settings) -> str | None:
    """Return what prevents a recovery into the data folder, or None."""
    if settings.database_url:
        return (
            "EXCHANGE_DATABASE_URL names a database of your own, which is recovered by its own means "
            "(docs/how-to/back-up-and-restore.md). Unset it to recover the embedded one."
        )
    if (state := read_state(settings)) is not None:
        return f"The exchange is running (process {state.pid}); stop it first with `exchange down`."
    folder = settings.data_dir / "postgres"
    if folder.exists() and any(folder.iterdir()):
        return (
            f"There is a database in {folder} already. Move the folder away, and keep it until all is well "
            "again; then run this once more."
        )
    return None


def recover(
    settings: Settings, base: Base, to: datetime | None, copying: Progress, replayed: Callable[[str], None]
) -> Recovered:
    """Recover into the data folder, up to `to` or to the end of the log.

    `copying` receives bytes, `replayed` a text with the time up to which the log was replayed.

    Raises:
        BackupError, embedded.ServerError: it is impossible; the database was not replaced.
    """
    embedded.make_data_dir(settings)
    folder, account = embedded.postgres_folder(settings), embedded.unprivileged_user()
    programs = programs_of(settings, version_of_data(base.folder))
    if account is not None:
        programs = embedded.reachable_programs(programs, folder)
    unfinished, wal = folder.with_name("postgres.recovering"), folder.with_name("wal.recovering")
    for new_folder in (unfinished, wal):
        shutil.rmtree(new_folder, ignore_errors=True)
        new_folder.mkdir(mode=0o700, parents=True)
    try:
        _copy(base, unfinished, wal, copying)
        (unfinished / "recovery.signal").touch(0o600)
        for new_folder in (unfinished, wal):
            _give(new_folder, account)
        last_commit = _replay(settings, programs, unfinished, wal, account, to, replayed)
        # The recovered database has no replication slot for a backup, and writes a new log.
        backup_file(settings).unlink(missing_ok=True)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(wal, ignore_errors=True)
        shutil.rmtree(unfinished, ignore_errors=True)
    return Recovered(base, last_commit)


def _copy(base: Base, target: Path, wal: Path, progress: Progress) -> None:
    files = list(wal_since(base))
    size = sum(path.stat().st_size for path, _ in files)
    done = 0
    for done, total in copied(base.folder, target):
        progress(done, total + size)
    for path, name in files:
        # A copy, since PostgreSQL's user may not enter the backup.
        shutil.copyfile(path, wal / name)
        done += path.stat().st_size
        progress(done, max(done, size))


def _give(folder: Path, account: pwd.struct_passwd | None) -> None:
    if account is None:
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, account.pw_uid, account.pw_gid)


def _replay(
    settings: Settings,
    programs: Path,
    folder: Path,
    wal: Path,
    account: pwd.struct_passwd | None,
    to: datetime | None,
    replayed: Callable[[str], None],
) -> datetime | None:
    # A path to a socket may have a hundred characters, a data folder more.
    with tempfile.TemporaryDirectory(prefix="exchange-recover-") as name:
        private = Path(name)
        access = private / "pg_hba.conf"
        access.write_text("local all exchange trust\n", "ascii")
        _give(private, account)
        restore = f"cp {shlex.quote(str(wal)).replace('%', '%%')}/%f %p"
        options = [
            "listen_addresses=",
            f"unix_socket_directories={private}",
            f"hba_file={access}",
            f"restore_command={restore}",
            "recovery_target_action=promote",
            "recovery_target_timeline=current",
            # Not while it is not known whether this is the state that is wanted.
            "autovacuum=off",
        ]
        if to is not None:
            options.append(f"recovery_target_time={to.isoformat()}")
        command = embedded.server_of_data(settings, programs, folder, account, options)
        address = f"host={private} port={settings.postgres_port} user=exchange dbname=exchange"
        with _server(command, private / "log") as why_ended:
            last_commit = _await_end(address, why_ended, replayed)
            with psycopg.connect(address, autocommit=True) as connection:
                password = settings.password_file.read_text("ascii").strip()
                connection.execute(sql.SQL("ALTER ROLE exchange PASSWORD {}").format(password))
                connection.execute("CHECKPOINT")
        return last_commit


@contextmanager
def _server(command: embedded.ServerCommand, log: Path) -> Iterator[Callable[[], str | None]]:
    """Run a server; yield a function that returns why it has ended, or None while it runs."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command.arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            user=command.user,
            group=command.group,
            extra_groups=[] if command.user is not None else None,
            start_new_session=True,
            preexec_fn=end_with_parent(command.stop_signal),
        )

    def why_ended() -> str | None:
        return None if process.poll() is None else log.read_text("utf-8", errors="replace")

    try:
        yield why_ended
    finally:
        if process.poll() is None:
            process.send_signal(command.stop_signal)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await_end(
    address: str, why_ended: Callable[[], str | None], replayed: Callable[[str], None]
) -> datetime | None:
    """Wait until the log is replayed; return the time of the last transaction in it."""
    while True:
        if (output := why_ended()) is not None:
            raise BackupError(_why_failed(output))
        try:
            with psycopg.connect(address, autocommit=True, connect_timeout=5) as connection:
                row: Any = connection.execute(
                    "SELECT pg_is_in_recovery(), pg_last_xact_replay_timestamp(), "
                    "pg_last_wal_replay_lsn()::text"
                ).fetchone()
        except psycopg.OperationalError:  # not yet consistent
            time.sleep(LOOK_EVERY_S)
            continue
        is_recovering, last_commit, position = row
        if not is_recovering:
            return last_commit  # type: ignore[no-any-return]
        replayed(f"replayed the log up to {last_commit.isoformat() if last_commit else position}")
        time.sleep(LOOK_EVERY_S)


def _why_failed(output: str) -> str:
    if _BEFORE_TARGET in output:
        last = re.findall(r"last completed transaction was at log time (.*)", output)
        until = f"; its last transaction is of {last[-1]}" if last else ""
        return (
            f"The log in the backup ends before that time{until}. Without --to everything in it is recovered."
        )
    tail = "\n".join(output.splitlines()[-15:])
    return f"PostgreSQL could not replay the log:\n{tail}"
