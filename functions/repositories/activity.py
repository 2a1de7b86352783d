"""The activity log of accounts."""

from typing import NamedTuple, Protocol

from functions.users.activity import Origin
from protocol.units import AccountId, TimeMs


class ActivityEntry(NamedTuple):
    """One activity: when, from where, and with which program.

    `detail` is the session or key concerned.
    """

    activity_id: int
    time: TimeMs
    kind: str
    address: str
    agent: str
    detail: str


class ActivityLog(Protocol):
    """The activity of each account. Other repositories record most of it, in the statement that does it."""

    async def newest(
        self, account_id: AccountId, *, before_id: int | None, limit: int
    ) -> list[ActivityEntry]:
        """Return the newest `limit` entries, older than a given number if there is one, newest first."""
        ...

    async def note_refused_sign_in(self, email: str, origin: Origin) -> None:
        """Record a refused sign-in for an address; the work is the same if there is no such account."""
        ...
