"""The secrets of a deployment in containers, and their recipients. Pure; `exchange secrets` writes them.

All are derived from one seed and from the number of rotations of each family, so only these two must be kept,
and deriving again gives the same secrets. During a rotation both secrets of the family are accepted; the
previous one is forgotten when every process has the new one.
"""

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from importlib import resources
from string import Template
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.configuration import Role
from runtime.database_roles import ServiceRole, passwords_text
from runtime.key_files import encoded_key
from runtime.operator_keys import public_text

SEED_BYTES: Final = 32
SERVICE: Final = "exchange"
"""What the sentinels call the master."""
REDIS_USERS: Final = ("gateway", "edge", "engine", "feeds", "persist", "operator", "replica", "sentinel")
"""Those of cli/redis_users.acl that have a password."""
DATABASE_USERS: Final = {role.service: str(role) for role in ServiceRole} | {
    "operator": "exchange",
    "migrate": "exchange",
}
"""Who uses the database, and as which role; `exchange` owns it."""
MASTER_KEY_USERS: Final = frozenset({"gateway", "edge", "operator"})
_KEY_BYTES: Final = 32
_COMMANDS: Final = (
    "-@all +@read +@write +@connection +@transaction +@pubsub -@dangerous +eval +evalsha +script|load "
    "+script|exists +info +time +wait +client|id +client|list +client|setname +client|setinfo"
)
"""What every process may do, with its own keys only; nothing that stops, empties or configures the server.

Dramatiq needs KEYS, too.
"""


class Family(StrEnum):
    """Secrets that are rotated together."""

    REDIS = "redis"
    DATABASE = "database"
    MASTER_KEY = "master-key"
    METRICS = "metrics"
    OPERATOR_KEY = "operator-key"
    TREASURY_KEY = "treasury-key"
    FAUCET_KEY = "faucet-key"


class Rotation(msgspec.Struct, frozen=True):
    """How often a family was rotated, and what else is taken besides the secret of now."""

    number: int = 0
    keeps_previous: bool = False
    """That of before."""
    announces_next: bool = False
    """That of the next rotation, which everybody must know before anybody uses it: of the master key."""


Rotations = Mapping[Family, Rotation]


class Hosts(NamedTuple):
    """The addresses (host:port) of the servers, as the services reach them."""

    redis: str = "redis:6379"
    cache: str = "redis-cache:6379"
    sentinels: tuple[str, ...] = (
        "redis-sentinel-1:26379",
        "redis-sentinel-2:26379",
        "redis-sentinel-3:26379",
    )
    database: str = "database:5432"


