"""What was acknowledged outlives the server that it was acknowledged on: every supported server, with every
ACL file that is shipped.

Orders go to an engine worker while the server rewrites its log, is killed and started again. The control runs
with the ACL files of before: Redis from 7.0 on then leaves out, when it starts, what scripts wrote.
"""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
import redis

from protocol import streams
from stream_log.durability import NotDurableError, check_durability
from tests.support.acl_servers import (
    ACL_FILES,
    DEADLINE_S,
    WINDOW,
    AclFile,
    Server,
    Trader,
    _program,
    engine_worker,
    server_with_engine,
)
from tests.support.eventually import eventually
from tests.support.redis_programs import redis_programs

ORDERS: Final = 400
"""Acknowledged before each kill of the server."""
KILLS: Final = 2
FAULTY: Final = "user default off"
NO_REWRITE: Final = ("--auto-aof-rewrite-percentage", "0")
SOUND: Final = "user default off allkeys allchannels +@all"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return redis_programs(tmp_path_factory.mktemp("programs") / "links")


@contextmanager
def unchecked_engine(
    program: Path, folder: Path, acl: AclFile
) -> Iterator[tuple[Server, Trader, subprocess.Popen[bytes]]]:
    """As `server_with_engine`, on a server that does not rewrite its log, whatever it would lose."""
    with server_with_engine(
        program, folder, acl, NO_REWRITE, redis_durability_check_enabled="false"
    ) as running:
        yield running


def lost_after_restarts(program: Path, folder: Path, acl: AclFile) -> set[str]:
    """Return the acknowledged orders that are gone after the server was killed and started again, several
    times."""
    with server_with_engine(program, folder, acl) as (server, trader, _):
        trader.deposit()
        for _ in range(KILLS):
            before = server.rewrites()
            trader.trade(ORDERS)
            eventually("a rewrite of the log", lambda before=before: server.rewrites() > before, DEADLINE_S)  # type: ignore[misc]
            trader.trade(WINDOW)
            server.kill()
            server.start()
        trader.trade(ORDERS)
        assert len(trader.acknowledged) >= (KILLS + 1) * ORDERS
        return trader.acknowledged - trader.open_orders()


@pytest.mark.parametrize("acl", ACL_FILES)
@pytest.mark.parametrize("server", ["Valkey 9", "Redis 6.2", "Redis 7", "Redis 8"])
def test_no_acknowledged_order_is_lost(
    programs: dict[str, Path], tmp_path: Path, server: str, acl: str
) -> None:
    assert lost_after_restarts(_program(programs, server), tmp_path, ACL_FILES[acl]) == set()


def faulty(acl: AclFile) -> AclFile:
    """Return the ACL file as it was before: the user `default` may do nothing."""
    return acl._replace(text=re.sub(r"^user default .*$", FAULTY, acl.text, flags=re.MULTILINE))


@pytest.mark.parametrize("acl", ACL_FILES)
def test_with_the_acl_of_before_redis_7_loses_what_scripts_wrote(
    programs: dict[str, Path], tmp_path: Path, acl: str
) -> None:
    # The control, with the check of the engine worker switched off; it would not have opened.
    program, old = _program(programs, "Redis 7"), faulty(ACL_FILES[acl])
    with unchecked_engine(program, tmp_path, old) as (server, trader, engine):
        trader.deposit()
        trader.trade(ORDERS)
        engine.kill()
        with server.client() as client:
            assert client.xlen(streams.events(0)) > 0
            server.kill()
            server.start(*NO_REWRITE)
            assert client.xlen(streams.events(0)) == 0


def test_a_shard_does_not_open_on_a_server_that_would_lose_it(
    programs: dict[str, Path], tmp_path: Path
) -> None:
    acl = faulty(ACL_FILES["cli/redis_users.acl"])
    with server_with_engine(_program(programs, "Redis 7"), tmp_path, acl) as (server, _, engine):
        assert engine.wait(DEADLINE_S) == 4
        with server.client() as client:
            assert client.get(streams.position(0)) is None
            halted = client.get(streams.halted(0))
            assert isinstance(halted, bytes)
    assert b"its user `default` may not do SET on every key" in halted
    assert b"user default off allkeys allchannels +@all" in halted


