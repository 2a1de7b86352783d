"""POST /api/v1/signout: end the session."""

from functions.function import Function, Group, Security
from functions.ports import Call, Ports
from functions.sessions import session_key


async def sign_out(ports: Ports, call: Call) -> object:
    """End the session that the request came with."""
    await ports.key_values.remove(session_key(call.session))
    return {}


FUNCTION = Function("POST", "/api/v1/signout", Group.USERS, "End the session", sign_out, security=Security.SESSION)
