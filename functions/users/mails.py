"""The texts of mails to the owners of accounts."""

import hashlib
import secrets
from typing import Final

from functions.api.ports import Call, Ports
from functions.repositories.mails import Mail, Purpose
from protocol.units import AccountId

TOKEN_TTL_S: Final = {Purpose.VERIFICATION: 86_400, Purpose.RESET: 3_600}
_SIGNATURE: Final = (
    "\n\nIf this was not you, sign in, look at your sessions and keys, and change your password.\n"
)


async def send_token(ports: Ports, account_id: AccountId, purpose: Purpose) -> None:
    """Create a token and write the mail with it."""
    token = secrets.token_urlsafe(24)
    await ports.mails.add_token(_hash_of(token), account_id, purpose, TOKEN_TTL_S[purpose])
    link = f"{ports.settings.resolved_public_url()}/trade?{purpose}={token}"
    if purpose is Purpose.VERIFICATION:
        mail = Mail(
            "Verify your address",
            f"Open this to show that the address is yours:\n\n{link}\n\nor enter: {token}\n",
        )
    else:
        mail = Mail(
            "Choose a new password",
            f"Open this within an hour to choose a new password:\n\n{link}\n\nor enter: {token}\n\n"
            "If you did not ask for it, do nothing: your password stays as it is.\n",
        )
    await ports.mails.write(account_id, mail)


async def owner_of_token(ports: Ports, token: str, purpose: Purpose, *, use: bool) -> AccountId | None:
    """Return the account of a token, or None; `use` invalidates the token."""
    token_hash = _hash_of(token)
    if use:
        return await ports.mails.use_token(token_hash, purpose)
    return await ports.mails.owner_of_token(token_hash, purpose)


def signed_up_again() -> Mail:
    """Return the mail to the owner of an address with which somebody has signed up again."""
    return Mail(
        "You have an account already",
        "Somebody, perhaps you, has signed up with this address. It has an account: sign in, or ask for a "
        "new password.\n",
    )


def new_device(call: Call) -> Mail:
    """Return the mail about a sign-in from a new address or program."""
    return Mail(
        "A new sign-in",
        f"Your account was signed in to from {call.address} with {call.agent or 'a program'}.{_SIGNATURE}",
    )


def changed(change: str, call: Call) -> Mail:
    """Return the mail about a change of the account's security settings."""
    return Mail(f"{change}", f"{change}, from {call.address} with {call.agent or 'a program'}.{_SIGNATURE}")


def _hash_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
