"""/api/v1/verification: showing that the address of an account is its owner's."""

from typing import Final, LiteralString

import msgspec

from functions.api.errors import ApiError
from functions.api.function import Function, Group, Security
from functions.api.json_body import read_body
from functions.api.ports import Call, Ports
from functions.api.shapes import Nothing
from functions.users.activity import Activity, note_parameters, noting
from functions.users.mails import Purpose, owner_of_token, send_token
from functions.users.passwords import Token

_VERIFY: Final[LiteralString] = noting(
    """
    UPDATE users SET verified_at = coalesce(verified_at, now()) WHERE account_id = %(account)s
    RETURNING account_id, '' AS detail
    """,
    "SELECT account_id FROM changed",
)
_IS_VERIFIED: Final = "SELECT verified_at IS NOT NULL FROM users WHERE account_id = %(account)s"


class Shown(msgspec.Struct, frozen=True):
    """What the mail said."""

    token: Token


async def verify(ports: Ports, call: Call) -> Nothing:
    """Note that whoever asks reads the mails to the account's address."""
    account_id = await owner_of_token(ports, read_body(call.body, Shown).token, Purpose.VERIFICATION, use=True)
    if account_id is None:
        raise ApiError(-1130, "Data sent for parameter 'token' is not valid.")
    await ports.database.fetch(_VERIFY, {**note_parameters(Activity.VERIFIED, call), "account": account_id})
    return Nothing()


async def ask_again(ports: Ports, call: Call) -> Nothing:
    """Send another mail."""
    if not await is_verified(ports, call):
        await send_token(ports, call.account_id, Purpose.VERIFICATION)
    return Nothing()


async def is_verified(ports: Ports, call: Call) -> bool:
    """Return whether the account that calls has shown that its address is its owner's."""
    rows = await ports.database.fetch(_IS_VERIFIED, {"account": call.account_id})
    return bool(rows and rows[0][0])


async def check_verified(ports: Ports, call: Call) -> None:
    """Refuse with -1002 an account that has not, where the exchange demands it."""
    if ports.settings.verification_required and not await is_verified(ports, call):
        raise ApiError(-1002, "Verify the address of this account first: it was sent a mail.", 403)


FUNCTIONS: Final = (
    Function("POST", "/api/v1/verification", Group.USERS, "Verify an address", verify, weight=5, body=Shown),
    Function(
        "POST",
        "/api/v1/verification/mail",
        Group.USERS,
        "Ask for another mail to verify an address with",
        ask_again,
        security=Security.SESSION,
        weight=100,
    ),
)
