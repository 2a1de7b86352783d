"""/api/v1/totp: the second factor of an account."""

from typing import Final

import msgspec

from functions.api.errors import ApiError
from functions.api.function import Function, Group, Security
from functions.api.json_body import read_body
from functions.api.ports import Call, Ports
from functions.api.shapes import Nothing
from functions.users.mails import changed
from functions.users.second_factor import (
    Factor,
    address_of,
    binding_of,
    factor_of,
    hash_of,
    new_recovery_codes,
    new_secret,
    uses_code,
)
from functions.users.sign_up import Secret
from functions.users.step_up import confirm


class Begin(msgspec.Struct, frozen=True):
    """The account's password."""

    password: Secret


class Device(msgspec.Struct, frozen=True):
    """The secret for a device, and the same as the address in a QR code."""

    secret: str
    uri: str


class Confirm(msgspec.Struct, frozen=True):
    """A code from the device."""

    code: Secret


class RecoveryCodes(msgspec.Struct, frozen=True, rename="camel"):
    """Recovery codes for a lost device; each is valid once, and they are never shown again."""

    recovery_codes: list[str]


class Remove(msgspec.Struct, frozen=True):
    """The account's password and a code."""

    password: Secret
    code: Secret


async def begin(ports: Ports, call: Call) -> Device:
    """Return a secret for a device.

    It becomes active when a code of it is confirmed; until then another secret may be requested.
    """
    await confirm(ports, call, read_body(call.body, Begin).password, "")
    secret = new_secret()
    sealed = ports.secret_box.seal(secret.encode(), binding_of(call.account_id))
    email = await ports.second_factors.begin(call.account_id, sealed)
    if email is None:
        raise _refused("The account has a second factor; remove it first.")
    return Device(secret, address_of(Factor(email, secret, sealed, False)))


async def confirm_device(ports: Ports, call: Call) -> RecoveryCodes:
    """Require the second factor from now on, and return the recovery codes."""
    code = read_body(call.body, Confirm).code
    factor = await factor_of(ports, call.account_id)
    if factor.is_on or not factor.secret:
        raise _refused("There is no second factor to confirm.")
    if not await uses_code(ports, call, call.account_id, factor.secret, code):
        raise ApiError(
            -1002, "The code is wrong, or was used; a device shows another one every 30 seconds.", 401
        )
    codes = new_recovery_codes()
    hashes = [hash_of(code) for code in codes]
    if not await ports.second_factors.confirm(call.account_id, factor.sealed, hashes, call.origin):
        raise _refused("The second factor was begun anew, or confirmed, meanwhile.")
    await ports.mails.write(call.account_id, changed("A second factor was added to your account", call))
    return RecoveryCodes(codes)


async def remove(ports: Ports, call: Call) -> Nothing:
    """Stop requiring the second factor."""
    body = read_body(call.body, Remove)
    await confirm(ports, call, body.password, body.code)
    if not await ports.second_factors.remove(call.account_id, call.origin):
        raise _refused("There is no second factor.")
    await ports.mails.write(call.account_id, changed("The second factor of your account was removed", call))
    return Nothing()


def _refused(why: str) -> ApiError:
    return ApiError(-1130, why, 409)


FUNCTIONS: Final = (
    Function(
        "POST",
        "/api/v1/totp",
        Group.USERS,
        "Add a second factor",
        begin,
        security=Security.SESSION,
        weight=20,
        body=Begin,
        refuses_with=(409,),
    ),
    Function(
        "POST",
        "/api/v1/totp/confirm",
        Group.USERS,
        "Confirm a second factor",
        confirm_device,
        security=Security.SESSION,
        weight=20,
        body=Confirm,
        refuses_with=(409,),
    ),
    Function(
        "POST",
        "/api/v1/totp/remove",
        Group.USERS,
        "Remove the second factor",
        remove,
        security=Security.SESSION,
        weight=20,
        body=Remove,
        refuses_with=(409,),
    ),
)
