"""Backups of the embedded PostgreSQL: base backups, and the write-ahead log (WAL) since, as it is written.

    DIR/0001/base/20260131T120000Z/  a base backup by pg_basebackup; the name is its time of completion
    DIR/0001/wal/                    the log, by pg_receivewal: segments, the newest one `.partial`
    DIR/0002/…                       another line: a recovered or new database writes another log

`exchange backup` makes a base backup, and notes in the data folder (`backup.json`) which line it belongs to.
From then on `exchange up` runs pg_receivewal. A replication slot keeps the log that pg_receivewal has not got
yet, up to `embedded.WAL_KEPT_MAX`.
"""

import hashlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import psycopg

from cli.local import embedded
from cli.local.processes import ProcessSpec
from cli.local.state_file import BACKUP_PROCESS
from cli.local.supervisor import end_with_parent
from runtime.settings import Settings

RECEIVER: Final = BACKUP_PROCESS
"""The process that `exchange up` runs, and its name at the server."""
SLOT: Final = "exchange_backup"
BASES_KEPT: Final = 2
_NAME: Final = "%Y%m%dT%H%M%SZ"
_LINE: Final = re.compile(r"\d{4}")
_SEGMENT: Final = re.compile(r"[0-9A-F]{24}")
_PARTIAL: Final = ".partial"
_COPY_BYTES: Final = 1 << 20
_PROGRESS: Final = re.compile(r"(\d+)/(\d+) kB")

Progress = Callable[[int, int], None]
"""Called with the bytes that are done and the total."""


class BackupError(RuntimeError):
    """A backup cannot be made or used; the message says why and what to do."""


class BackupNote(msgspec.Struct, frozen=True):
    """The contents of `backup.json` in the data folder: where this database's log is written."""

    line: str

    def folder(self) -> Path:
        """Return the folder of the line, which has the base backups and the log of one database."""
        return Path(self.line)


class Base(NamedTuple):
    """A complete base backup, and the time at which it was complete (UTC)."""

    folder: Path
    complete: datetime

    @property
    def wal_folder(self) -> Path:
        """The folder of the database's log (WAL) since this backup."""
        return self.folder.parent.parent / "wal"

    def first_segment(self) -> str:
        """Return the name of the segment of the log at which a recovery from this backup begins.

        Raises:
            BackupError: the backup does not say it.
        """
        try:
            label = (self.folder / "backup_label").read_text("utf-8")
        except OSError as error:
            raise BackupError(f"{self.folder} is no base backup: {error}") from error
        match = re.search(r"^START WAL LOCATION: .* \(file ([0-9A-F]{24})\)$", label, re.MULTILINE)
        if match is None:
            raise BackupError(f"{self.folder}/backup_label does not say where its log begins.")
        return match[1]


class Receiving(msgspec.Struct, frozen=True):
    """The progress of the log in the backup, according to the server."""

    active: bool
    """Whether pg_receivewal is connected."""
    lost: bool
    """The server no longer has the part that is missing in the backup."""
    behind_bytes: int


def backup_file(settings: Settings) -> Path:
    """Return the path of the file that names the data folder's backup."""
    return settings.data_dir / "backup.json"


def read_note(settings: Settings) -> BackupNote | None:
    """Return its contents; None: there is no backup of this data folder.

    Raises:
        BackupError: it cannot be read.
    """
    file = backup_file(settings)
    try:
        return msgspec.json.decode(file.read_bytes(), type=BackupNote)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise BackupError(f"{file} cannot be read: {error}") from error


def write_note(settings: Settings, note: BackupNote) -> None:
    """Write `backup.json` atomically."""
    file = backup_file(settings)
    unfinished = file.with_suffix(".new")
    unfinished.write_bytes(msgspec.json.encode(note))
    unfinished.replace(file)


