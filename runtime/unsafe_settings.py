"""Settings for development installations only: a faucet that others can reach, and published secrets.

The repository publishes secrets so that its development overlays start without preparation. Each of them
begins with `development-only` (a key does after decoding); tests/deploy/test_published_secrets.py checks the
repository.
"""

from collections.abc import Iterator
from typing import Final

import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from psycopg.conninfo import conninfo_to_dict

from runtime.key_files import decoded_key
from runtime.redis_clients import parse_address
from runtime.settings import PREFIX, Settings, SettingsError

PUBLISHED: Final = "development-only"
"""The prefix of every published secret."""
PUBLISHED_PRIVATE_KEYS: Final = tuple(
    f"{PUBLISHED}-{name}".encode().ljust(32, b"-") for name in ("operator-key", "treasury-key", "faucet-key")
)
"""Those of k8s/components/faucet, whose public keys are recognized, too."""
_REDIS_URLS: Final = ("redis_url", "cache_url")
_DATABASE_URLS: Final = ("database_url", "database_admin_url")
_KEYS: Final = ("master_key", "master_key_previous", "operator_key", "treasury_key", "faucet_key")
_ALLOW: Final = f"set {PREFIX}DEVELOPMENT=true if this is a development installation"


def refuse_unsafe(settings: Settings) -> None:
    """Refuse settings that only a development installation may have.

    Every process that serves or writes calls this when it starts. Operators' commands do not.

    Raises:
        SettingsError: names each such setting on its own line, with a remedy.
    """
    if not settings.development and (mistakes := [*_open_faucet(settings), *_published(settings)]):
        raise SettingsError("\n".join(mistakes))


def is_published_key(key: bytes) -> bool:
    """Return whether a private or symmetric key, or its public key, is published in the repository."""
    return key.startswith(PUBLISHED.encode()) or key in _published_halves()


def _open_faucet(settings: Settings) -> Iterator[str]:
    if settings.faucet_enabled and not settings.is_for_this_machine():
        yield (
            f"{PREFIX}FAUCET_ENABLED: accounts could credit themselves from other machines, since "
            f"{PREFIX}HOST is {settings.host}. Set it to false, or {_ALLOW}"
        )


def _published(settings: Settings) -> Iterator[str]:
    passwords = {
        **{name: _redis_passwords(getattr(settings, name)) for name in _REDIS_URLS},
        **{name: _database_passwords(getattr(settings, name)) for name in _DATABASE_URLS},
        "database_role_passwords": [
            credential.partition(":")[2] for credential in settings.database_role_passwords.split(",")
        ],
        "metrics_password": [settings.metrics_password],
    }
    for name, values in passwords.items():
        if any(value.startswith(PUBLISHED) for value in values):
            yield _refusal(name, "password")
    for name in _KEYS:
        text: str = getattr(settings, name)
        if text and is_published_key(decoded_key(text, PREFIX + name.upper())):
            yield _refusal(name, "key")
    for operator_key in filter(None, settings.operator_keys.split(",")):
        role, _, text = operator_key.strip().partition(":")
        try:
            key = decoded_key(text, "")
        except SettingsError:
            continue  # runtime/operator_keys.py reports the error
        if is_published_key(key):
            yield _refusal("operator_keys", f"{role} key")


def _redis_passwords(url: str) -> list[str]:
    """Return all passwords in a URL of Redis, including those of sentinels, wherever they are in it."""
    if not url:
        return []
    address = parse_address(url)
    return [str(options.get("password", "")) for options in (address.options, address.sentinel_options)]


def _database_passwords(url: str) -> list[str]:
    """Return the passwords in a URL of the database, which libpq accepts in several forms."""
    try:
        return [str(conninfo_to_dict(url).get("password", ""))]
    except psycopg.ProgrammingError:
        return []  # the code that connects reports the error


def _refusal(setting: str, secret: str) -> str:
    return (
        f"{PREFIX}{setting.upper()}: this {secret} is published in the repository of the exchange, so "
        "everybody has it. "
        f"Make one of your own (docs/how-to/rotate-secrets.md), or {_ALLOW}"
    )


def _published_halves() -> frozenset[bytes]:
    keys = map(Ed25519PrivateKey.from_private_bytes, PUBLISHED_PRIVATE_KEYS)
    return frozenset(key.public_key().public_bytes_raw() for key in keys)
