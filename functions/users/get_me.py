"""GET /api/v1/me: who is signed in."""

import msgspec

from functions.api.errors import not_signed_in
from functions.api.function import Function, Group, Security
from functions.api.ports import Call, Ports
from functions.api.shapes import Time
from functions.users.sessions import csrf_token

_SELECT = """
    SELECT email, (extract(epoch from created_at) * 1000)::bigint, verified_at IS NOT NULL, totp_since IS NOT NULL
    FROM users WHERE account_id = %(account)s
"""


class Me(msgspec.Struct, rename="camel"):
    """Who is signed in, and by which session."""

    account_id: int
    email: str
    created_time: Time
    is_verified: bool
    """Whether the address was shown to be the account's owner's."""
    has_second_factor: bool
    session_id: str
    csrf_token: str


async def get_me(ports: Ports, call: Call) -> Me:
    """Return the account, and what a page proves with that it is the exchange's own."""
    rows = await ports.database.fetch(_SELECT, {"account": call.account_id})
    if not rows:
        raise not_signed_in()
    email, created, is_verified, has_factor = rows[0]
    token = csrf_token(call.session)
    return Me(call.account_id, email, created * call.time_scale, is_verified, has_factor, call.session_id, token)


FUNCTION = Function("GET", "/api/v1/me", Group.USERS, "Who is signed in", get_me, security=Security.SESSION)
