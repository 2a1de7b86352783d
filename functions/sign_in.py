"""POST /api/v1/signin: begin a session."""

from typing import Annotated

import msgspec

from functions.activity import Activity, noted_alone
from functions.errors import ApiError
from functions.function import Answered, Function, Group
from functions.json_body import read_body
from functions.ports import Call, Ports
from functions.session_cookies import cookie_that_signs_in
from functions.sessions import csrf_token, open_session
from functions.sign_up import Email, normalized_email
from protocol.units import AccountId

_SELECT = "SELECT account_id, password_hash FROM users WHERE email = %(email)s"


class SigningIn(msgspec.Struct, frozen=True):
    """Who signs in, and whether the session is a browser's: then its token is in a cookie, and nowhere else."""

    email: Email
    password: Annotated[str, msgspec.Meta(max_length=1024)]
    cookie: bool = False


class Session(msgspec.Struct, frozen=True, rename="camel"):
    """A session that has begun; it ends by itself after `expires_in` seconds.

    `token` is for `Authorization: Bearer`; a browser has it in a cookie, and sends `csrf_token` in `X-CSRF-Token` instead.
    """

    session_id: str
    expires_in: int
    token: str | msgspec.UnsetType = msgspec.UNSET
    csrf_token: str | msgspec.UnsetType = msgspec.UNSET


async def sign_in(ports: Ports, call: Call) -> object:
    """Begin a session.

    An unknown address takes as long as a wrong password, and gets the same answer.
    """
    asked = read_body(call.body, SigningIn)
    rows = await ports.database.fetch(_SELECT, {"email": normalized_email(asked.email)})
    account_id, password_hash = rows[0] if rows else (0, "")
    if not await ports.passwords.matches(password_hash, asked.password):
        if rows:
            await ports.database.fetch(*noted_alone(Activity.SIGN_IN_REFUSED, call, AccountId(account_id), ""))
        raise ApiError(-1002, "Email or password is wrong.", 401)
    opened = await open_session(ports, call, AccountId(account_id))
    ttl_s = ports.settings.session_ttl_s
    if not asked.cookie:
        return Session(opened.session_id, ttl_s, token=opened.token)
    shape = Session(opened.session_id, ttl_s, csrf_token=csrf_token(opened.token))
    return Answered(shape, (cookie_that_signs_in(opened.token, ttl_s),))


FUNCTION = Function(
    "POST", "/api/v1/signin", Group.USERS, "Begin a session", sign_in, weight=20, body=SigningIn, answer=Session
)
"""`password` is not bounded from below: what was taken at the sign-up once must be good for signing in."""
