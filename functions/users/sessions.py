"""Sessions: a random token that the client keeps, and a record in Redis under the token's hash.

The database has the data that the owner sees. A session has ended when Redis no longer has it, whatever the
database says.
"""

import hashlib
import hmac
import secrets
from typing import Final

import msgspec

from functions.api.errors import not_signed_in
from functions.api.ports import Call, KeyValues, Ports
from functions.users.revocations import Revocation, of_session
from protocol import streams
from protocol.decoding import msgpack_decoder
from protocol.units import AccountId

_ID_BYTES: Final = 12


class SessionRecord(msgspec.Struct, frozen=True, array_like=True):
    """The account, the name under which the session is listed and ended, and its expiry (ms)."""

    account_id: AccountId
    session_id: str
    expires_ms: int


class Opened(msgspec.Struct, frozen=True):
    """A new session."""

    token: str
    session_id: str


_decode = msgpack_decoder(SessionRecord)
_encode = msgspec.msgpack.Encoder().encode


def hash_of(token: str) -> str:
    """Return the stored hash of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def csrf_token(token: str) -> str:
    """Return the token by which a page proves that it may read the session's answers.

    Pages of other origins cannot learn it.
    """
    return hmac.digest(token.encode(), b"csrf", "sha256").hex()


async def open_session(ports: Ports, call: Call, account_id: AccountId, password_hash: str) -> Opened | None:
    """Return a new session, which is recorded in the database and the account's activity.

    None: the password has changed in the meantime.
    """
    token, session_id = secrets.token_urlsafe(32), secrets.token_urlsafe(_ID_BYTES)
    ttl_s = ports.settings.session_ttl_s
    # First in Redis, which is authoritative: a call that ends the sessions in the database must find it
    # there. Nobody has the token yet.
    record = SessionRecord(account_id, session_id, call.now + ttl_s * 1000)
    await ports.key_values.put(streams.session(hash_of(token)), _encode(record), ttl_s)
    if not await ports.sessions.begin(
        account_id, password_hash, session_id, hash_of(token), ttl_s, call.origin
    ):
        await ports.key_values.remove(streams.session(hash_of(token)))
        return None
    return Opened(token, session_id)


async def record_of(key_values: KeyValues, token: str) -> SessionRecord:
    """Return the record of a token; -1002 if there is none."""
    value = await key_values.get(streams.session(hash_of(token))) if token else None
    if value is None:
        raise not_signed_in()
    try:
        return _decode(value)
    except msgspec.MsgspecError as error:
        raise not_signed_in() from error  # written by an earlier release


async def end_at_once(ports: Ports, call: Call) -> None:
    """End the request's session in Redis, which is authoritative; `end_sessions` records it."""
    await ports.revocations.add(Revocation(of_session(call.session_id), call.account_id))
    await ports.key_values.remove(streams.session(hash_of(call.session)))


async def end_sessions(ports: Ports, call: Call, session_ids: list[str]) -> list[bool]:
    """End sessions of the calling account, with all dependent tickets and connections.

    Repeating the call is harmless, and correct after an outage. Returns for each existing session whether
    this call has ended it.
    """
    sessions = await ports.sessions.end(call.account_id, session_ids, call.origin)
    for session in sessions:
        await ports.revocations.add(Revocation(of_session(session.session_id), call.account_id))
        await ports.key_values.remove(streams.session(session.token_hash))
    return [session.is_new for session in sessions]
