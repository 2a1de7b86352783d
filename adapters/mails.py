"""The tables of outgoing mails and of the tokens in them."""

from typing import Final, LiteralString

from adapters.database import Database
from functions.repositories.mails import Mail, Purpose
from protocol.units import AccountId

_WRITE: Final[LiteralString] = """
    INSERT INTO mails (account_id, recipient, subject, body)
    SELECT account_id, email, %(subject)s, %(body)s FROM users WHERE account_id = %(account)s AND NOT EXISTS (
        SELECT FROM mails WHERE mails.account_id = users.account_id AND subject = %(subject)s
            AND mails.created_at > now() - interval '1 minute'
    )
"""
_KEEP: Final[LiteralString] = """
    INSERT INTO mail_tokens (token_hash, account_id, purpose, expires_at)
    VALUES (%(hash)s, %(account)s, %(purpose)s, now() + make_interval(secs => %(ttl_s)s))
"""
_USE: Final[LiteralString] = """
    UPDATE mail_tokens SET used_at = now()
    WHERE token_hash = %(hash)s AND purpose = %(purpose)s AND used_at IS NULL AND expires_at > now()
    RETURNING account_id
"""
_USE_UP: Final[LiteralString] = """
    UPDATE mail_tokens SET used_at = now()
    WHERE account_id = %(account)s AND purpose = %(purpose)s AND used_at IS NULL AND expires_at > now()
"""
_OWNER: Final[LiteralString] = """
    SELECT account_id FROM mail_tokens
    WHERE token_hash = %(hash)s AND purpose = %(purpose)s AND used_at IS NULL AND expires_at > now()
"""


class PostgresMails:
    """Implements `functions.repositories.mails.Mails`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(self, account_id: AccountId, mail: Mail) -> None:
        """Write a mail to an account's owner, unless one of the same kind was written within a minute."""
        await self._database.fetch(
            _WRITE, {"account": account_id, "subject": mail.subject, "body": mail.body}
        )

    async def add_token(self, token_hash: str, account_id: AccountId, purpose: Purpose, ttl_s: int) -> None:
        """Store a token."""
        parameters = {"hash": token_hash, "account": account_id, "purpose": purpose, "ttl_s": ttl_s}
        await self._database.fetch(_KEEP, parameters)

    async def owner_of_token(self, token_hash: str, purpose: Purpose) -> AccountId | None:
        """Return the account of a token; None: it does not exist or has expired."""
        rows = await self._database.fetch(_OWNER, {"hash": token_hash, "purpose": purpose})
        return AccountId(rows[0][0]) if rows else None

    async def use_token(self, token_hash: str, purpose: Purpose) -> AccountId | None:
        """Return the account of a token and invalidate it."""
        rows = await self._database.fetch(_USE, {"hash": token_hash, "purpose": purpose})
        return AccountId(rows[0][0]) if rows else None

    async def use_up_tokens(self, account_id: AccountId, purpose: Purpose) -> None:
        """Invalidate all tokens of an account for this purpose."""
        await self._database.fetch(_USE_UP, {"account": account_id, "purpose": purpose})
