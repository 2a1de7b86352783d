"""Mails to the owners of accounts, and the tokens in them."""

from enum import StrEnum
from typing import NamedTuple, Protocol

from protocol.units import AccountId


class Purpose(StrEnum):
    """What a token that was sent by mail is good for."""

    VERIFICATION = "verification"
    RESET = "reset"


class Mail(NamedTuple):
    """What is sent."""

    subject: str
    body: str


class Mails(Protocol):
    """Mails that are to be sent (persist/mails.py sends them), and the hashes of their tokens."""

    async def write(self, account_id: AccountId, mail: Mail) -> None:
        """Write a mail to the owner of an account, unless there was one of the same kind a minute ago: nobody
        is flooded by others.
        """
        ...

    async def add_token(self, token_hash: str, account_id: AccountId, purpose: Purpose, ttl_s: int) -> None:
        """Keep a token."""
        ...

    async def owner_of_token(self, token_hash: str, purpose: Purpose) -> AccountId | None:
        """Return whose token it is; None: it is none, or none any more."""
        ...

    async def use_token(self, token_hash: str, purpose: Purpose) -> AccountId | None:
        """Return whose token it is; from now on it is none."""
        ...

    async def use_up_tokens(self, account_id: AccountId, purpose: Purpose) -> None:
        """Let no token of an account be good for this any more, of whichever mail."""
        ...
