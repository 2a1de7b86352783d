"""Authentication attempts: after some failures the next one must wait, longer each time."""

from typing import NamedTuple, Protocol


class Attempt(NamedTuple):
    """The claimed identity and the origin of an attempt."""

    email: str
    """In lower case; also of accounts that do not exist, so that both get the same answer."""
    address: str
    is_known: bool
    """Whether the account was signed in to from this network before.

    Attempts of others from elsewhere then do not lock the owner out.
    """


class Attempts(Protocol):
    """Counts attempts for all processes together; unreachable: `ApiError` (unavailable)."""

    async def begin(self, attempt: Attempt) -> None:
        """Count an attempt before it is checked, so that parallel attempts do not bypass the limit.

        Raises:
            ApiError: -1003, HTTP 429: the next attempt is not allowed yet; nothing was checked.
        """
        ...

    async def succeeded(self, attempt: Attempt) -> None:
        """Forget the previous failures."""
        ...
