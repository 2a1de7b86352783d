"""What a server says of itself, and whether a restart would give back what was written."""

from collections.abc import Mapping

import pytest
import redis

from stream_log.durability import NotDurableError, check_durability

LOGGED = "# Persistence\r\nloading:0\r\naof_enabled:1\r\n"
RIGHT = "OK"
WRONG = "User default has no permissions to run the 'set' command"


def server(**fields: str) -> str:
    return "# Server\r\n" + "".join(f"{name}:{value}\r\n" for name, value in fields.items())


REDIS_6 = server(redis_version="6.2.14")
REDIS_7 = server(redis_version="7.0.15")
REDIS_8 = server(redis_version="8.2.3")
VALKEY_8 = server(redis_version="7.2.4", server_name="valkey", valkey_version="8.1.1")
VALKEY_9_1_1 = server(redis_version="7.2.4", server_name="valkey", valkey_version="9.1.1")
VALKEY_9_1_2 = server(redis_version="7.2.4", server_name="valkey", valkey_version="9.1.2")


def hazard(
    about: str,
    persistence: str = LOGGED,
    answers: Mapping[str, str] | None = None,
    default: str = WRONG,
    policy: str = "noeviction",
) -> str:
    def ask(*parts: str) -> bytes:
        if parts[0] == "INFO":
            memory = f"maxmemory_policy:{policy}\r\n"
            return {"server": about, "persistence": persistence, "memory": memory}[parts[1]].encode()
        assert parts[:3] == ("ACL", "DRYRUN", "default")
        if default == "NOPERM":
            raise redis.exceptions.NoPermissionError(
                "this user has no permissions to run the 'acl|dryrun' command"
            )
        return (answers or {}).get(parts[3], default).encode()

    try:
        check_durability(ask)
    except NotDurableError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("about", [REDIS_6, VALKEY_9_1_2, server(valkey_version="10.0.0")])
def test_servers_that_replay_without_asking_are_sound_under_any_acl(about: str) -> None:
    assert hazard(about) == ""


@pytest.mark.parametrize(
    "about", [REDIS_7, REDIS_8, VALKEY_8, VALKEY_9_1_1, server(redis_version="9.0.0"), server()]
)
def test_the_others_must_let_their_user_default_write(about: str) -> None:
    assert "its user `default` may not do SET on every key" in hazard(about)
    assert hazard(about, default=RIGHT) == ""


def test_one_write_that_default_may_not_make_is_enough() -> None:
    assert "may not do XADD" in hazard(REDIS_7, answers={"XADD": WRONG}, default=RIGHT)


def test_a_server_that_may_not_be_asked_is_refused_with_the_remedy() -> None:
    said = hazard(REDIS_7, default="NOPERM")
    assert "+acl|dryrun" in said
    assert "user default off allkeys allchannels +@all" in said
    assert "EXCHANGE_REDIS_DURABILITY_CHECK_ENABLED=false" in said


@pytest.mark.parametrize("field", ["loading", "async_loading"])
def test_a_server_that_loads_is_asked_again(field: str) -> None:
    with pytest.raises(redis.BusyLoadingError):
        hazard(VALKEY_9_1_2, f"{field}:1\r\naof_enabled:0\r\n")


@pytest.mark.parametrize("persistence", ["aof_enabled:0\r\n", "loading:0\r\n", ""])
def test_a_server_that_does_not_say_that_it_has_an_append_only_file_is_refused(persistence: str) -> None:
    assert "appendonly yes" in hazard(VALKEY_9_1_2, persistence)


def test_a_server_that_does_not_say_what_it_is_is_refused_with_the_remedy() -> None:
    def ask(*_parts: str) -> bytes:
        raise redis.exceptions.NoPermissionError("this user has no permissions to run the 'info' command")

    with pytest.raises(NotDurableError, match=r"Let this user run INFO \(`\+info`\)"):
        check_durability(ask)


def test_a_server_that_evicts_is_refused() -> None:
    assert "`maxmemory-policy allkeys-lru`). Set `noeviction`" in hazard(VALKEY_9_1_2, policy="allkeys-lru")


def test_a_lost_connection_is_no_verdict() -> None:
    def ask(*_parts: str) -> bytes:
        raise redis.ConnectionError("lost")

    with pytest.raises(redis.ConnectionError):
        check_durability(ask)
