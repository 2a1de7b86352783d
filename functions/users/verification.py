"""/api/v1/verification: verify the address of an account."""

from typing import Final

import msgspec

from functions.api.errors import ApiError
from functions.api.function import Function, Group, Security
from functions.api.json_body import read_body
from functions.api.ports import Call, Ports
from functions.api.shapes import Nothing
from functions.repositories.mails import Purpose
from functions.users.mails import owner_of_token, send_token
from functions.users.passwords import Token


class Shown(msgspec.Struct, frozen=True):
    """The token from the mail."""

    token: Token


async def verify(ports: Ports, call: Call) -> Nothing:
    """Record that the client reads the mails to the account's address."""
    account_id = await owner_of_token(
        ports, read_body(call.body, Shown).token, Purpose.VERIFICATION, use=True
    )
    if account_id is None:
        raise ApiError(-1130, "Data sent for parameter 'token' is not valid.")
    await ports.users.verify(account_id, call.origin)
    return Nothing()


async def ask_again(ports: Ports, call: Call) -> Nothing:
    """Send another mail."""
    if not await ports.users.is_verified(call.account_id):
        await send_token(ports, call.account_id, Purpose.VERIFICATION)
    return Nothing()


async def check_verified(ports: Ports, call: Call) -> None:
    """Refuse with -1002 an unverified account, if the exchange requires verification."""
    if ports.settings.verification_required and not await ports.users.is_verified(call.account_id):
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
