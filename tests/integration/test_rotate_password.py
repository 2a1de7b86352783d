"""`exchange rotate-password`: the servers of before take the new password alone, and roles and processes
follow by themselves."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from click.testing import CliRunner

from cli.commands.rotate_password import rotate_password
from cli.local.embedded import password_draft
from cli.local.free_ports import free_port
from cli.needed_servers import servers_of_stopped
from persist.migrate import RoleLogins, migrate
from runtime.database_roles import ServiceRole, database_url_of
from runtime.settings import PREFIX, Settings, load_settings


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    # Not pytest's folder: PostgreSQL runs as another user, who may not enter that.
    folder = Path(tempfile.mkdtemp(prefix="exchange-test-"))
    folder.chmod(0o755)
    ports = {name: free_port() for name in ("REDIS_PORT", "CACHE_PORT", "POSTGRES_PORT")}
    for name, value in {
        "DATA_DIR": folder,
        "UP_METRICS_PORT": 0,
        "FRONTEND_ENABLED": "false",
        **ports,
    }.items():
        monkeypatch.setenv(PREFIX + name, str(value))
    for name in ("REST_PORT", "WS_PORT"):
        monkeypatch.setenv(PREFIX + name, str(free_port()))
    yield load_settings()
    shutil.rmtree(folder)


def urls(settings: Settings) -> list[str]:
    return [settings.resolved_database_url(), *(database_url_of(settings, role) for role in ServiceRole)]


def can_connect(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


def test_everybody_has_the_new_password_and_nobody_the_one_of_before(settings: Settings) -> None:
    with servers_of_stopped(settings, lambda _: None):
        migrate(settings.resolved_database_url(), logins=RoleLogins.of(settings))
        before, redis_before = urls(settings), settings.resolved_redis_url()
        assert all(map(can_connect, before))
        with redis.Redis.from_url(redis_before) as client:
            client.set("kept", "yes")
    done = CliRunner().invoke(rotate_password, [])
    assert done.exit_code == 0, done.output
    with servers_of_stopped(settings, lambda _: None):
        # What `exchange up` does next.
        migrate(settings.resolved_database_url(), logins=RoleLogins.of(settings))
        assert all(map(can_connect, urls(settings)))
        assert not any(map(can_connect, before))
        with redis.Redis.from_url(settings.resolved_redis_url()) as client:
            assert client.get("kept") == b"yes"
        with redis.Redis.from_url(redis_before) as client, pytest.raises(redis.AuthenticationError):
            client.ping()


def test_one_that_was_interrupted_says_so_at_the_next_start(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL has the new password by then, and of all files only the draft has it."""
    replace, draft = Path.replace, password_draft(settings)

    def interrupted(source: Path, target: Path) -> Path:
        if source == draft:
            raise KeyboardInterrupt
        return replace(source, target)

    with servers_of_stopped(settings, lambda _: None):
        before = settings.resolved_database_url()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", interrupted)
        assert CliRunner().invoke(rotate_password, []).exit_code != 0
    told = draft.read_text("ascii")
    again = CliRunner().invoke(rotate_password, [])
    assert (again.exit_code, "was interrupted" in again.output) == (1, True)
    assert draft.read_text("ascii") == told
    draft.replace(settings.password_file)  # as the message says
    with servers_of_stopped(settings, lambda _: None):
        assert can_connect(settings.resolved_database_url())
        assert not can_connect(before)


def test_servers_of_ones_own_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(f"{PREFIX}DATA_DIR", str(tmp_path))
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", "postgresql://elsewhere/exchange")
    done = CliRunner().invoke(rotate_password, [])
    assert (done.exit_code, "for the servers that `exchange up` starts" in done.output) == (1, True)
