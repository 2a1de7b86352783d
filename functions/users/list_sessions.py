"""GET /api/v1/sessions: where the account is signed in."""

import msgspec

from functions.api.function import Function, Group, Security
from functions.api.ports import Call, Ports
from functions.api.shapes import Time

_SELECT = """
    SELECT session_id, (extract(epoch from created_at) * 1000)::bigint, (extract(epoch from expires_at) * 1000)::bigint, address, agent
    FROM sessions WHERE account_id = %(account)s AND ended_at IS NULL AND expires_at > now()
    ORDER BY created_at DESC, session_id LIMIT %(most)s
"""
_SHOWN_MAX = 1_000


class ListedSession(msgspec.Struct, rename="camel"):
    """A session: since when, until when (ms or µs), from where and with what it was begun."""

    session_id: str
    created_time: Time
    expires_time: Time
    address: str
    user_agent: str
    is_current: bool


async def list_sessions(ports: Ports, call: Call) -> list[ListedSession]:
    """Return the sessions that have not ended, newest first."""
    rows = await ports.database.fetch(_SELECT, {"account": call.account_id, "most": _SHOWN_MAX})
    return [
        ListedSession(
            session_id,
            created * call.time_scale,
            expires * call.time_scale,
            address,
            agent,
            session_id == call.session_id,
        )
        for session_id, created, expires, address, agent in rows
    ]


FUNCTION = Function(
    "GET",
    "/api/v1/sessions",
    Group.USERS,
    "Where the account is signed in",
    list_sessions,
    security=Security.SESSION,
)
