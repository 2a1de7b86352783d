"""Asking again who it is, before what a stolen session must not be enough for."""

from functions.errors import ApiError
from functions.ports import Call, Ports

_SELECT = "SELECT password_hash FROM users WHERE account_id = %(account)s"


async def confirm(ports: Ports, call: Call, password: str) -> None:
    """Refuse with -1002 unless the password is that of the account that calls."""
    rows = await ports.database.fetch(_SELECT, {"account": call.account_id})
    if not await ports.passwords.matches(rows[0][0] if rows else "", password):
        raise ApiError(-1002, "Password is wrong.", 401)
