"""GET /api/v1/me: the signed-in user."""

import msgspec

from functions.api.errors import not_signed_in
from functions.api.function import Function, Group, Security
from functions.api.ports import Call, Ports
from functions.api.shapes import Time
from functions.users.sessions import csrf_token


class Me(msgspec.Struct, rename="camel"):
    """The signed-in user and the session."""

    account_id: int
    email: str
    created_time: Time
    is_verified: bool
    """Whether the address is verified."""
    has_second_factor: bool
    session_id: str
    csrf_token: str


async def get_me(ports: Ports, call: Call) -> Me:
    """Return the account and the CSRF token, by which a page proves that it is the exchange's own."""
    profile = await ports.users.profile(call.account_id)
    if profile is None:
        raise not_signed_in()
    return Me(
        call.account_id,
        profile.email,
        profile.created_time * call.time_scale,
        profile.is_verified,
        profile.has_second_factor,
        call.session_id,
        csrf_token(call.session),
    )


FUNCTION = Function("GET", "/api/v1/me", Group.USERS, "Who is signed in", get_me, security=Security.SESSION)
