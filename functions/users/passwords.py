"""/api/v1/password: change the password, or reset a forgotten one by mail."""

from typing import Annotated, Final

import msgspec

from functions.api.errors import ApiError
from functions.api.function import Function, Group, Security
from functions.api.json_body import read_body
from functions.api.ports import Call, Ports
from functions.api.shapes import Nothing
from functions.repositories.mails import Purpose
from functions.repositories.users import Contact
from functions.users.activity import Activity
from functions.users.attempts import Attempt
from functions.users.mails import changed, owner_of_token, send_token
from functions.users.revoke_api_key import revoke_every_key
from functions.users.second_factor import check_second_factor
from functions.users.sessions import end_sessions
from functions.users.sign_up import Email, NewPassword, Secret, normalized_email
from functions.users.step_up import confirm
from protocol.units import AccountId

Token = Annotated[str, msgspec.Meta(max_length=100)]
_NOBODY: Final = Contact("", False)


class Change(msgspec.Struct, frozen=True, rename="camel"):
    """The current password, the new one, and a code if the account has a second factor."""

    password: Secret
    new_password: NewPassword
    code: Secret = ""


class Forgotten(msgspec.Struct, frozen=True):
    """The address of the account with the forgotten password."""

    email: Email


class Reset(msgspec.Struct, frozen=True, rename="camel"):
    """The token from the mail, the new password, and a code if the account has a second factor."""

    token: Token
    new_password: NewPassword
    code: Secret = ""


async def change_password(ports: Ports, call: Call) -> Nothing:
    """Change the password, and end all other sessions."""
    body = read_body(call.body, Change)
    if body.new_password == body.password:
        raise ApiError(-1130, "The new password is the same as the old one.")
    contact = await ports.users.contact(call.account_id) or _NOBODY
    hashed = await ports.passwords.hashed(body.new_password, contact.email, is_known=True)
    confirmed_hash = await confirm(ports, call, body.password, body.code)
    if not await _set_password(ports, call, call.account_id, hashed, Activity.CHANGED, confirmed_hash):
        raise ApiError(-1002, "Password is wrong.", 401)  # it was changed in the meantime
    return Nothing()


async def forget_password(ports: Ports, call: Call) -> Nothing:
    """Send a mail for resetting the password.

    The answer is the same if there is no such account.
    """
    email = normalized_email(read_body(call.body, Forgotten).email)
    await ports.attempts.begin(Attempt(f"reset {email}", call.address, is_known=False))
    account_id = await ports.users.account_of(email)
    if account_id is not None:
        await send_token(ports, account_id, Purpose.RESET)
    return Nothing()


async def reset_password(ports: Ports, call: Call) -> Nothing:
    """Set a new password by a token from a mail, and end all sessions.

    A reader of the mails owns the address. If the address was not verified before, somebody else may have
    signed up with it, and have added keys and a second factor: then the second factor is not required, and
    all of these are removed.
    """
    body = read_body(call.body, Reset)
    account_id = await owner_of_token(ports, body.token, Purpose.RESET, use=False)
    if account_id is None:
        raise _no_token()
    # Before the code and the token are used up: both are valid only once.
    contact = await ports.users.contact(account_id) or _NOBODY
    hashed = await ports.passwords.hashed(body.new_password, contact.email, is_known=True)
    knows_address = await ports.sessions.knows_address(account_id, call.address)
    await ports.attempts.begin(Attempt(f"reset {account_id}", call.address, knows_address))
    if contact.is_verified:
        await check_second_factor(ports, call, account_id, body.code)
    if await owner_of_token(ports, body.token, Purpose.RESET, use=True) is None:
        raise _no_token()
    by_owner = msgspec.structs.replace(call, account_id=account_id)
    await _set_password(ports, by_owner, account_id, hashed, Activity.RESET)
    if not contact.is_verified:
        # After the sessions have ended, which could create more keys. The mark comes last: an interrupted
        # user requests another mail.
        await revoke_every_key(ports, by_owner)
        await ports.second_factors.remove(account_id, by_owner.origin)
        await ports.users.verify_silently(account_id)
    return Nothing()


async def _set_password(
    ports: Ports,
    call: Call,
    account_id: AccountId,
    hashed: str,
    activity: Activity,
    current_hash: str | None = None,
) -> bool:
    """Replace the password, if the current one still has the hash `current_hash`.

    End the sessions that depend on the old one.
    """
    if not await ports.users.set_password(account_id, hashed, activity, call.origin, known_hash=current_hash):
        return False
    await ports.mails.use_up_tokens(account_id, Purpose.RESET)
    others = [
        session_id
        for session_id in await ports.sessions.open_ids(account_id)
        if session_id != call.session_id
    ]
    await end_sessions(ports, call, others)
    await ports.mails.write(account_id, changed("Your password was changed", call))
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