def test_a_standby_that_may_not_stand_by_stops_nobody_and_comes_by_itself(
    programs: dict[str, Path], tmp_path: Path
) -> None:
    acl = ACL_FILES["cli/redis_users.acl"]
    with server_with_engine(_program(programs, "Valkey 9"), tmp_path, acl) as (server, trader, _):
        trader.deposit()
        with server.client() as client:
            client.config_set("appendonly", "no")
            name = "engine-0-standby"
            with engine_worker(tmp_path, name, redis_url=server.url(acl.engine), engine=name) as standby:
                log = tmp_path / name
                eventually(
                    "a refusal", lambda: "this worker cannot stand by" in log.read_text("utf-8"), DEADLINE_S
                )
                assert standby.poll() is None
                assert client.get(streams.halted(0)) is None
                trader.trade(WINDOW)
                client.config_set("appendonly", "yes")
                eventually("a standby", lambda: client.hlen(streams.standbys(0)), DEADLINE_S)


def test_data_that_a_restart_left_out_come_back_when_the_acl_is_right(
    programs: dict[str, Path], tmp_path: Path
) -> None:
    # docs/how-to/back-up-and-restore.md, "Redis is empty after a restart". The log still has all of it as
    # long as it is not rewritten.
    acl = ACL_FILES["cli/redis_users.acl"]
    with unchecked_engine(_program(programs, "Redis 7"), tmp_path, faulty(acl)) as (server, trader, engine):
        trader.deposit()
        trader.trade(ORDERS)
        engine.kill()
        with server.client() as client:
            events = client.xlen(streams.events(0))
            server.kill()
            server.start(*NO_REWRITE)
            assert client.xlen(streams.events(0)) == 0 < events
            server.kill()
            server.write_acl(acl.text)
            server.start(*NO_REWRITE)
            assert client.xlen(streams.events(0)) == events


@pytest.mark.parametrize("server", ["Redis 6.2", "Redis 7", "Redis 8"])
def test_valkey_takes_over_the_data_of_another_server(
    programs: dict[str, Path], tmp_path: Path, server: str
) -> None:
    # docs/how-to/upgrade.md, "From Redis to Valkey": Redis 8 writes a form that Valkey does not read, until
    # it is told to write commands.
    acl = ACL_FILES["cli/redis_users.acl"]
    with server_with_engine(_program(programs, server), tmp_path, acl) as (old, trader, engine):
        trader.deposit()
        trader.trade(ORDERS)
        engine.terminate()
        assert engine.wait(DEADLINE_S) == 0
        with old.client() as client:
            client.config_set("aof-use-rdb-preamble", "no")
            eventually(
                "an end of other rewrites", lambda: not client.info("persistence")["aof_rewrite_in_progress"]
            )
            before = old.rewrites()
            client.bgrewriteaof()
            eventually("a rewrite of the log", lambda: old.rewrites() > before, DEADLINE_S)
        old.kill()
        with server_with_engine(_program(programs, "Valkey 9"), tmp_path, acl) as (new, _, _):
            successor = Trader(new.url(acl.trader), tmp_path)
            assert trader.acknowledged - successor.open_orders() == set()
            successor.close()


CANARY: Final = "redis.call('SET', KEYS[1], '1') redis.call('XADD', KEYS[2], '*', 'f', 'v')"


def says_sound(client: redis.Redis) -> bool:
    """Return whether the check finds nothing, asked over a connection as an engine worker has it."""
    connection = client.connection_pool.get_connection()

    def ask(*parts: str) -> object:
        connection.send_command(*parts)  # type: ignore[no-untyped-call]
        return connection.read_response()

    try:
        check_durability(ask)
    except NotDurableError:
        return False
    finally:
        client.connection_pool.release(connection)
    return True


@pytest.mark.parametrize("default", [FAULTY, SOUND])
def test_the_check_says_what_a_canary_shows(programs: dict[str, Path], tmp_path: Path, default: str) -> None:
    """A script writes, the server is killed and started again: what the check says is what becomes of it, on
    every server there is."""
    for number, (name, program) in enumerate(programs.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        server = Server(program, folder, AclFile(default, "test:test", "test:test"))
        try:
            server.start()
            with server.client() as client:
                client.eval(CANARY, 2, "a", "b")
                is_sound = says_sound(client)
                server.kill()
                server.start()
                survived = client.exists("a", "b") == 2
            assert is_sound == survived, f"{name}: the check says {is_sound}, and the canary {survived}"
            assert is_sound or default == FAULTY
        finally:
            server.kill()
