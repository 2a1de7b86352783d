"""The activity table, which is written in the statement of the recorded action."""

from typing import Final, LiteralString

from adapters.database import Database
from functions.repositories.activity import ActivityEntry
from functions.users.activity import Activity, Origin
from protocol.units import AccountId

NOTE: Final[LiteralString] = """
    INSERT INTO activity (account_id, kind, address, agent, detail)
    SELECT changed.account_id, %(activity)s, %(address)s, %(agent)s, changed.detail FROM changed
"""
"""For a statement whose `changed` has an `account_id` and a `detail`."""
_BY_EMAIL: Final[LiteralString] = """
    INSERT INTO activity (account_id, kind, address, agent, detail)
    SELECT account_id, %(activity)s, %(address)s, %(agent)s, '' FROM users WHERE email = %(email)s
"""
_NEWEST: Final[LiteralString] = """
    SELECT activity_id, (extract(epoch from time) * 1000)::bigint, kind, address, agent, detail FROM activity
    WHERE account_id = %(account)s AND (%(before)s::bigint IS NULL OR activity_id < %(before)s)
    ORDER BY activity_id DESC LIMIT %(limit)s
"""


def note_parameters(activity: Activity, origin: Origin) -> dict[str, object]:
    """Return the parameters of `NOTE`."""
    return {"activity": activity, "address": origin.address, "agent": origin.agent}


def noting(changing: LiteralString, then: LiteralString) -> LiteralString:
    """Return a statement that does `changing`, records it, and returns what `then` selects from `changed`."""
    return "WITH changed AS (" + changing + "), noted AS (" + NOTE + ") " + then


class PostgresActivityLog:
    """Implements `functions.repositories.activity.ActivityLog`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def newest(
        self, account_id: AccountId, *, before_id: int | None, limit: int
    ) -> list[ActivityEntry]:
        """Return the newest `limit` entries, older than a given number if there is one, newest first."""
        parameters = {"account": account_id, "before": before_id, "limit": limit}
        return [ActivityEntry(*row) for row in await self._database.fetch(_NEWEST, parameters)]

    async def note_refused_sign_in(self, email: str, origin: Origin) -> None:
        """Record a refused sign-in for an address; the work is the same if there is no such account."""
        note = note_parameters(Activity.SIGN_IN_REFUSED, origin)
        await self._database.fetch(_BY_EMAIL, {**note, "email": email})