def secret_files(seed: bytes, hosts: Hosts, rotations: Rotations = MappingProxyType({})) -> dict[str, str]:
    """Return the text of each file, by its path: its folder is its recipient."""
    secrets = _Secrets(seed, rotations)
    files: dict[str, str] = {}
    sentinel_password = _password(seed, "sentinels")
    for user in REDIS_USERS[:-2]:
        account = f"{user}:{secrets.password(Family.REDIS, f'redis {user}')}"
        files[f"{user}/redis-url"] = f"redis://{account}@{hosts.redis}/0"
        files[f"{user}/cache-url"] = f"redis://{account}@{hosts.cache}/0"
        files[f"{user}/redis-sentinel-url"] = (
            f"redis+sentinel://{account}@{','.join(hosts.sentinels)}/{SERVICE}?sentinel_password={sentinel_password}"
        )
    role_passwords = {role: secrets.password(Family.DATABASE, f"database {role}") for role in ServiceRole}
    owner_password = secrets.password(Family.DATABASE, "database exchange")
    superuser_password = _password(seed, "database postgres")
    for user, role in DATABASE_USERS.items():
        password = role_passwords[ServiceRole(role)] if role in role_passwords else owner_password
        files[f"{user}/database-password"] = password
        files[f"{user}/database-url"] = f"postgresql://{role}:{password}@{hosts.database}/exchange"
    files["migrate/database-role-passwords"] = passwords_text(role_passwords)
    files["migrate/database-admin-url"] = (
        f"postgresql://postgres:{superuser_password}@{hosts.database}/exchange"
    )
    for user in MASTER_KEY_USERS:
        files[f"{user}/master-key"], files[f"{user}/master-key-previous"] = secrets.keys(
            Family.MASTER_KEY, "master key"
        )
    keys = {
        role: secrets.key(Family(f"{role.name.lower()}-key"), f"{role.name.lower()} key") for role in Role
    }
    files["operator/operator-key"] = encoded_key(keys[Role.OPERATOR])
    files["operator/treasury-key"] = encoded_key(keys[Role.TREASURY])
    files["gateway/faucet-key"] = encoded_key(keys[Role.FAUCET])
    files["engine/operator-keys"] = public_text(keys)
    hashes = {user: secrets.hashes(Family.REDIS, f"redis {user}") for user in REDIS_USERS}
    files["redis/users.acl"] = users_acl(hashes)
    replica_password = secrets.password(Family.REDIS, "redis replica")
    files["redis/replica-password"] = replica_password
    files["redis/replication.conf"] = f"masteruser replica\nmasterauth {replica_password}\n"
    # What the sentinels ask of each other stays: they keep it on their own disks.
    files["redis/sentinel-password"] = sentinel_password
    files["redis/sentinel.conf"] = _sentinel(hosts, _password(seed, "redis sentinel"), sentinel_password)
    files["database/superuser-password"] = superuser_password
    files["database/password"] = owner_password
    for user in (*REDIS_USERS[:-2], "migrate", "mm", "prometheus"):
        files[f"{user}/metrics-password"] = secrets.password(Family.METRICS, "metrics")
    files["grafana/admin-password"] = _password(seed, "grafana")
    return files


def users_acl(hashes: Mapping[str, list[str]]) -> str:
    """Return the ACL file of Redis: cli/redis_users.acl with these SHA-256 sums of each user's passwords."""
    users = resources.files("cli").joinpath("redis_users.acl").read_text("utf-8")
    return Template(users).substitute(
        {user: " #".join(sums) for user, sums in hashes.items()}, commands=_COMMANDS
    )


def password_hash(password: str) -> str:
    """Return the SHA-256 of a password in hexadecimal, as an ACL file of Redis has it."""
    return hashlib.sha256(password.encode()).hexdigest()


class _Secrets:
    """The values derived from a seed and the rotations."""

    def __init__(self, seed: bytes, rotations: Rotations) -> None:
        self._seed = seed
        self._rotations = rotations

    def key(self, family: Family, purpose: str) -> bytes:
        return self._of(purpose, self._rotation(family).number)

    def keys(self, family: Family, purpose: str) -> tuple[str, str]:
        """Return the current key, and the previous one if it still opens, or an empty text."""
        rotation = self._rotation(family)
        others = (
            {rotation.number + 1}
            if rotation.announces_next
            else {rotation.number - 1}
            if rotation.keeps_previous
            else set()
        )
        return encoded_key(self.key(family, purpose)), "".join(
            encoded_key(self._of(purpose, number)) for number in others
        )

    def password(self, family: Family, purpose: str) -> str:
        return self.key(family, purpose).hex()

    def hashes(self, family: Family, purpose: str) -> list[str]:
        """Return the sums of all passwords that are taken, the newest first."""
        rotation = self._rotation(family)
        numbers = [rotation.number, *([rotation.number - 1] if rotation.keeps_previous else [])]
        passwords = [self._of(purpose, number).hex() for number in numbers]
        if purpose == "redis sentinel":
            # The sentinels keep theirs on their own disks, and the start scripts of Kubernetes know one
            # password for all that they do.
            passwords = [_password(self._seed, purpose), _password(self._seed, "sentinels")]
        return [password_hash(password) for password in passwords]

    def _rotation(self, family: Family) -> Rotation:
        return self._rotations.get(family, Rotation())

    def _of(self, purpose: str, number: int) -> bytes:
        return _derived(self._seed, f"{purpose} {number}" if number else purpose)


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
    return HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=f"exchange {purpose}".encode()).derive(
        seed
    )
