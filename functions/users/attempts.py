"""Attempts to show who one is: after some that failed, the next must wait, longer each time."""

from typing import NamedTuple, Protocol


class Attempt(NamedTuple):
    """Who somebody claims to be, and from where."""

    email: str
    """In lower case; also of an account that there is not, so that both are answered alike."""
    address: str
    is_known: bool
    """Whether the account was signed in to from this network before: what others try from elsewhere does not
    keep its owner out."""


class Attempts(Protocol):
    """Counts attempts, for all processes together; unreachable: `ApiError` (unavailable)."""

    async def begin(self, attempt: Attempt) -> None:
        """Count one before it is looked at, so that many at once are no way around.

        Raises:
            ApiError: -1003, HTTP 429: it is too early for another; nothing was looked at.
        """
        ...

    async def succeeded(self, attempt: Attempt) -> None:
        """Forget what failed before."""
        ...
