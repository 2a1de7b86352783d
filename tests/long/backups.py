"""Backups of a PostgreSQL of one's own: what takes several recoveries to see.
tests/integration/test_backups.py has the rest.

Run by `make test-long`; not part of `make test`, which does not collect files of such names.
"""

import shutil
import tempfile
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from cli.commands.backup import status
from cli.local import backups, embedded
from cli.local.backups import BackupError
from cli.local.free_ports import free_port
from cli.local.recovery import Recovered, recover
from runtime.settings import Settings
from tests.integration.conftest import backup, own_postgres
from tests.support.backups import Backup
from tests.support.own_servers import OwnPostgres

__all__ = ["backup", "own_postgres"]


def test_a_base_backup_is_recovered_without_any_log(backup: Backup) -> None:
    """It has what was written while it was made."""
    backup.add(1)
    base = backup.take()
    backup.add(2)
    assert backup.recovered(base) == ([1], Recovered(base, None))


def test_what_was_written_while_nothing_followed_is_in_the_backup_later(backup: Backup) -> None:
    with backup.receiving():
        base = backup.take()
        backup.add(1)
    for number in range(2, 6):
        backup.add(number)
        backup.switch()
    assert backup.behind() is None
    with backup.receiving():
        backup.add(6)
    assert backup.recovered(base)[0] == [1, 2, 3, 4, 5, 6]


def test_older_base_backups_go_and_the_log_before_them(backup: Backup) -> None:
    with backup.receiving():
        made = []
        for number in range(4):
            backup.add(number)
            made.append(backup.take())
            backup.switch()
        assert backups.prune(backup.settings, backup.line, 2) == 2
        assert backups.prune(backup.settings, backup.line, 2) == 0
    assert backups.bases(backup.line) == made[2:]
    assert min(backups.wal_segments(backup.line / "wal")) == made[2].first_segment()
    assert backup.recovered(made[2])[0] == [0, 1, 2, 3]
    assert backups.choose_base(backup.folder, None) == made[3]
    assert backups.choose_base(backup.folder, made[3].complete) == made[3]
    assert backups.choose_base(backup.folder, made[3].complete - timedelta(seconds=1)) == made[2]
    with pytest.raises(BackupError, match="earlier than that nothing can be recovered"):
        backups.choose_base(backup.folder, made[2].complete - timedelta(seconds=1))


def test_what_was_recovered_is_backed_up_and_recovered_in_turn(backup: Backup) -> None:
    """A recovered database goes on in a timeline of its own; its log stands in a line of its own."""
    backup.add(1)
    first = backup.take()
    backup.connection.close()
    backup.server.kill()
    backup.settings.data_dir.joinpath("postgres").rename(backup.settings.data_dir / "before")
    recover(backup.settings, first, None, lambda _done, _total: None, lambda _: None)
    assert backups.read_note(backup.settings) is None
    backup.server.start()
    backup.connection = psycopg.connect(backup.server.url, autocommit=True)
    assert backup.begin().name == "0002"
    with backup.receiving():
        second = backup.take()
        assert second.first_segment().startswith("00000002")
        backup.add(2)
        backup.switch()
        backup.add(3)
    assert backups.choose_base(backup.folder, None) == second
    assert backup.recovered(second)[0] == [1, 2, 3]
    assert backup.recovered(first)[0] == [1]


def test_an_interrupted_recovery_is_repeated(backup: Backup) -> None:
    backup.add(1)
    base = backup.take()
    folder = Path(tempfile.mkdtemp(prefix="exchange-test-"))
    folder.chmod(0o755)
    settings = Settings(data_dir=folder, postgres_port=free_port(), postgres_bin=backup.settings.postgres_bin)

    def interrupt(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recover(settings, base, None, interrupt, lambda _: None)
    (folder / "postgres.recovering").mkdir()
    (folder / "postgres.recovering" / "left").touch()
    assert recover(settings, base, None, lambda _done, _total: None, lambda _: None).base == base
    assert not (folder / "postgres" / "left").exists()
    shutil.rmtree(folder)


def test_a_backup_that_does_not_follow_does_not_fill_the_disk(
    own_postgres: OwnPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the limit the server lets go of the log, says so, and the next backup begins anew."""
    monkeypatch.setattr(embedded, "WAL_KEPT_MAX", "32MB")
    backup = Backup(own_postgres, tmp_path / "backup")
    with backup.receiving():
        backup.take()
    for number in range(6):
        backup.add(number)
        backup.switch()
    backup.connection.execute("CHECKPOINT")
    found = backups.receiving(backup.connection)
    assert found is not None
    assert found.lost
    assert "the log has a gap" in status(backup.settings).problem
    assert backup.begin().name == "0002"
    with backup.receiving():
        base = backup.take()
        backup.add(7)
    assert backup.recovered(base)[0] == [0, 1, 2, 3, 4, 5, 7]
    assert backups.choose_base(backup.folder, None) == base
    backup.connection.close()
