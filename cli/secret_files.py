"""The secrets of a deployment in containers: who gets which files. Pure; `exchange secrets` writes them.

All of them are derived from one seed, so that it is the one thing to keep, and making them again gives the same.
"""

import hashlib
from importlib import resources
from string import Template
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.configuration import Role
from runtime.key_files import encoded_key
from runtime.operator_keys import public_text

SEED_BYTES: Final = 32
SERVICE: Final = "exchange"
"""What the sentinels call the master."""
REDIS_USERS: Final = ("gateway", "edge", "engine", "feeds", "persist", "operator", "replica", "sentinel")
"""Those of cli/redis_users.acl that have a password."""
DATABASE_USERS: Final = frozenset({"gateway", "edge", "persist", "operator"})
MASTER_KEY_USERS: Final = frozenset({"gateway", "edge", "operator"})
_KEY_BYTES: Final = 32
_COMMANDS: Final = (
    "-@all +@read +@write +@connection +@transaction +@pubsub -@dangerous +eval +evalsha +script|load +script|exists "
    "+info +time +wait +client|id +client|list +client|setname +client|setinfo"
)
"""What every process may do, with its own keys only; nothing that stops, empties or configures the server. Dramatiq needs KEYS, too."""


class Hosts(NamedTuple):
    """Where the servers are."""

    redis: str = "redis:6379"
    cache: str = "redis-cache:6379"
    sentinels: tuple[str, ...] = ("redis-sentinel-1:26379", "redis-sentinel-2:26379", "redis-sentinel-3:26379")
    database: str = "database:5432"


def secret_files(seed: bytes, hosts: Hosts) -> dict[str, str]:
    """Return the text of each file, by its path: the folder is who gets it."""
    passwords = {user: _password(seed, f"redis {user}") for user in REDIS_USERS}
    database_password = _password(seed, "database exchange")
    database_url = f"postgresql://exchange:{database_password}@{hosts.database}/exchange"
    sentinel_password = _password(seed, "sentinels")
    master_key = encoded_key(_derived(seed, "master key"))
    files: dict[str, str] = {}
    for user in REDIS_USERS[:-2]:
        account = f"{user}:{passwords[user]}"
        files[f"{user}/redis-url"] = f"redis://{account}@{hosts.redis}/0"
        files[f"{user}/cache-url"] = f"redis://{account}@{hosts.cache}/0"
        files[f"{user}/redis-sentinel-url"] = (
            f"redis+sentinel://{account}@{','.join(hosts.sentinels)}/{SERVICE}?sentinel_password={sentinel_password}"
        )
        if user in DATABASE_USERS:
            files[f"{user}/database-url"] = database_url
        if user in MASTER_KEY_USERS:
            files[f"{user}/master-key"] = master_key
    keys = {role: _derived(seed, f"{role.name.lower()} key") for role in Role}
    files["operator/operator-key"] = encoded_key(keys[Role.OPERATOR])
    files["operator/treasury-key"] = encoded_key(keys[Role.TREASURY])
    files["gateway/faucet-key"] = encoded_key(keys[Role.FAUCET])
    files["engine/operator-keys"] = public_text(keys)
    hashes = {user: hashlib.sha256(password.encode()).hexdigest() for user, password in passwords.items()}
    users = resources.files("cli").joinpath("redis_users.acl").read_text("utf-8")
    files["redis/users.acl"] = Template(users).substitute(hashes, commands=_COMMANDS)
    files["redis/replication.conf"] = f"masteruser replica\nmasterauth {passwords['replica']}\n"
    files["redis/sentinel.conf"] = _sentinel(hosts, passwords["sentinel"], sentinel_password)
    files["database/superuser-password"] = _password(seed, "database postgres")
    files["database/password"] = database_password
    files["grafana/admin-password"] = _password(seed, "grafana")
    return files


def _sentinel(hosts: Hosts, password: str, sentinel_password: str) -> str:
    host, _, port = hosts.redis.rpartition(":")
    return f"""requirepass {sentinel_password}
sentinel sentinel-pass {sentinel_password}
sentinel monitor {SERVICE} {host} {port} 2
sentinel auth-user {SERVICE} sentinel
sentinel auth-pass {SERVICE} {password}
sentinel down-after-milliseconds {SERVICE} 2000
sentinel failover-timeout {SERVICE} 10000
"""


def _password(seed: bytes, purpose: str) -> str:
    return _derived(seed, purpose).hex()


def _derived(seed: bytes, purpose: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=f"exchange {purpose}".encode()).derive(seed)
