"""POST /api/v1/signin: begin a session."""

import msgspec

from functions.errors import ApiError
from functions.function import Function, Group
from functions.json_body import read_body
from functions.ports import Call, Ports
from functions.sessions import open_session
from functions.sign_up import Credentials, normalized_email
from protocol.units import AccountId

_SELECT = "SELECT account_id, password_hash FROM users WHERE email = %(email)s"


class Session(msgspec.Struct, frozen=True, rename="camel"):
    """A session that has begun; it ends by itself after `expires_in` seconds."""

    token: str
    expires_in: int


async def sign_in(ports: Ports, call: Call) -> object:
    """Return a session token for `Authorization: Bearer`.

    An unknown address takes as long as a wrong password, and gets the same answer.
    """
    credentials = read_body(call.body, Credentials)
    rows = await ports.database.fetch(_SELECT, {"email": normalized_email(credentials.email)})
    account_id, password_hash = rows[0] if rows else (0, "")
    if not await ports.passwords.matches(password_hash, credentials.password):
        raise ApiError(-1002, "Email or password is wrong.", 401)
    ttl_s = ports.settings.session_ttl_s
    token = await open_session(ports.key_values, AccountId(account_id), ttl_s)
    return Session(token, ttl_s)


FUNCTION = Function(
    "POST", "/api/v1/signin", Group.USERS, "Begin a session", sign_in, weight=20, body=Credentials, answer=Session
)
