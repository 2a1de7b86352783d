"""Sessions: a random token that the client keeps, and its hash, in Redis, that says who is signed in until when."""

import hashlib
import secrets

from functions.errors import not_signed_in
from functions.ports import KeyValues
from protocol import streams
from protocol.units import AccountId


def session_key(token: str) -> str:
    """Return the Redis key of a session; the token itself is kept nowhere."""
    return streams.session(hashlib.sha256(token.encode()).hexdigest())


async def open_session(key_values: KeyValues, account_id: AccountId, ttl_s: int) -> str:
    """Return the token of a new session."""
    token = secrets.token_urlsafe(32)
    await key_values.put(session_key(token), str(account_id).encode(), ttl_s)
    return token


async def account_of_session(key_values: KeyValues, token: str) -> AccountId:
    """Return who is signed in with the token; -1002 when nobody is."""
    value = await key_values.get(session_key(token)) if token else None
    if value is None or not value.isdigit():
        raise not_signed_in()
    return AccountId(int(value))
