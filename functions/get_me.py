"""GET /api/v1/me: who is signed in."""

from functions.errors import not_signed_in
from functions.function import Function, Group, Security
from functions.ports import Call, Ports

_SELECT = """
    SELECT email, (extract(epoch from created_at) * 1000)::bigint FROM users WHERE account_id = %(account)s
"""


async def get_me(ports: Ports, call: Call) -> object:
    """Return the account."""
    rows = await ports.database.fetch(_SELECT, {"account": call.account_id})
    if not rows:
        raise not_signed_in()
    email, created = rows[0]
    return {"accountId": call.account_id, "email": email, "createdTime": created * call.time_scale}


FUNCTION = Function("GET", "/api/v1/me", Group.USERS, "Who is signed in", get_me, security=Security.SESSION)
