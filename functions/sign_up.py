"""POST /api/v1/signup: make an account."""

import re
from typing import Annotated, Final, LiteralString

import msgspec

from functions.activity import Activity, note_parameters, noting
from functions.errors import ApiError
from functions.function import Function, Group
from functions.json_body import read_body
from functions.ports import Call, Ports

_email = re.compile(r"[^@\s\x00-\x1f]{1,64}@[^@\s\x00-\x1f]{1,190}", re.ASCII)
_INSERT: Final[LiteralString] = noting(
    """
    INSERT INTO users (email, password_hash) VALUES (%(email)s, %(hash)s) ON CONFLICT (email) DO NOTHING
    RETURNING account_id, '' AS detail
    """,
    "SELECT account_id FROM changed",
)


Email = Annotated[str, msgspec.Meta(min_length=3, max_length=254)]


class Credentials(msgspec.Struct, frozen=True):
    """Who signs up."""

    email: Email
    password: Annotated[str, msgspec.Meta(min_length=8, max_length=1024)]


class NewAccount(msgspec.Struct, frozen=True, rename="camel"):
    """Who has signed up."""

    account_id: int
    email: str


def normalized_email(email: str) -> str:
    """Return the address as it is kept; -1130 when it is none."""
    if _email.fullmatch(email) is None:
        raise ApiError(-1130, "Data sent for parameter 'email' is not valid.")
    return email.lower()


async def sign_up(ports: Ports, call: Call) -> object:
    """Make an account and return its number; 409 when the address is taken."""
    credentials = read_body(call.body, Credentials)
    email = normalized_email(credentials.email)
    rows = await ports.database.fetch(
        _INSERT,
        {
            **note_parameters(Activity.SIGNED_UP, call),
            "email": email,
            "hash": await ports.passwords.hashed(credentials.password),
        },
    )
    if not rows:
        raise ApiError(-1130, "An account with this email exists already.", 409)
    return NewAccount(rows[0][0], email)


FUNCTION = Function(
    "POST", "/api/v1/signup", Group.USERS, "Make an account", sign_up, weight=20, body=Credentials, answer=NewAccount
)
