"""Checks whether a Redis keeps, across a restart, what was written to it.

A Redis that replays its append-only file executes the writes of scripts and transactions as its user
`default`. Redis 7.0 to 8.2 and Valkey before 9.1.2 check the rights of `default` and skip forbidden commands
without an error: under an ACL with `user default off` all of these writes are lost, orders, balances and
streams (redis/redis#14541, valkey-io/valkey#3983). Therefore a shard checks this before it opens.
"""

import re
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final

import redis

from runtime.settings import PREFIX

Ask = Callable[..., Any]
"""Sends a command and returns its answer; an error is returned as an exception."""

_WRITES: Final = (
    "SET k v",
    "DEL k",
    "UNLINK k",
    "EXPIRE k 1",
    "PEXPIRE k 1",
    "PEXPIREAT k 1",
    "PERSIST k",
    "INCRBY k 1",
    "HSET k f v",
    "HINCRBY k f 1",
    "HDEL k f",
    "LPUSH k v",
    "RPUSH k v",
    "LPOP k",
    "RPOP k",
    "LTRIM k 0 1",
    "SADD k v",
    "SREM k v",
    "ZADD k 1 v",
    "ZREM k v",
    "XADD k * f v",
    "XDEL k 1-1",
    "XTRIM k MINID 1-1",
    "XGROUP CREATE k g 0",
    "XGROUP SETID k g 0",
)
"""One write of each kind that the exchange's scripts and transactions do, on a key `k`."""
_FAULTY_FROM: Final = (7, 0)
_VALKEY_SOUND_FROM: Final = (9, 1, 2)
"""The first version known to replay without checking rights.

No version of Redis from 7.0 on is assumed to be sound: granting `default` a right does no harm there, and a
missing right may.
"""
REMEDY: Final = (
    "Let its ACL have `user default off allkeys allchannels +@all`: nobody can sign in as a user that is "
    "off, but the server replays its log as this one. Load the ACL (ACL LOAD) before the server restarts; "
    "docs/how-to/back-up-and-restore.md says how to get data back that a restart has left out."
)


class NotDurableError(Exception):
    """This Redis would lose acknowledged orders in a restart; the message gives reason and remedy."""


def check_durability(ask: Ask) -> None:
    """Check the server's INFO and the rights of its user `default`.

    Raises:
        NotDurableError: a restart would lose writes, or this cannot be determined.
        redis.ConnectionError: the connection was lost, or the server is still loading its data.
    """
    try:
        server, persistence, memory = (
            _text(ask("INFO", section)) for section in ("server", "persistence", "memory")
        )
    except redis.ResponseError as error:
        raise _refusal(
            f"The server does not say what it is: {error}. Let this user run INFO (`+info`)."
        ) from error
    if "1" in (_field(persistence, "loading"), _field(persistence, "async_loading")):
        # A server that is loading its data reports this for data commands, but not for INFO, where its
        # append-only file seems to be off.
        raise redis.BusyLoadingError("the server is loading its data")
    hazard = hazard_of(server, persistence, memory, lambda: _refused(ask))
    if hazard:
        raise _refusal(hazard)


def hazard_of(server: str, persistence: str, memory: str, refused: Callable[[], str]) -> str:
    """Return why the server would lose writes, or "".

    `server`, `persistence` and `memory` are those sections of INFO; `refused` returns which of the writes
    `default` may not do, or why this cannot be determined; "" if it may do all.
    """
    name, version = version_of(server)
    if _field(persistence, "aof_enabled") != "1":
        return (
            f"{name} keeps no append-only file, so a restart loses every order. Set `appendonly yes` and "
            "`appendfsync always`."
        )
    policy = _field(memory, "maxmemory_policy")
    if policy not in ("", "noeviction"):
        return f"{name} deletes data when its memory is full (`maxmemory-policy {policy}`). Set `noeviction`."
    if () < version < _FAULTY_FROM or (name.startswith("Valkey") and version >= _VALKEY_SOUND_FROM):
        return ""
    reason = refused()
    if not reason:
        return ""
    return (
        f"A restart of {name} may lose what scripts wrote, all orders and balances: its user `default` "
        f"{reason}. {REMEDY}"
    )


def version_of(server: str) -> tuple[str, tuple[int, ...]]:
    """Return a server's name with version, and the version, from the section `server` of INFO."""
    valkey = _field(server, "valkey_version")
    version = valkey or _field(server, "redis_version")
    return f"{'Valkey' if valkey else 'Redis'} {version}", tuple(
        int(part) for part in re.findall(r"\d+", version)[:3]
    )


def _refusal(reason: str) -> NotDurableError:
    return NotDurableError(
        f"{reason} ({PREFIX}REDIS_DURABILITY_CHECK_ENABLED=false opens all the same; then restart this Redis "
        "once with data that may be lost, and look whether it is still there.)"
    )


def _refused(ask: Ask) -> str:
    # A random key stands for all keys: a user who may write it is not restricted to a pattern.
    key = secrets.token_hex(8)
    for write in _WRITES:
        try:
            answer = _text(ask("ACL", "DRYRUN", "default", *_on_key(write, key)))
        except redis.ResponseError as error:
            return f"may lack rights, which this user must be allowed to ask (`+acl|dryrun`): {error}"
        if answer != "OK":
            return f"may not do {write.partition(' ')[0]} on every key"
    return ""


def _on_key(write: str, key: str) -> Sequence[str]:
    return [key if part == "k" else part for part in write.split()]


def _field(section: str, name: str) -> str:
    return next((line.partition(":")[2] for line in section.splitlines() if line.startswith(f"{name}:")), "")


def _text(answer: Any) -> str:
    return answer.decode("utf-8", "replace") if isinstance(answer, bytes) else str(answer)
