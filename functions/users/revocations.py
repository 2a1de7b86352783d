"""Credentials that are good no more: every process hears of it within a second, and connections that stand on
one end.

The order counts (docs/decisions/0036): first the database, which is the truth; then the list of revocations,
by which processes drop what they remember; last the read model. Whoever repeats a revocation that was cut off
in between ends up with all three.
"""

from typing import NamedTuple, Protocol

from protocol.units import AccountId


def of_key(api_key: str) -> str:
    """Return the name of an API key among credentials."""
    return f"key:{api_key}"


def of_session(session_id: str) -> str:
    """Return the name of a session among credentials; tickets have the name of their session."""
    return f"session:{session_id}"


class Revocation(NamedTuple):
    """A credential that is good no more."""

    credential: str
    account_id: AccountId


class Revocations(Protocol):
    """The list of what was revoked, in the Redis of what must not be lost; unreachable: `ApiError`
    (unavailable).
    """

    async def add(self, revoked: Revocation) -> None:
        """Add to the list; this process has heard of it when the call returns."""
        ...

    def is_revoked(self, credential: str) -> bool:
        """Return whether a credential is on the list, as far as this process has read it."""
        ...
