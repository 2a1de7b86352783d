"""What was done with accounts."""

from typing import NamedTuple, Protocol

from functions.users.activity import Origin
from protocol.units import AccountId, TimeMs


class ActivityEntry(NamedTuple):
    """One thing that was done: when, from where and with what.

    `detail` is the session or key that it was about.
    """

    activity_id: int
    time: TimeMs
    kind: str
    address: str
    agent: str
    detail: str


class ActivityLog(Protocol):
    """What was done with each account. Other repositories note most of it, in the statement that does it."""

    async def newest(
        self, account_id: AccountId, *, before_id: int | None, limit: int
    ) -> list[ActivityEntry]:
        """Return the last `limit` entries, of those before a number where it is given, newest first."""
        ...

    async def note_refused_sign_in(self, email: str, origin: Origin) -> None:
        """Note what was tried with an address; the same work where there is no such account."""
        ...
