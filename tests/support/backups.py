"""A backup of a PostgreSQL of the test."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from cli.local import backups
from cli.local.backups import BackupNote, Base
from cli.local.free_ports import free_port
from cli.local.recovery import Recovered, recover
from runtime.settings import Settings
from tests.support.eventually import eventually
from tests.support.own_servers import OwnPostgres


class Backup:
    """A database with a table of numbers, and its backup."""

    def __init__(self, server: OwnPostgres, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.settings = server.settings
        server.start()
        self.connection: psycopg.Connection[Any] = psycopg.connect(server.url, autocommit=True)
        self.connection.execute(
            "CREATE TABLE numbers (number bigint, at timestamptz DEFAULT clock_timestamp())"
        )
        self.line = self.begin()

    def begin(self) -> Path:
        backups.drop_slot(self.connection)
        backups.make_slot(self.connection)
        self.line = backups.new_line(self.folder)
        backups.write_note(self.settings, BackupNote(str(self.line)))
        return self.line

    def add(self, number: int) -> datetime:
        row = self.connection.execute("INSERT INTO numbers VALUES (%s) RETURNING at", (number,)).fetchone()
        assert row is not None
        return row[0]  # type: ignore[no-any-return]

    def take(self) -> Base:
        return backups.take_base(
            self.settings, self.line, lambda _done, _total: None, lambda: datetime.now(UTC)
        )

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """Follow while the context lasts; at its end everything is in the backup."""
        process = subprocess.Popen(backups.receiver_arguments(self.settings), stderr=subprocess.DEVNULL)
        try:
            yield
            eventually("the log in the backup", lambda: self.behind() == 0)
        finally:
            process.terminate()
            process.wait()

    def behind(self) -> int | None:
        found = backups.receiving(self.connection)
        return found.behind_bytes if found is not None and found.active else None

    def switch(self) -> None:
        """End a segment of the log."""
        self.connection.execute("SELECT pg_switch_wal()")

    def recovered(self, base: Base, to: datetime | None = None) -> tuple[list[int], Recovered]:
        """Recover into a data folder of its own, and return the numbers that are there."""
        folder = Path(tempfile.mkdtemp(prefix="exchange-test-"))
        folder.chmod(0o755)
        server = OwnPostgres(folder)
        server.settings = Settings(
            data_dir=folder / "100%f of 'another'",
            postgres_port=free_port(),
            postgres_bin=self.settings.postgres_bin,
        )
        said: list[str] = []
        try:
            found = recover(server.settings, base, to, lambda _done, _total: None, said.append)
            server.start()
            with psycopg.connect(server.settings.resolved_database_url()) as connection:
                rows = connection.execute("SELECT number FROM numbers ORDER BY 1").fetchall()
                assert connection.execute("SHOW archive_mode").fetchone() == ("off",)
                assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (False,)
            assert not (server.settings.data_dir / "wal.recovering").exists()
            return [number for (number,) in rows], found
        finally:
            server.kill()
            shutil.rmtree(folder)
