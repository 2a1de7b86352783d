"""The table of API keys, for their owners; adapters/key_lookup.py reads it for authentication."""

from typing import Final, LiteralString

from adapters.activity import note_parameters, noting
from adapters.database import Database
from functions.repositories.api_keys import KeyTerms, NewKey, StoredKey
from functions.users.activity import Activity, Origin
from protocol.units import AccountId

_ADD: Final[LiteralString] = noting(
    """
    INSERT INTO api_keys (key, account_id, secret, kind, label, scopes, networks, expires_at)
    SELECT %(key)s, %(account)s, %(secret)s, %(kind)s, %(label)s, %(scopes)s::text[], %(networks)s::cidr[],
        to_timestamp(%(expires_ms)s::bigint / 1000.0)
    FROM users WHERE account_id = %(account)s AND password_hash = %(known)s
        AND (SELECT count(*) FROM api_keys WHERE account_id = %(account)s AND revoked_at IS NULL) < %(most)s
    FOR SHARE OF users
    RETURNING account_id, key AS detail
    """,
    "SELECT detail FROM changed",
)
_OF_ACCOUNT: Final = """
    SELECT key, kind, label, (extract(epoch from created_at) * 1000)::bigint, scopes, networks::text[],
        (extract(epoch from expires_at) * 1000)::bigint, (extract(epoch from last_used_at) * 1000)::bigint
    FROM api_keys
    WHERE account_id = %(account)s AND revoked_at IS NULL ORDER BY created_at, key
"""
_TERMS: Final = """
    SELECT (extract(epoch from created_at) * 1000)::bigint, scopes, cardinality(networks) > 0,
        (extract(epoch from expires_at) * 1000)::bigint
    FROM api_keys WHERE key = %(key)s
"""
_REVOKE: Final[LiteralString] = noting(
    """
    UPDATE api_keys SET revoked_at = now()
    WHERE key = %(key)s AND account_id = %(account)s AND revoked_at IS NULL RETURNING account_id,
    key AS detail
    """,
    "SELECT key FROM api_keys WHERE key = %(key)s AND account_id = %(account)s",
)
_REVOKE_ALL: Final[LiteralString] = noting(
    """
    UPDATE api_keys SET revoked_at = now() WHERE account_id = %(account)s AND revoked_at IS NULL
    RETURNING account_id, key AS detail
    """,
    # Including those revoked in the last day, in case that revocation was interrupted before all processes
    # learned of it.
    """
    SELECT key FROM api_keys
    WHERE account_id = %(account)s AND (revoked_at IS NULL OR revoked_at > now() - interval '1 day')
    """,
)


class PostgresApiKeys:
    """Implements `functions.repositories.api_keys.ApiKeys`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(
        self, account_id: AccountId, new: NewKey, origin: Origin, *, password_hash: str, keys_max: int
    ) -> bool:
        """Add a key.

        Return whether the account's password still has this hash, and it had fewer than `keys_max` keys.
        """
        rows = await self._database.fetch(
            _ADD,
            {
                **note_parameters(Activity.KEY_MADE, origin),
                "key": new.key,
                "account": account_id,
                "known": password_hash,
                "secret": new.secret,
                "kind": new.kind,
                "label": new.label,
                "scopes": list(new.scopes),
                "networks": list(new.networks),
                "expires_ms": new.expires_time,
                "most": keys_max,
            },
        )
        return bool(rows)

    async def of_account(self, account_id: AccountId) -> list[StoredKey]:
        """Return the keys that are not revoked, oldest first."""
        return [StoredKey(*row) for row in await self._database.fetch(_OF_ACCOUNT, {"account": account_id})]

    async def terms(self, key: str) -> KeyTerms | None:
        """Return the permissions of a key; None: there is no such key."""
        rows = await self._database.fetch(_TERMS, {"key": key})
        if not rows:
            return None
        created, scopes, has_networks, expires = rows[0]
        return KeyTerms(created, tuple(scopes), has_networks, expires)

    async def revoke(self, account_id: AccountId, key: str, origin: Origin) -> bool:
        """Revoke a key, if it is not revoked yet; return whether the key is, or was, the account's."""
        note = note_parameters(Activity.KEY_REVOKED, origin)
        return bool(await self._database.fetch(_REVOKE, {**note, "key": key, "account": account_id}))

    async def revoke_all(self, account_id: AccountId, origin: Origin) -> list[str]:
        """Revoke all keys of an account; return them and those that were revoked in the last day."""
        note = note_parameters(Activity.KEY_REVOKED, origin)
        rows = await self._database.fetch(_REVOKE_ALL, {**note, "account": account_id})
        return [key for (key,) in rows]
