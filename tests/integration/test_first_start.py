"""The first start of an exchange: nothing is ready without the schema, however long the database and its
migration take."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import httpx
import psycopg
import pytest
import redis

from persist import first_start
from persist.first_start import SchemaNote, await_schema
from persist.migrate import Flavour, MigrationError, migrate, migrations_of, missing_migrations
from protocol import streams
from runtime.schema import SCHEMA_NUMBER, note_schema, read_schema
from runtime.settings import PREFIX, Settings
from tests.support.eventually import eventually
from tests.support.own_servers import OwnPostgres, OwnRedis
from tests.support.probed_processes import Running

NOBODY: Final = "postgresql://exchange:none@127.0.0.1:1/exchange"
NEEDS_SCHEMA: Final = ("gateway", "ws-edge", "nudger", "worker")
TIMEOUT_S: Final = 60


@pytest.fixture
def empty_url(postgres_server: str) -> Iterator[str]:
    """A database that nothing was ever done to."""
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS first_start WITH (FORCE)")
        connection.execute("CREATE DATABASE first_start TEMPLATE template0")
        yield f"{postgres_server.rpartition('/')[0]}/first_start"
        connection.execute("DROP DATABASE first_start WITH (FORCE)")


class Part:
    """`python -m persist.main PART` and what it says."""

    def __init__(
        self, part: str, folder: Path, database_url: str, redis_url: str = "redis://127.0.0.1:1"
    ) -> None:
        self._output = (folder / f"{part}.log").open("w+")
        own = {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "DATA_DIR": str(folder),
            "LOG_FORMAT": "json",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "persist.main", part],
            env={**os.environ, **{PREFIX + name: value for name, value in own.items()}},
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )

    def said(self) -> str:
        self._output.seek(0)
        return self._output.read()

    def says(self, what: str) -> None:
        eventually(f"it says {what!r}: {self.said()}", lambda: re.search(what, self.said()), TIMEOUT_S)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._output.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Part]]:
    with ExitStack() as stack:

        def started(*arguments: str) -> Part:
            part = Part(arguments[0], tmp_path, *arguments[1:])
            stack.callback(part.end)
            return part

        yield started


def test_the_number_that_processes_need_is_that_of_the_newest_migration() -> None:
    assert {migrations_of(flavour)[-1].number for flavour in Flavour} == {SCHEMA_NUMBER}


def test_migrate_waits_for_a_database_that_comes_later(
    own_postgres: OwnPostgres, start: Callable[..., Part]
) -> None:
    part = start("migrate", own_postgres.url)
    part.says(r'"reason": ".*(refused|not accepting|starting up).*"seconds": 0.*waiting for the database')
    time.sleep(1.0)
    assert part.process.poll() is None
    own_postgres.start()
    assert part.process.wait(TIMEOUT_S) == 0
    assert "the schema is there" in part.said()
    assert "Traceback" not in part.said()
    assert missing_migrations(own_postgres.url, 5) == []


def test_a_database_that_goes_away_and_comes_back_meanwhile_is_waited_for(
    empty_url: str, start: Callable[..., Part]
) -> None:
    with psycopg.connect(empty_url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (0x65786368,))
        part = start("migrate", empty_url)
        waits = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'SELECT pg_try_advisory_lock%'"
        (pid,) = eventually("it waits for its turn", lambda: other.execute(waits).fetchone(), TIMEOUT_S)
        other.execute("SELECT pg_terminate_backend(%s)", (pid,))
        part.says("waiting for the database")
    assert part.process.wait(TIMEOUT_S) == 0
    assert "Traceback" not in part.said()


@pytest.mark.parametrize("part", ["migrate", "await"])
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (
            lambda url: url.replace("//exchange:", "//exchange:wrong"),
            "password authentication failed for user",
        ),
        (lambda url: f"{url}_never_made", 'database "first_start_never_made" does not exist'),
        (lambda url: f"{url}?nonsense=1", 'invalid URI query parameter: "nonsense"'),
        (lambda url: url.replace("postgresql://", ""), 'missing "=" after "…@'),
    ],
)
def test_what_waiting_cannot_cure_ends_it_with_one_line(
    empty_url: str, start: Callable[..., Part], part: str, wrong: Callable[[str], str], says: str
) -> None:
    if os.environ.get("TEST_DATABASE_URL") and "password" in says:
        pytest.skip("that server may let anybody in")
    failed = start(part, wrong(empty_url))
    assert failed.process.wait(TIMEOUT_S) == 1
    assert says in failed.said()
    assert "Traceback" not in failed.said()
    assert empty_url.split(":")[2].split("@")[0] not in failed.said(), "a password does not belong into a log"
    assert len(failed.said().strip().splitlines()) == 2


def test_a_signal_ends_the_wait(start: Callable[..., Part]) -> None:
    for name, code in (("migrate", 1), ("await", 0)):
        part = start(name, NOBODY)
        part.says("waiting for")
        part.process.terminate()
        assert part.process.wait(TIMEOUT_S) == code
        assert "Traceback" not in part.said()


def test_await_goes_on_without_the_database_only_where_its_schema_was_seen(
    redis_url: str, start: Callable[..., Part]
) -> None:
    part = start("await", NOBODY, redis_url)
    part.says('"reason": ".*refused.*waiting for the schema')
    time.sleep(2.0)
    assert part.process.poll() is None, "an exchange that never had a schema must not start without one"
    with redis.Redis.from_url(redis_url) as client:
        client.set(streams.schema(), SCHEMA_NUMBER - 1)
        time.sleep(1.0)
        assert part.process.poll() is None, "nor one whose schema is another version's"
        note_schema(client)
    assert part.process.wait(TIMEOUT_S) == 0
    assert "its schema was seen before" in part.said()


def test_a_changed_password_keeps_nobody_from_taking_orders(redis_url: str, empty_url: str) -> None:
    settings = Settings(database_url=f"{empty_url}_never_made", redis_url=redis_url)
    with redis.Redis.from_url(redis_url) as client:
        note_schema(client)
    await_schema(settings, threading.Event())


def test_await_never_leaves_a_database_without_its_schema(redis_url: str, empty_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        note_schema(client)  # another database's
    stopping, ended = threading.Event(), threading.Event()
    settings = Settings(database_url=empty_url, redis_url=redis_url)

    def wait() -> None:
        await_schema(settings, stopping, redis_away_s=0.0)
        ended.set()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    assert not ended.wait(2.0)
    migrate(empty_url)
    assert ended.wait(TIMEOUT_S)
    assert not stopping.is_set()


def test_where_nothing_answers_the_process_that_comes_next_waits() -> None:
    settings = Settings(database_url=NOBODY, redis_url="redis://127.0.0.1:1")
    began = time.monotonic()
    await_schema(settings, threading.Event(), redis_away_s=1.0)
    assert 1.0 <= time.monotonic() - began < TIMEOUT_S


def test_the_note_is_made_once_the_schema_is_there_and_again_in_a_new_redis(
    redis_url: str, empty_url: str
) -> None:
    with redis.Redis.from_url(redis_url) as client:
        note = SchemaNote(client, empty_url)
        note.step(0.0)
        assert "0001_exchange.sql" in (note.why_not() or "")
        assert read_schema(client) == 0
        migrate(empty_url)
        note.step(first_start.PERIOD_S)
        assert note.why_not() is None
        assert read_schema(client) == SCHEMA_NUMBER
        client.flushall()
        note.step(first_start.PERIOD_S + first_start.NOTE_PERIOD_S)
        assert read_schema(client) == SCHEMA_NUMBER


def test_a_wrong_password_is_an_error_of_the_migrations(empty_url: str) -> None:
    with pytest.raises(MigrationError, match="does not exist"):
        await_schema(Settings(database_url=f"{empty_url}_never_made"), threading.Event())


@pytest.fixture
def running(own_redis: OwnRedis, empty_url: str, tmp_path: Path) -> Iterator[Running]:
    with ExitStack() as stack:
        yield Running(own_redis.settings.resolved_redis_url(), empty_url, tmp_path, stack)


def test_nobody_is_ready_without_the_schema_and_everybody_with_it(
    running: Running, own_redis: OwnRedis, empty_url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    running.say_markets()
    for name in NEEDS_SCHEMA:
        running.start(name)
    for name, says in zip(
        NEEDS_SCHEMA, ("newest migration is 0", "newest migration is 0", "missing", "missing"), strict=True
    ):
        running.until(name, 503, says=says)
    credentials = {"email": "first@example.com", "password": "a long password"}

    def signed_up() -> httpx.Response:
        return httpx.post(f"{running.rest_url}/api/v1/signup", json=credentials)

    refused = signed_up()
    assert (refused.status_code, refused.json()["code"]) == (503, -1001)
    assert int(refused.headers["retry-after"]) >= 1
    time.sleep(2.0)
    assert {name: running.ready(name)[0] for name in NEEDS_SCHEMA} == dict.fromkeys(NEEDS_SCHEMA, 503)
    assert all(map(running.lives, NEEDS_SCHEMA))
    migrate(empty_url)
    for name in NEEDS_SCHEMA:
        running.until(name, 200)
    assert signed_up().status_code == 200
    with redis.Redis.from_url(own_redis.settings.resolved_redis_url()) as client:
        assert read_schema(client) == SCHEMA_NUMBER
    assert "Traceback" not in "".join(capfd.readouterr())


def test_without_the_database_who_serves_is_ready_only_where_the_schema_was_seen(
    running: Running, own_redis: OwnRedis
) -> None:
    running.say_markets()
    for name in ("gateway", "ws-edge"):
        running.start(name, database_url=NOBODY)
        running.until(name, 503, "schema", says="its schema was never seen")
    with redis.Redis.from_url(own_redis.settings.resolved_redis_url()) as client:
        note_schema(client)
    for name in ("gateway", "ws-edge"):
        running.until(name, 200)
    # Later the schema may be out of sight: clients hear from a process that is ready what is the matter.
    with redis.Redis.from_url(own_redis.settings.resolved_redis_url()) as client:
        client.delete(streams.schema())
    assert running.ready("gateway") == (200, {})
