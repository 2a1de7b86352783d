"""Sessions, as their owner sees them.

A session has ended when Redis no longer has it, whatever is stored here.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from functions.users.activity import Origin
from protocol.units import AccountId, TimeMs


class StoredSession(NamedTuple):
    """A session: its beginning, its expiry, and the address and program that began it."""

    session_id: str
    created_time: TimeMs
    expires_time: TimeMs
    address: str
    agent: str


class EndedSession(NamedTuple):
    """An ended session; `is_new`: it was ended by this call."""

    session_id: str
    token_hash: str
    is_new: bool


class Sessions(Protocol):
    """The sessions of each account. Their beginning and end are recorded as its activity."""

    async def begin(
        self,
        account_id: AccountId,
        password_hash: str,
        session_id: str,
        token_hash: str,
        ttl_s: int,
        origin: Origin,
    ) -> bool:
        """Add a session; return whether the account's password still has this hash; otherwise add none."""
        ...

    async def newest(self, account_id: AccountId, limit: int) -> list[StoredSession]:
        """Return the sessions that have not ended, newest first."""
        ...

    async def open_ids(self, account_id: AccountId) -> list[str]:
        """Return the ids of all sessions that have not ended."""
        ...

    async def knows_address(self, account_id: AccountId, address: str) -> bool:
        """Return whether the account had a session from this address."""
        ...

    async def end(
        self, account_id: AccountId, session_ids: Sequence[str], origin: Origin
    ) -> list[EndedSession]:
        """End sessions; return those that exist, including those that had ended before."""
        ...
