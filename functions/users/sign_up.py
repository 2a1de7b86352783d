"""POST /api/v1/signup: make an account."""

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
"""A password or code that was chosen before: what was taken once must be good for showing it."""


class Credentials(msgspec.Struct, frozen=True):
    """Who signs up."""

    email: Email
    password: NewPassword


class SignedUp(msgspec.Struct, frozen=True):
    """Who may sign in."""

    email: str


def normalized_email(email: str) -> str:
    """Return the address as it is kept; -1130 when it is none."""
    if _email.fullmatch(email) is None:
        raise ApiError(-1130, "Data sent for parameter 'email' is not valid.")
    return email.lower()


async def sign_up(ports: Ports, call: Call) -> SignedUp:
    """Make an account.

    The answer is the same, and takes as long, when there is one already: its owner hears of it by mail, and
    nobody else.
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
