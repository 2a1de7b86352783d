"""GET /api/v1/sessions: the open sessions of the account."""

import msgspec

from functions.api.function import Function, Group, Security
from functions.api.ports import Call, Ports
from functions.api.shapes import Time

_SHOWN_MAX = 1_000


class ListedSession(msgspec.Struct, rename="camel"):
    """A session: beginning and expiry (ms or µs), and the address and program that began it."""

    session_id: str
    created_time: Time
    expires_time: Time
    address: str
    user_agent: str
    is_current: bool


async def list_sessions(ports: Ports, call: Call) -> list[ListedSession]:
    """Return the sessions that have not ended, newest first."""
    return [
        ListedSession(
            session.session_id,
            session.created_time * call.time_scale,
            session.expires_time * call.time_scale,
            session.address,
            session.agent,
            session.session_id == call.session_id,
        )
        for session in await ports.sessions.newest(call.account_id, _SHOWN_MAX)
    ]


FUNCTION = Function(
    "GET",
    "/api/v1/sessions",
    Group.USERS,
    "Where the account is signed in",
    list_sessions,
    security=Security.SESSION,
)
