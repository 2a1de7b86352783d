"""What `exchange backup` and `recover` refuse, and which base backup is chosen."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.commands.backup import backup
from cli.commands.recover import recover
from cli.local.backups import BackupError, Base, bases, choose_base, new_line, wal_since

FIRST = datetime(2026, 1, 30, 12, 0, 5, tzinfo=UTC)
SECOND = datetime(2026, 1, 31, 12, 0, 5, tzinfo=UTC)
LABEL = "START WAL LOCATION: 0/FE000028 (file 0000000100000000000000FE)\nCHECKPOINT LOCATION: 0/FE000080\n"


def base(line: Path, name: str) -> Path:
    folder = line / "base" / name
    folder.mkdir()
    (folder / "backup_label").write_text(LABEL)
    return folder


def wal(line: Path, *names: str) -> None:
    for name in names:
        (line / "wal" / name).touch()


def said(command: object, environment: dict[str, str], *arguments: str) -> str:
    result = CliRunner().invoke(command, list(arguments), env=environment)  # type: ignore[arg-type]
    assert result.exit_code == 1, result.output
    return " ".join(result.output.replace("│", " ").split())


def test_the_newest_base_backup_before_a_moment_is_chosen(tmp_path: Path) -> None:
    older = new_line(tmp_path)
    base(older, "20260130T120005Z")
    newer = new_line(tmp_path)
    base(newer, "20260131T120005Z")
    for stranger in ("unfinished", "notes", "20260199T120005Z"):
        base(newer, stranger)
    (tmp_path / "lost+found").mkdir()
    assert (older.name, newer.name) == ("0001", "0002")
    assert [each.complete for each in bases(newer)] == [SECOND]
    assert choose_base(tmp_path, None).complete == SECOND
    assert choose_base(tmp_path, SECOND).complete == SECOND
    assert choose_base(tmp_path, SECOND.replace(second=4)).complete == FIRST
    with pytest.raises(BackupError, match="is of 2026-01-30T12:00:05Z; earlier"):
        choose_base(tmp_path, FIRST.replace(second=4))
    with pytest.raises(BackupError, match="There is no base backup in"):
        choose_base(tmp_path / "elsewhere", None)


def test_the_log_since_a_base_backup(tmp_path: Path) -> None:
    line = new_line(tmp_path)
    found = Base(base(line, "20260130T120005Z"), FIRST)
    assert list(wal_since(found)) == []
    # 256 segments to a number of the middle part; what is older is not read.
    wal(
        line,
        "0000000100000000000000FD",
        "0000000100000000000000FE",
        "0000000100000000000000FF",
        "000000010000000100000000",
    )
    wal(line, "000000010000000100000001.partial", "00000002.history")
    assert [name for _, name in wal_since(found)] == [
        "0000000100000000000000FE",
        "0000000100000000000000FF",
        "000000010000000100000000",
        "000000010000000100000001",
    ]
    (line / "wal" / "0000000100000000000000FF").unlink()
    with pytest.raises(
        BackupError, match="nothing between 0000000100000000000000FE and 000000010000000100000000"
    ):
        list(wal_since(found))


def test_only_the_embedded_database_is_backed_up_and_recovered(tmp_path: Path) -> None:
    own = {
        "EXCHANGE_DATA_DIR": str(tmp_path),
        "EXCHANGE_DATABASE_URL": "postgresql://db.example.com/exchange",
    }
    assert "point-in-time recovery or pgBackRest" in said(backup, own, str(tmp_path / "b"))
    assert "point-in-time recovery or pgBackRest" in said(backup, own, "--status")
    assert "is recovered by its own means" in said(recover, own, str(tmp_path))


def test_what_to_do_next_is_said(tmp_path: Path) -> None:
    environment = {"EXCHANGE_DATA_DIR": str(tmp_path / "data")}
    assert "Start it with `exchange up`" in said(backup, environment, str(tmp_path / "b"))
    assert "`exchange backup DIR` makes one" in said(backup, environment, "--status")
    assert "it is the folder that `exchange backup` was given" in said(recover, environment, str(tmp_path))
    assert "is neither a time like" in said(recover, environment, str(tmp_path), "--to", "noon")
    (tmp_path / "data" / "postgres").mkdir(parents=True)
    (tmp_path / "data" / "postgres" / "PG_VERSION").touch()
    assert "Move the folder away" in said(recover, environment, str(tmp_path))
    assert CliRunner().invoke(backup, [], env=environment).exit_code == 2
