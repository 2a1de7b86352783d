"""Backups of a PostgreSQL of one's own: what is copied, checked, removed, found damaged, and put back."""

import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cli.commands.backup import status
from cli.local import backups, embedded
from cli.local.backups import BackupError
from runtime.settings import Settings
from tests.support.backups import Backup
from tests.support.eventually import eventually


def test_every_moment_since_the_base_backup_comes_back(backup: Backup) -> None:
    backup.add(1)
    with backup.receiving():
        base = backup.take()
        time.sleep(1)  # a base backup is named after the next whole second
        second = backup.add(2)
        assert base.complete < second
        backup.switch()
        third = backup.add(3)
        backup.connection.execute("SELECT pg_sleep(0.01)")
        backup.add(4)
    assert (backup.folder.stat().st_mode & 0o777, backup.line.stat().st_mode & 0o777) == (0o700, 0o700)
    numbers, found = backup.recovered(base)
    assert numbers == [1, 2, 3, 4]
    assert found.last_commit is not None
    assert found.last_commit > third
    assert backup.recovered(base, third + timedelta(milliseconds=5))[0] == [1, 2, 3]
    assert backup.recovered(base, second - timedelta(microseconds=1))[0] == [1]
    with pytest.raises(BackupError, match="ends before that time; its last transaction is of"):
        backup.recovered(base, datetime.now(UTC) + timedelta(hours=1))


def test_damage_and_gaps_are_found_before_anything_is_put_in_place(backup: Backup) -> None:
    with backup.receiving():
        base = backup.take()
        for number in range(4):
            backup.add(number)
            backup.switch()
    second = backups.wal_segments(backup.line / "wal")[2]
    moved = backup.folder / "moved"
    (backup.line / "wal" / second).rename(moved)
    with pytest.raises(BackupError, match=r"has nothing between .* and "):
        backup.recovered(base)
    moved.rename(backup.line / "wal" / second)
    largest = max(
        (path for path in (base.folder / "base").rglob("*") if path.is_file()),
        key=lambda it: it.stat().st_size,
    )
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with pytest.raises(BackupError, match=f"{largest.name} is damaged: use an older base backup"):
        backup.recovered(base)
    largest.unlink()
    with pytest.raises(BackupError, match="is missing: use an older base backup"):
        backup.recovered(base)


def test_status_says_what_is_wrong(backup: Backup) -> None:
    again = f"run `exchange backup {backup.folder}` again"
    assert status(backup.settings).problem == f"no base backup is complete: {again}"
    backup.take()
    assert "the log is not written into the backup" in status(backup.settings).problem
    with backup.receiving():
        eventually("it follows", lambda: status(backup.settings).ok)
    backups.drop_slot(backup.connection)
    assert status(backup.settings).problem == f"the server knows of no backup: {again}"
    shutil.move(backup.line, backup.folder / "elsewhere")
    assert status(backup.settings).problem == f"{backup.line} is not there: is its disk mounted?"
    backups.backup_file(backup.settings).unlink()
    with pytest.raises(BackupError, match="There is no backup of this database"):
        status(backup.settings)


def test_a_password_is_in_no_argument(backup: Backup) -> None:
    password = backup.settings.password_file.read_text("ascii").strip()
    assert not any(password in argument for argument in backups.receiver_arguments(backup.settings))
    assert (backup.settings.data_dir / "pgpass").stat().st_mode & 0o077 == 0


def test_programs_that_are_missing_are_named(tmp_path: Path) -> None:
    programs = embedded.find_postgres()
    few = tmp_path / "bin"
    few.mkdir()
    for name in ("postgres", "initdb"):
        (few / name).symlink_to(programs / name)
    (few / "pg_basebackup").touch()
    with pytest.raises((BackupError, embedded.ServerError), match=r"pg_receivewal|No PostgreSQL"):
        backups.programs_of(Settings(data_dir=tmp_path, postgres_bin=str(few)))
