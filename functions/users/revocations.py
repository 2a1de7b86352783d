"""Revoked credentials: every process learns of them within a second, and ends dependent connections.

The order matters (docs/decisions/0036): first the database, which is authoritative; then the list of
revocations, by which processes drop cached credentials; last the read model. Repeating an interrupted
revocation completes all three.
"""

from typing import NamedTuple, Protocol

from protocol.units import AccountId


def of_key(api_key: str) -> str:
    """Return the credential name of an API key."""
    return f"key:{api_key}"


def of_session(session_id: str) -> str:
    """Return the credential name of a session; its tickets have the same name."""
    return f"session:{session_id}"


class Revocation(NamedTuple):
    """A revoked credential."""

    credential: str
    account_id: AccountId


class Revocations(Protocol):
    """The list of revocations, in the durable Redis; unreachable: `ApiError` (unavailable)."""

    async def add(self, revoked: Revocation) -> None:
        """Add to the list; this process knows the revocations when the call returns."""
        ...

    def is_revoked(self, credential: str) -> bool:
        """Return whether a credential is on the list, as far as this process has read it."""
        ...
