"""POST /api/v1/signup: create an account."""

import re
from typing import Annotated

import msgspec

from functions.api.errors import ApiError
from functions.api.function import Function, Group
from functions.api.json_body import read_body
from functions.api.ports import Call, Ports
from functions.repositories.mails import Purpose
from functions.users.mails import send_token, signed_up_again
from functions.users.password_rules import LENGTH_MAX, LENGTH_MIN

_email = re.compile(r"[^@\s\x00-\x1f]{1,64}@[^@\s\x00-\x1f]{1,190}", re.ASCII)

Email = Annotated[str, msgspec.Meta(min_length=3, max_length=254)]
NewPassword = Annotated[str, msgspec.Meta(min_length=LENGTH_MIN, max_length=LENGTH_MAX)]
Secret = Annotated[str, msgspec.Meta(max_length=LENGTH_MAX)]
"""An existing password or code: the maximum length must accept everything that was accepted before."""


class Credentials(msgspec.Struct, frozen=True):
    """The new user's credentials."""

    email: Email
    password: NewPassword


class SignedUp(msgspec.Struct, frozen=True):
    """The new account."""

    email: str


def normalized_email(email: str) -> str:
    """Return the address in its stored form; -1130 if it is invalid."""
    if _email.fullmatch(email) is None:
        raise ApiError(-1130, "Data sent for parameter 'email' is not valid.")
    return email.lower()


async def sign_up(ports: Ports, call: Call) -> SignedUp:
    """Create an account.

    The answer is the same, and takes as long, if there is already an account: only its owner is notified, by
    mail.
    """
    credentials = read_body(call.body, Credentials)
    email = normalized_email(credentials.email)
    hashed = await ports.passwords.hashed(credentials.password, email, is_known=False)
    account_id = await ports.users.add(email, hashed, call.origin)
    if account_id is not None:
        await send_token(ports, account_id, Purpose.VERIFICATION)
    else:
        owner = await ports.users.account_of(email)
        assert owner is not None, "accounts are never removed"
        await ports.mails.write(owner, signed_up_again())
    return SignedUp(email)


FUNCTION = Function(
    "POST", "/api/v1/signup", Group.USERS, "Make an account", sign_up, weight=20, body=Credentials
)
