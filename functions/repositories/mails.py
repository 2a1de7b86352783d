"""Mails to the owners of accounts, and the tokens in them."""

from enum import StrEnum
from typing import NamedTuple, Protocol

from protocol.units import AccountId


class Purpose(StrEnum):
    """The purpose of a token that is sent by mail."""

    VERIFICATION = "verification"
    RESET = "reset"


class Mail(NamedTuple):
    """The contents of a mail."""

    subject: str
    body: str


class Mails(Protocol):
    """Outgoing mails (persist/mails.py sends them), and the hashes of their tokens."""

    async def write(self, account_id: AccountId, mail: Mail) -> None:
        """Write a mail to an account's owner, unless one of the same kind was written within a minute.

        This prevents others from flooding the owner with mails.
        """
        ...

    async def add_token(self, token_hash: str, account_id: AccountId, purpose: Purpose, ttl_s: int) -> None:
        """Store a token."""
        ...

    async def owner_of_token(self, token_hash: str, purpose: Purpose) -> AccountId | None:
        """Return the account of a token; None: it does not exist or has expired."""
        ...

    async def use_token(self, token_hash: str, purpose: Purpose) -> AccountId | None:
        """Return the account of a token and invalidate it."""
        ...

    async def use_up_tokens(self, account_id: AccountId, purpose: Purpose) -> None:
        """Invalidate all tokens of an account for this purpose."""
        ...
