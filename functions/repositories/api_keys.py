"""API keys of accounts."""

from typing import NamedTuple, Protocol

from functions.users.activity import Origin
from functions.users.api_key_record import KeyKind
from protocol.units import AccountId, TimeMs


class NewKey(NamedTuple):
    """A new key; `secret` is the sealed HMAC secret, or the public key (PEM) for the other kinds."""

    key: str
    kind: KeyKind
    secret: bytes
    label: str
    scopes: tuple[str, ...]
    networks: tuple[str, ...]
    expires_time: int | None


class StoredKey(NamedTuple):
    """A key without its secret; None as a time: it never expires, or was never used."""

    key: str
    kind: str
    label: str
    created_time: TimeMs
    scopes: list[str]
    networks: list[str]
    expires_time: TimeMs | None
    last_used_time: TimeMs | None


class KeyTerms(NamedTuple):
    """A key's permissions, creation time and expiry (None: never)."""

    created_time: TimeMs
    scopes: tuple[str, ...]
    has_networks: bool
    expires_time: TimeMs | None


class ApiKeys(Protocol):
    """The keys of each account. Changes are recorded as its activity."""

    async def add(
        self, account_id: AccountId, new: NewKey, origin: Origin, *, password_hash: str, keys_max: int
    ) -> bool:
        """Add a key.

        Return whether the account's password still has this hash, and it had fewer than `keys_max` keys.
        """
        ...

    async def of_account(self, account_id: AccountId) -> list[StoredKey]:
        """Return the keys that are not revoked, oldest first."""
        ...

    async def terms(self, key: str) -> KeyTerms | None:
        """Return the permissions of a key; None: there is no such key."""
        ...

    async def revoke(self, account_id: AccountId, key: str, origin: Origin) -> bool:
        """Revoke a key, if it is not revoked yet; return whether the key is, or was, the account's."""
        ...

    async def revoke_all(self, account_id: AccountId, origin: Origin) -> list[str]:
        """Revoke all keys of an account; return them and those that were revoked in the last day."""
        ...
