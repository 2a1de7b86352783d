"""The table of sessions."""

from collections.abc import Sequence
from typing import Final, LiteralString

from adapters.activity import note_parameters, noting
from adapters.database import Database
from functions.repositories.sessions import EndedSession, StoredSession
from functions.users.activity import AGENT_MAX, Activity, Origin
from protocol.units import AccountId

# A concurrent password change waits for this statement and then finds the session, or was first: then no
# session is added.
_BEGIN: Final[LiteralString] = noting(
    """
    INSERT INTO sessions (session_id, account_id, token_hash, expires_at, address, agent)
    SELECT %(session)s, account_id, %(hash)s, now() + make_interval(secs => %(ttl_s)s), %(address)s, %(agent)s
    FROM users WHERE account_id = %(account)s AND password_hash = %(known)s FOR SHARE
    RETURNING account_id, session_id AS detail
    """,
    "SELECT detail FROM changed",
)
_END: Final[LiteralString] = noting(
    """
    UPDATE sessions SET ended_at = now()
    WHERE account_id = %(account)s AND expires_at > now() AND session_id = ANY(%(sessions)s)
    AND ended_at IS NULL
    RETURNING account_id, session_id AS detail
    """,
    """
    SELECT session_id, token_hash, session_id IN (SELECT detail FROM changed) FROM sessions
    WHERE account_id = %(account)s AND expires_at > now() AND session_id = ANY(%(sessions)s)
    """,
)
_OPEN_IDS: Final = """
    SELECT session_id FROM sessions WHERE account_id = %(account)s AND ended_at IS NULL AND expires_at > now()
"""
_NEWEST: Final = """
    SELECT session_id, (extract(epoch from created_at) * 1000)::bigint,
    (extract(epoch from expires_at) * 1000)::bigint, address, agent
    FROM sessions WHERE account_id = %(account)s AND ended_at IS NULL AND expires_at > now()
    ORDER BY created_at DESC, session_id LIMIT %(most)s
"""
_KNOWS_ADDRESS: Final = (
    "SELECT FROM sessions WHERE account_id = %(account)s AND address = %(address)s LIMIT 1"
)


class PostgresSessions:
    """Implements `functions.repositories.sessions.Sessions`."""

    def __init__(self, database: Database) -> None:
        self._database = database

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
        rows = await self._database.fetch(
            _BEGIN,
            {
                **note_parameters(Activity.SIGNED_IN, origin),
                "session": session_id,
                "account": account_id,
                "known": password_hash,
                "hash": token_hash,
                "ttl_s": ttl_s,
                "agent": origin.agent[:AGENT_MAX],
            },
        )
        return bool(rows)

    async def newest(self, account_id: AccountId, limit: int) -> list[StoredSession]:
        """Return the sessions that have not ended, newest first."""
        rows = await self._database.fetch(_NEWEST, {"account": account_id, "most": limit})
        return [StoredSession(*row) for row in rows]

    async def open_ids(self, account_id: AccountId) -> list[str]:
        """Return the ids of all sessions that have not ended."""
        rows = await self._database.fetch(_OPEN_IDS, {"account": account_id})
        return [session_id for (session_id,) in rows]

    async def knows_address(self, account_id: AccountId, address: str) -> bool:
        """Return whether the account had a session from this address."""
        return bool(await self._database.fetch(_KNOWS_ADDRESS, {"account": account_id, "address": address}))

    async def end(
        self, account_id: AccountId, session_ids: Sequence[str], origin: Origin
    ) -> list[EndedSession]:
        """End sessions; return those that exist, including those that had ended before."""
        note = note_parameters(Activity.SIGNED_OUT, origin)
        rows = await self._database.fetch(
            _END, {**note, "account": account_id, "sessions": list(session_ids)}
        )
        return [EndedSession(*row) for row in rows]
