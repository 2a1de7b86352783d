"""POST /api/v1/signin: begin a session."""

from typing import Final

import msgspec

from functions.api.errors import ApiError
from functions.api.function import Answered, Function, Group
from functions.api.json_body import read_body
from functions.api.ports import Call, Ports
from functions.repositories.users import SignInFacts
from functions.users.attempts import Attempt
from functions.users.mails import new_device
from functions.users.second_factor import NEEDED, check_second_factor
from functions.users.session_cookies import cookie_that_signs_in
from functions.users.sessions import csrf_token, open_session
from functions.users.sign_up import Email, Secret, normalized_email
from protocol.units import AccountId

_NOBODY: Final = SignInFacts(AccountId(0), "", False, False, False)


class SigningIn(msgspec.Struct, frozen=True):
    """The user's credentials, and whether the session is a browser's: then its token is only in a cookie.

    `code` is the second factor's, if the account has one, or one of its recovery codes.
    """

    email: Email
    password: Secret
    code: Secret = ""
    cookie: bool = False


class Session(msgspec.Struct, frozen=True, rename="camel"):
    """A new session; it expires after `expires_in` seconds.

    `token` is for `Authorization: Bearer`; a browser has it in a cookie, and sends `csrf_token` in
    `X-CSRF-Token` instead.
    """

    session_id: str
    expires_in: int
    token: str | msgspec.UnsetType = msgspec.UNSET
    csrf_token: str | msgspec.UnsetType = msgspec.UNSET


async def sign_in(ports: Ports, call: Call) -> Session | Answered[Session]:
    """Begin a session.

    An unknown address takes as long as a wrong password, and gets the same answer. After some failed
    attempts, the next one has to wait (429 with Retry-After).
    """
    body = read_body(call.body, SigningIn)
    email = normalized_email(body.email)
    facts = await ports.users.sign_in_facts(email, call.origin) or _NOBODY
    attempt = Attempt(email, call.address, facts.knows_address)
    # Counted before the password is compared: parallel guesses would otherwise all pass.
    await ports.attempts.begin(attempt)
    if not await ports.passwords.matches(facts.password_hash, body.password):
        await ports.activity.note_refused_sign_in(email, call.origin)
        raise _wrong()
    try:
        await check_second_factor(ports, call, facts.account_id, body.code)
    except ApiError as error:
        # The client has the right password: the owner should know.
        if error.status == 401 and error.code != NEEDED:
            await ports.activity.note_refused_sign_in(email, call.origin)
        raise
    await ports.attempts.succeeded(attempt)
    session = await open_session(ports, call, facts.account_id, facts.password_hash)
    # The password was changed after it was compared.
    if session is None:
        raise _wrong()
    if facts.was_here and not (facts.knows_address and facts.knows_agent):
        await ports.mails.write(facts.account_id, new_device(call))
    ttl_s = ports.settings.session_ttl_s
    if not body.cookie:
        return Session(session.session_id, ttl_s, token=session.token)
    shape = Session(session.session_id, ttl_s, csrf_token=csrf_token(session.token))
    return Answered(shape, (cookie_that_signs_in(session.token, ttl_s),))


def _wrong() -> ApiError:
    return ApiError(-1002, "Email or password is wrong.", 401)


FUNCTION = Function(
    "POST",
    "/api/v1/signin",
    Group.USERS,
    "Begin a session",
    sign_in,
    weight=20,
    body=SigningIn,
    refuses_with=(401,),
)
