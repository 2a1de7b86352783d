"""The second factor: time-based codes (TOTP, RFC 6238), and recovery codes for a lost device.

Each code is valid once.
"""

import hashlib
import re
import secrets
from typing import Final, NamedTuple

import pyotp

from functions.api.errors import ApiError
from functions.api.ports import Call, Ports
from functions.repositories.second_factors import StoredFactor
from protocol.units import AccountId

NEEDED: Final = -9001
STEP_S: Final = 30
RECOVERY_CODES: Final = 10
_ISSUER: Final = "Exchange"
_BEFORE_AND_AFTER: Final = 1
"""Maximum deviation of the device's clock, in steps."""
_code: Final = re.compile(r"[0-9]{6}", re.ASCII)


class Factor(NamedTuple):
    """An account's second factor."""

    email: str
    secret: str
    """In base32; empty: there is none, or no known key opens it."""
    sealed: bytes
    """The secret as it is stored."""
    is_on: bool


def binding_of(account_id: AccountId) -> str:
    """Return the binding of the sealed secret."""
    return f"totp:{account_id}"


async def factor_of(ports: Ports, account_id: AccountId) -> Factor:
    """Return an account's second factor."""
    email, sealed, is_on = await ports.second_factors.find(account_id) or StoredFactor("", b"", False)
    try:
        secret = ports.secret_box.open(sealed, binding_of(account_id)).decode() if sealed else ""
    except ValueError:
        secret = ""
    return Factor(email, secret, sealed, is_on)


def new_secret() -> str:
    """Return a secret for a new device."""
    return pyotp.random_base32()


def address_of(factor: Factor) -> str:
    """Return the address (otpauth://) in a device's QR code."""
    return pyotp.TOTP(factor.secret, interval=STEP_S).provisioning_uri(name=factor.email, issuer_name=_ISSUER)


async def uses_code(ports: Ports, call: Call, account_id: AccountId, secret: str, code: str) -> bool:
    """Use a code; return whether it is a current code of the device and was not used before."""
    if not secret or _code.fullmatch(code) is None:  # without a secret anybody can compute codes
        return False
    device, now_step = pyotp.TOTP(secret, interval=STEP_S), call.now // 1000 // STEP_S
    for step in range(now_step - _BEFORE_AND_AFTER, now_step + _BEFORE_AND_AFTER + 1):
        if pyotp.utils.strings_equal(device.at(step * STEP_S), code):
            return await ports.second_factors.use_step(account_id, step)
    return False


async def check_second_factor(ports: Ports, call: Call, account_id: AccountId, code: str) -> None:
    """Refuse a request without the second factor, if the account has one.

    Raises:
        ApiError: -9001 a code is required, -1002 it is wrong or was used, or the device's secret cannot be
            opened.
    """
    factor = await factor_of(ports, account_id)
    if not factor.is_on:
        return
    if not code:
        raise ApiError(NEEDED, "A code of the second factor is needed.", 401)
    if await uses_code(ports, call, account_id, factor.secret, code):
        return
    if await ports.second_factors.use_recovery_code(account_id, hash_of(code)):
        return
    if not factor.secret:
        raise ApiError(
            -1002, "The device's codes cannot be checked now. Use a recovery code, or ask the operator.", 401
        )
    raise ApiError(-1002, "The code is wrong, or was used; a device shows another one every 30 seconds.", 401)


def new_recovery_codes() -> list[str]:
    """Return codes of 80 random bits each."""
    return [secrets.token_hex(10).upper() for _ in range(RECOVERY_CODES)]


def hash_of(code: str) -> str:
    """Return the stored hash of a recovery code."""
    return hashlib.sha256(code.strip().upper().encode()).hexdigest()
