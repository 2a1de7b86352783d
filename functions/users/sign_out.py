"""POST /api/v1/signout: end the session."""

from functions.api.function import Answered, Function, Group, Security
from functions.api.ports import Call, Ports
from functions.api.shapes import Nothing
from functions.users.session_cookies import cookie_that_signs_out
from functions.users.sessions import end_at_once, end_sessions


async def sign_out(ports: Ports, call: Call) -> Answered[Nothing]:
    """End the request's session; also (with answer 503) if the database is unreachable."""
    await end_at_once(ports, call)
    await end_sessions(ports, call, [call.session_id])
    return Answered(Nothing(), (cookie_that_signs_out(),))


FUNCTION = Function(
    "POST", "/api/v1/signout", Group.USERS, "End the session", sign_out, security=Security.SESSION
)
