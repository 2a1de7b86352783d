"""DELETE /api/v1/sessions: end one session, or all others."""

from typing import TypedDict

from functions.api.errors import invalid_parameter
from functions.api.function import Function, Group, Parameter, Security
from functions.api.ports import Call, Ports
from functions.users.sessions import end_sessions


class EndedShape(TypedDict):
    """The number of ended sessions."""

    ended: int


async def end(ports: Ports, call: Call) -> EndedShape:
    """End a session of the account by its id, or without an id all but that of the request.

    Return how many had not ended before.
    """
    target_id = call.parameters.optional("sessionId")
    if target_id is None:
        others = [
            session_id
            for session_id in await ports.sessions.open_ids(call.account_id)
            if session_id != call.session_id
        ]
    elif "\x00" in target_id:
        raise invalid_parameter("sessionId")
    else:
        others = [target_id]
    ended = await end_sessions(ports, call, others)
    if target_id is not None and not ended:
        raise invalid_parameter("sessionId")
    return EndedShape(ended=sum(ended))


FUNCTION = Function(
    "DELETE",
    "/api/v1/sessions",
    Group.USERS,
    "End one session, or all others",
    end,
    security=Security.SESSION,
    parameters=(Parameter("sessionId", "The session to end; without it all but the one that asks."),),
)
