"""/api/v1/password: change it, or choose a new one by mail when it is forgotten."""

from typing import Annotated, Final, LiteralString

import msgspec

from functions.api.errors import ApiError
from functions.api.function import Function, Group, Security
from functions.api.json_body import read_body
from functions.api.ports import Call, Ports
from functions.api.shapes import Nothing
from functions.users.activity import Activity, note_parameters, noting
from functions.users.attempts import Attempt
from functions.users.mails import Purpose, changed, owner_of_token, send_token, use_up_tokens, write_mail
from functions.users.revoke_api_key import revoke_every_key
from functions.users.second_factor import check_second_factor
from functions.users.sessions import end_sessions, open_sessions
from functions.users.sign_up import Email, NewPassword, Secret, normalized_email
from functions.users.step_up import confirm
from functions.users.totp import forget_factor
from protocol.units import AccountId

Token = Annotated[str, msgspec.Meta(max_length=100)]
_BY_EMAIL: Final = "SELECT account_id FROM users WHERE email = %(email)s"
_OF_ACCOUNT: Final = "SELECT email, verified_at IS NOT NULL FROM users WHERE account_id = %(account)s"
_KNOWS_ADDRESS: Final = "SELECT FROM sessions WHERE account_id = %(account)s AND address = %(address)s LIMIT 1"
_VERIFIED: Final = "UPDATE users SET verified_at = coalesce(verified_at, now()) WHERE account_id = %(account)s"
_UPDATE: Final[LiteralString] = noting(
    """
    UPDATE users SET password_hash = %(hash)s
    WHERE account_id = %(account)s AND (%(known)s::text IS NULL OR password_hash = %(known)s)
    RETURNING account_id, '' AS detail
    """,
    "SELECT account_id FROM changed",
)


class Change(msgspec.Struct, frozen=True, rename="camel"):
    """The password, the one that takes its place, and a code where the account has a second factor."""

    password: Secret
    new_password: NewPassword
    code: Secret = ""


class Forgotten(msgspec.Struct, frozen=True):
    """Whose password is forgotten."""

    email: Email


class Reset(msgspec.Struct, frozen=True, rename="camel"):
    """What the mail said, the new password, and a code where the account has a second factor."""

    token: Token
    new_password: NewPassword
    code: Secret = ""


async def change_password(ports: Ports, call: Call) -> Nothing:
    """Change the password, and end all sessions but the one that asks."""
    wanted = read_body(call.body, Change)
    if wanted.new_password == wanted.password:
        raise ApiError(-1130, "The new password is the same as the old one.")
    email, _ = await _of_account(ports, call.account_id)
    hashed = await ports.passwords.hashed(wanted.new_password, email, is_known=True)
    known = await confirm(ports, call, wanted.password, wanted.code)
    if not await _set_password(ports, call, call.account_id, hashed, Activity.CHANGED, known):
        raise ApiError(-1002, "Password is wrong.", 401)  # it was changed meanwhile
    return Nothing()


async def forget_password(ports: Ports, call: Call) -> Nothing:
    """Send a mail by which a new password can be chosen. The answer is the same where there is no such account."""
    email = normalized_email(read_body(call.body, Forgotten).email)
    await ports.attempts.begin(Attempt(f"reset {email}", call.address, is_known=False))
    rows = await ports.database.fetch(_BY_EMAIL, {"email": email})
    if rows:
        await send_token(ports, AccountId(rows[0][0]), Purpose.RESET)
    return Nothing()


async def reset_password(ports: Ports, call: Call) -> Nothing:
    """Choose a new password by what a mail said, and end all sessions.

    Whoever reads the mails owns the address. If nobody had shown that before, somebody else may have signed up with it, and have added
    keys and a second factor: the factor is not asked for, and they are gone afterwards.
    """
    wanted = read_body(call.body, Reset)
    account_id = await owner_of_token(ports, wanted.token, Purpose.RESET, use=False)
    if account_id is None:
        raise _no_token()
    # Before the code and the mail's token are used up: neither is good a second time.
    email, is_verified = await _of_account(ports, account_id)
    hashed = await ports.passwords.hashed(wanted.new_password, email, is_known=True)
    wanted_from = {"account": account_id, "address": call.address}
    knows_address = bool(await ports.database.fetch(_KNOWS_ADDRESS, wanted_from))
    await ports.attempts.begin(Attempt(f"reset {account_id}", call.address, knows_address))
    if is_verified:
        await check_second_factor(ports, call, account_id, wanted.code)
    if await owner_of_token(ports, wanted.token, Purpose.RESET, use=True) is None:
        raise _no_token()
    by_owner = msgspec.structs.replace(call, account_id=account_id)
    await _set_password(ports, by_owner, account_id, hashed, Activity.RESET)
    if not is_verified:
        # After the sessions have ended, in which more could be made. The mark comes last: who is interrupted asks for another mail.
        await revoke_every_key(ports, by_owner)
        await forget_factor(ports, by_owner)
        await ports.database.fetch(_VERIFIED, {"account": account_id})
    return Nothing()


async def _of_account(ports: Ports, account_id: AccountId) -> tuple[str, bool]:
    """Return an account's address, and whether it was shown to be its owner's."""
    rows = await ports.database.fetch(_OF_ACCOUNT, {"account": account_id})
    return (rows[0][0], rows[0][1]) if rows else ("", False)


async def _set_password(
    ports: Ports, call: Call, account_id: AccountId, hashed: str, activity: Activity, known: str | None = None
) -> bool:
    """Set another password, if the one of now still has the hash that is `known`; end what the one of before was good for."""
    wanted = {**note_parameters(activity, call), "hash": hashed, "account": account_id, "known": known}
    if not await ports.database.fetch(_UPDATE, wanted):
        return False
    await use_up_tokens(ports, account_id, Purpose.RESET)
    others = [each for each in await open_sessions(ports, account_id) if each != call.session_id]
    await end_sessions(ports, call, others)
    await write_mail(ports, account_id, changed("Your password was changed", call))
    return True


def _no_token() -> ApiError:
    return ApiError(-1130, "Data sent for parameter 'token' is not valid.")


FUNCTIONS: Final = (
    Function(
        "POST",
        "/api/v1/password",
        Group.USERS,
        "Change the password",
        change_password,
        security=Security.SESSION,
        weight=20,
        body=Change,
    ),
    Function(
        "POST",
        "/api/v1/password/forgotten",
        Group.USERS,
        "Ask for a new password by mail",
        forget_password,
        weight=20,
        body=Forgotten,
    ),
    Function(
        "POST",
        "/api/v1/password/reset",
        Group.USERS,
        "Choose a new password by mail",
        reset_password,
        weight=20,
        body=Reset,
        refuses_with=(401,),
    ),
)
