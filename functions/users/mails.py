"""Mails to the owners of accounts: what they say. They are written into the database and sent from there (persist/mails.py)."""

import hashlib
import secrets
from enum import StrEnum
from typing import Final, LiteralString, NamedTuple

from functions.api.ports import Call, Ports
from protocol.units import AccountId

TOKEN_TTL_S: Final = {"verification": 86_400, "reset": 3_600}
_SIGNATURE: Final = "\n\nIf this was not you, sign in, look at your sessions and keys, and change your password.\n"


class Purpose(StrEnum):
    """What a token that was sent by mail is good for."""

    VERIFICATION = "verification"
    RESET = "reset"


class Mail(NamedTuple):
    """What is sent."""

    subject: str
    body: str


_WRITE: Final[LiteralString] = """
    INSERT INTO mails (account_id, recipient, subject, body)
    SELECT account_id, email, %(subject)s, %(body)s FROM users WHERE account_id = %(account)s AND NOT EXISTS (
        SELECT FROM mails WHERE mails.account_id = users.account_id AND subject = %(subject)s
            AND mails.created_at > now() - interval '1 minute'
    )
"""
_ADD: Final[LiteralString] = """
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
_LOOK: Final[LiteralString] = """
    SELECT account_id FROM mail_tokens
    WHERE token_hash = %(hash)s AND purpose = %(purpose)s AND used_at IS NULL AND expires_at > now()
"""


async def write_mail(ports: Ports, account_id: AccountId, mail: Mail) -> None:
    """Write a mail to the owner of an account, unless there was one of the same kind a minute ago: nobody is flooded by others."""
    await ports.database.fetch(_WRITE, {"account": account_id, "subject": mail.subject, "body": mail.body})


async def send_token(ports: Ports, account_id: AccountId, purpose: Purpose) -> None:
    """Make a token and write the mail that has it."""
    token = secrets.token_urlsafe(24)
    asked = {
        "hash": _hash_of(token),
        "account": account_id,
        "purpose": purpose,
        "ttl_s": TOKEN_TTL_S[purpose],
    }
    await ports.database.fetch(_ADD, asked)
    link = f"{ports.settings.resolved_public_url()}/trade?{purpose}={token}"
    if purpose is Purpose.VERIFICATION:
        mail = Mail(
            "Verify your address", f"Open this to show that the address is yours:\n\n{link}\n\nor enter: {token}\n"
        )
    else:
        mail = Mail(
            "Choose a new password",
            f"Open this within an hour to choose a new password:\n\n{link}\n\nor enter: {token}\n\n"
            "If you did not ask for it, do nothing: your password stays as it is.\n",
        )
    await write_mail(ports, account_id, mail)


async def owner_of_token(ports: Ports, token: str, purpose: Purpose, *, use: bool) -> AccountId | None:
    """Return whose token it is, None when it is none, or none any more; with `use` it is none from now on."""
    rows = await ports.database.fetch(_USE if use else _LOOK, {"hash": _hash_of(token), "purpose": purpose})
    return AccountId(rows[0][0]) if rows else None


async def use_up_tokens(ports: Ports, account_id: AccountId, purpose: Purpose) -> None:
    """Let no token of an account be good for this any more, of whichever mail."""
    await ports.database.fetch(_USE_UP, {"account": account_id, "purpose": purpose})


def signed_up_again() -> Mail:
    """Return what the owner of an address hears when somebody signs up with it."""
    return Mail(
        "You have an account already",
        "Somebody, perhaps you, has signed up with this address. It has an account: sign in, or ask for a new password.\n",
    )


def new_device(call: Call) -> Mail:
    """Return what the owner of an account hears of a sign-in from where there was none."""
    return Mail(
        "A new sign-in",
        f"Your account was signed in to from {call.address} with {call.agent or 'a program'}.{_SIGNATURE}",
    )


def changed(what: str, call: Call) -> Mail:
    """Return what the owner of an account hears when what protects it was changed."""
    return Mail(f"{what}", f"{what}, from {call.address} with {call.agent or 'a program'}.{_SIGNATURE}")


def _hash_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