def lines(folder: Path) -> list[Path]:
    """Return the lines of a backup folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _LINE.fullmatch(path.name) and path.is_dir())


def bases(line: Path) -> list[Base]:
    """Return the complete base backups of a line, oldest first."""
    bases_found = []
    for folder in sorted((line / "base").glob("*")):
        try:
            bases_found.append(Base(folder, datetime.strptime(folder.name, _NAME).replace(tzinfo=UTC)))
        except ValueError:  # an incomplete or foreign one
            continue
    return bases_found


def choose_base(folder: Path, to: datetime | None) -> Base:
    """Return the newest base backup of those that were complete at `to`.

    Only from its completion on a state is known to be consistent.

    Raises:
        BackupError: there is none.
    """
    every = [base for line in lines(folder) for base in bases(line)]
    if not every:
        raise BackupError(
            f"There is no base backup in {folder}; it is the folder that `exchange backup` was given."
        )
    usable = [base for base in every if to is None or base.complete <= to]
    if not usable:
        first = min(every, key=lambda base: base.complete)
        raise BackupError(
            f"The oldest base backup in {folder} is of {first.complete:%Y-%m-%dT%H:%M:%SZ}; earlier than "
            "that nothing can be recovered."
        )
    return max(usable, key=lambda base: base.complete)


def new_line(folder: Path) -> Path:
    """Create and return the folder of a new line.

    Only we may enter it: it contains everything that is in the database.
    """
    last = max((int(line.name) for line in lines(folder)), default=0)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    line = folder / f"{last + 1:04}"
    for part in (line, line / "base", line / "wal"):
        part.mkdir(mode=0o700)
    return line


def programs_of(settings: Settings, version: int | None = None) -> Path:
    """Return the folder of the PostgreSQL programs, which must have those for backups.

    Raises:
        embedded.ServerError, BackupError: there are none.
    """
    programs = embedded.find_postgres(settings.postgres_bin, version)
    if missing := [name for name in ("pg_basebackup", "pg_receivewal") if not (programs / name).exists()]:
        raise BackupError(
            f"{programs} has no {' and no '.join(missing)}; install PostgreSQL's client programs there."
        )
    return programs


def version_of_data(folder: Path) -> int:
    """Return PostgreSQL's major version of a data folder or base backup.

    Raises:
        BackupError: it has none.
    """
    try:
        return int((folder / "PG_VERSION").read_text("ascii"))
    except (OSError, ValueError) as error:
        raise BackupError(f"{folder} has no data of PostgreSQL: {error}") from error


def receiver() -> ProcessSpec:
    """Return the process that writes the log into the backup as the server writes it."""
    return ProcessSpec.of_module(RECEIVER, "cli.local.wal_receiver")


def receiver_arguments(settings: Settings) -> list[str]:
    """Return the command for pg_receivewal, which syncs each piece of the log to disk before confirming it.

    Raises:
        embedded.ServerError, BackupError: there is no backup, or no such program.
    """
    note = read_note(settings)
    if note is None:
        raise BackupError("There is no backup of this data folder; `exchange backup DIR` makes one.")
    programs = programs_of(settings, version_of_data(settings.data_dir / "postgres"))
    where = ("--directory", str(note.folder() / "wal"), "--slot", SLOT, "--synchronous", "--no-password")
    return [str(programs / "pg_receivewal"), "--dbname", _connection(settings), *where]


def _connection(settings: Settings) -> str:
    """Return the connection string for the programs.

    The password is in a file, since all users can see a process's arguments and environment.
    """
    file = settings.data_dir / "pgpass"
    file.touch(0o600)
    file.write_text(
        f"127.0.0.1:{settings.postgres_port}:*:exchange:{settings.password_file.read_text('ascii').strip()}\n",
        "ascii",
    )
    return (
        f"host=127.0.0.1 port={settings.postgres_port} user=exchange application_name={RECEIVER} "
        f"passfile='{_quoted(file.resolve())}'"
    )


def _quoted(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace("'", "\\'")


def make_slot(connection: psycopg.Connection[Any]) -> None:
    """Have the server keep its log from now on, until the backup has it."""
    connection.execute("SELECT pg_create_physical_replication_slot(%s, true)", (SLOT,))


def drop_slot(connection: psycopg.Connection[Any]) -> None:
    """Let the server forget a backup, after ending what follows with it."""
    connection.execute(
        "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = %s AND "
        "active",
        (SLOT,),
    )
    connection.execute(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", (SLOT,)
    )


def receiving(connection: psycopg.Connection[Any]) -> Receiving | None:
    """Return how far the log is in the backup; None: the server knows of no backup."""
    row = connection.execute(
        "SELECT slot.active, coalesce(slot.wal_status, 'lost') = 'lost', "
        "greatest(0, pg_wal_lsn_diff(pg_current_wal_flush_lsn(), coalesce(sender.flush_lsn, "
        "slot.restart_lsn)))::bigint FROM pg_replication_slots AS slot LEFT JOIN pg_stat_replication AS "
        "sender ON sender.pid = slot.active_pid WHERE slot.slot_name = %s",
        (SLOT,),
    ).fetchone()
    return None if row is None else Receiving(row[0], row[1], row[2] or 0)


def take_base(settings: Settings, line: Path, progress: Progress, now: Callable[[], datetime]) -> Base:
    """Make a base backup of the running server, verify each of its files, and return it.

    Raises:
        embedded.ServerError, BackupError: it cannot be made; an incomplete one is removed.
    """
    programs = programs_of(settings, version_of_data(settings.data_dir / "postgres"))
    unfinished = line / "base" / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    # With the log that was written meanwhile, so that it can be recovered by itself.
    arguments = (
        "--pgdata",
        str(unfinished),
        "--wal-method",
        "stream",
        "--checkpoint",
        "fast",
        "--no-password",
    )
    command = [str(programs / "pg_basebackup"), "--dbname", _connection(settings), *arguments]
    command += ["--manifest-checksums", "SHA256", "--progress"]
    try:
        _run(command, progress)
        for done, total in copied(unfinished, None):
            progress(done, total)
        # The next whole second: a recovery to the time in the backup's name must not be earlier than its end.
        complete = now().replace(microsecond=0) + timedelta(seconds=1)
        if older := bases(line):
            complete = max(complete, older[-1].complete + timedelta(seconds=1))
        base = Base(unfinished.with_name(f"{complete:{_NAME}}"), complete)
        unfinished.rename(base.folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return base


def _run(command: Sequence[str], progress: Progress) -> None:
    """Run pg_basebackup, and parse the lines with its progress."""
    output = bytearray()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=end_with_parent(signal.SIGTERM),
    ) as process:
        assert process.stderr is not None
        try:
            while chunk := os.read(process.stderr.fileno(), 65_536):
                output = (output + chunk)[-65_536:]
                if sizes := _PROGRESS.findall(output.decode(errors="replace")):
                    progress(int(sizes[-1][0]) * 1024, int(sizes[-1][1]) * 1024)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        lines_said = [
            line for line in output.decode(errors="replace").splitlines() if not _PROGRESS.search(line)
        ]
        raise BackupError("pg_basebackup failed:\n" + "\n".join(lines_said[-10:]))


def copied(base: Path, target: Path | None) -> Iterator[tuple[int, int]]:
    """Check the files of a base backup against its manifest, and copy them to `target` unless that is None.

    Yield how many bytes are done and how many there are. pg_verifybackup checks the same, but the package
    that comes along does not have it, and to copy would be to read everything once more.

    Raises:
        BackupError: a file is missing, or has other bytes than were written.
    """
    try:
        manifest = msgspec.json.decode((base / "backup_manifest").read_bytes(), type=_Manifest)
    except (OSError, msgspec.MsgspecError) as error:
        raise BackupError(f"{base} has no manifest that can be read: {error}") from error
    # What the log of the base backup itself is has no checksum in the manifest; the server checks each record
    # of it.
    log = [path.relative_to(base) for path in sorted((base / "pg_wal").rglob("*")) if path.is_file()]
    done, total = (
        0,
        sum(file.size for file in manifest.files) + sum((base / path).stat().st_size for path in log),
    )
    if target is not None:
        for folder in (path for path in base.rglob("*") if path.is_dir()):
            (target / folder.relative_to(base)).mkdir(mode=0o700, parents=True, exist_ok=True)
    wanted = [(Path(file.path), file) for file in manifest.files]
    for path, file in (*wanted, *((path, None) for path in log)):
        digest, size = hashlib.sha256(), 0
        try:
            for chunk in _chunks(base / path, target and target / path):
                digest.update(chunk)
                size += len(chunk)
                done += len(chunk)
                yield done, total
        except FileNotFoundError as error:
            raise BackupError(
                f"{error.filename} is missing: use an older base backup (--to), or another copy."
            ) from error
        if file is not None and (size, digest.hexdigest()) != (file.size, file.checksum):
            raise BackupError(f"{base / path} is damaged: use an older base backup (--to), or another copy.")


class _ManifestFile(msgspec.Struct, rename={"path": "Path", "size": "Size", "checksum": "Checksum"}):
    path: str
    size: int
    checksum: str


class _Manifest(msgspec.Struct, rename={"files": "Files"}):
    files: list[_ManifestFile]


def _chunks(source: Path, target: Path | None) -> Iterator[bytes]:
    with source.open("rb") as read:
        written = None if target is None else target.open("wb")
        try:
            while chunk := read.read(_COPY_BYTES):
                if written is not None:
                    written.write(chunk)
                yield chunk
        finally:
            if (
                written is not None
            ):  # to disk goes it with everything else: PostgreSQL syncs a copy before it replays the log
                written.close()


def prune(settings: Settings, line: Path, keep: int) -> int:
    """Remove base backups but the newest `keep`, and the log before the oldest that is left.

    Return how many backups were removed.

    Raises:
        BackupError: the log cannot be removed.
    """
    every = bases(line)
    doomed, kept = every[:-keep], every[-keep:]
    for base in doomed:
        shutil.rmtree(base.folder)
    if doomed:
        first = kept[0].first_segment()
        for segment in wal_segments(line / "wal"):
            if segment < first:
                (line / "wal" / segment).unlink()
    return len(doomed)


def wal_segments(folder: Path) -> list[str]:
    """Return the names of the segments that are whole, oldest first.

    There is one line of history in a folder.
    """
    return sorted(path.name for path in folder.glob("*") if _SEGMENT.fullmatch(path.name))


def wal_since(base: Base) -> Iterator[tuple[Path, str]]:
    """Yield the log files that a recovery from `base` reads, with the server's name of each.

    Raises:
        BackupError: there is a gap.
    """
    first, segments = base.first_segment(), wal_segments(base.wal_folder)
    needed = [name for name in segments if name >= first]
    partial = max((path for path in base.wal_folder.glob(f"*{_PARTIAL}")), default=None)
    names = needed + (
        [partial.name.removesuffix(_PARTIAL)] if partial is not None and partial.stem >= first else []
    )
    for earlier, later in zip([first, *names], names, strict=False):
        if _number(later) - _number(earlier) > 1:
            raise BackupError(
                f"{base.wal_folder} has nothing between {earlier} and {later}: recover an earlier time "
                "(--to), or from another copy."
            )
    for name in needed:
        yield base.wal_folder / name, name
    if partial is not None and len(names) > len(needed) and names[-1] not in needed:
        yield partial, names[-1]


def _number(segment: str) -> int:
    """Return a segment's place; with segments of 16 MB there are 256 to each of the middle part's numbers."""
    return (int(segment[8:16], 16) << 8) + int(segment[16:], 16)
