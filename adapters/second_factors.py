"""The second factors in the table of users, and the table of recovery codes."""

from collections.abc import Sequence
from typing import Final, LiteralString

from adapters.activity import note_parameters, noting
from adapters.database import Database
from functions.repositories.second_factors import StoredFactor
from functions.users.activity import Activity, Origin
from protocol.units import AccountId

_FIND: Final[LiteralString] = (
    "SELECT email, totp_secret, totp_since IS NOT NULL, totp_step FROM users WHERE account_id = %(account)s"
)
_USE_STEP: Final[LiteralString] = """
    UPDATE users SET totp_step = %(step)s WHERE account_id = %(account)s AND totp_step < %(step)s
    RETURNING account_id
"""
_USE_RECOVERY_CODE: Final[LiteralString] = """
    UPDATE recovery_codes SET used_at = now()
    WHERE account_id = %(account)s AND code_hash = %(hash)s AND used_at IS NULL RETURNING account_id
"""
_BEGIN: Final[LiteralString] = """
    UPDATE users SET totp_secret = %(secret)s WHERE account_id = %(account)s AND totp_since IS NULL
    RETURNING email
"""
# Only the device that has shown a code: another one may have been started since. One statement, so that only
# one of two concurrent calls creates codes.
_CONFIRM: Final[LiteralString] = noting(
    """
    UPDATE users SET totp_since = now()
    WHERE account_id = %(account)s AND totp_since IS NULL AND totp_secret = %(sealed)s
    RETURNING account_id, '' AS detail
    """,
    """
    , old AS (DELETE FROM recovery_codes USING changed WHERE recovery_codes.account_id = changed.account_id)
    INSERT INTO recovery_codes (account_id, code_hash) SELECT account_id, unnest(%(hashes)s::text[])
    FROM changed
    RETURNING account_id
    """,
)
_REMOVE: Final[LiteralString] = noting(
    """
    UPDATE users SET totp_secret = NULL, totp_since = NULL WHERE account_id = %(account)s
    AND totp_since IS NOT NULL
    RETURNING account_id, '' AS detail
    """,
    "SELECT account_id FROM changed",
)


class PostgresSecondFactors:
    """Implements `functions.repositories.second_factors.SecondFactors`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, account_id: AccountId) -> StoredFactor | None:
        """Return an account's second factor; None: there is no such account."""
        rows = await self._database.fetch(_FIND, {"account": account_id})
        if not rows:
            return None
        email, sealed, is_on, _ = rows[0]
        return StoredFactor(email, b"" if sealed is None else bytes(sealed), is_on)

    async def begin(self, account_id: AccountId, sealed: bytes) -> str | None:
        """Store the secret of an unconfirmed device.

        Return the account's address; None: it already has a second factor.
        """
        rows = await self._database.fetch(_BEGIN, {"secret": sealed, "account": account_id})
        return str(rows[0][0]) if rows else None

    async def confirm(
        self, account_id: AccountId, sealed: bytes, code_hashes: Sequence[str], origin: Origin
    ) -> bool:
        """Activate the device with this secret, and give the account new recovery codes.

        Return whether the device was still the unconfirmed one.
        """
        note = note_parameters(Activity.FACTOR_ADDED, origin)
        parameters = {"account": account_id, "sealed": sealed, "hashes": list(code_hashes)}
        return bool(await self._database.fetch(_CONFIRM, {**note, **parameters}))

    async def remove(self, account_id: AccountId, origin: Origin) -> bool:
        """Remove the second factor; return whether there was one."""
        note = note_parameters(Activity.FACTOR_REMOVED, origin)
        return bool(await self._database.fetch(_REMOVE, {**note, "account": account_id}))

    async def use_step(self, account_id: AccountId, step: int) -> bool:
        """Use the code of a step; return whether no code of this step or a later one was used before."""
        return bool(await self._database.fetch(_USE_STEP, {"account": account_id, "step": step}))

    async def use_recovery_code(self, account_id: AccountId, code_hash: str) -> bool:
        """Use a recovery code; return whether the account has it and had not used it."""
        return bool(
            await self._database.fetch(_USE_RECOVERY_CODE, {"account": account_id, "hash": code_hash})
        )
