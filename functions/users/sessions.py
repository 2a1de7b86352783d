"""Sessions: a random token that the client keeps, and its hash, in Redis, that says who is signed in until
when.

The database has what their owner is shown of them. A session is over when Redis has it no more, whatever the
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
    """Who is signed in, the name under which the session is listed and ended, and when it ends by itself
    (ms).
    """

    account_id: AccountId
    session_id: str
    expires_ms: int


class Opened(msgspec.Struct, frozen=True):
    """A session that has begun."""

    token: str
    session_id: str


_decode = msgpack_decoder(SessionRecord)
_encode = msgspec.msgpack.Encoder().encode


def hash_of(token: str) -> str:
    """Return what is kept of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def csrf_token(token: str) -> str:
    """Return what a page proves with that it may read the session's answers: a page of another origin cannot
    learn it.
    """
    return hmac.digest(token.encode(), b"csrf", "sha256").hex()


async def open_session(ports: Ports, call: Call, account_id: AccountId, password_hash: str) -> Opened | None:
    """Return a new session, which the database and the account's activity show; None: the password has
    another hash meanwhile.
    """
    token, session_id = secrets.token_urlsafe(32), secrets.token_urlsafe(_ID_BYTES)
    ttl_s = ports.settings.session_ttl_s
    # First where it counts: who ends what the database shows finds it there. Nobody has the token yet.
    record = SessionRecord(account_id, session_id, call.now + ttl_s * 1000)
    await ports.key_values.put(streams.session(hash_of(token)), _encode(record), ttl_s)
    if not await ports.sessions.begin(
        account_id, password_hash, session_id, hash_of(token), ttl_s, call.origin
    ):
        await ports.key_values.remove(streams.session(hash_of(token)))
        return None
    return Opened(token, session_id)


async def record_of(key_values: KeyValues, token: str) -> SessionRecord:
    """Return who is signed in with the token; -1002 when nobody is."""
    value = await key_values.get(streams.session(hash_of(token))) if token else None
    if value is None:
        raise not_signed_in()
    try:
        return _decode(value)
    except msgspec.MsgspecError as error:
        raise not_signed_in() from error  # an earlier release's


async def end_at_once(ports: Ports, call: Call) -> None:
    """End the session of the request where it counts; `end_sessions` writes it down."""
    await ports.revocations.add(Revocation(of_session(call.session_id), call.account_id))
    await ports.key_values.remove(streams.session(hash_of(call.session)))


async def end_sessions(ports: Ports, call: Call, session_ids: list[str]) -> list[bool]:
    """End sessions of the account that calls, with all tickets and connections that stand on them.

    To end them again is harmless, and what to do when the answer was an outage. Returns for each that there
    was whether it has ended only now.
    """
    ended = await ports.sessions.end(call.account_id, session_ids, call.origin)
    for each in ended:
        await ports.revocations.add(Revocation(of_session(each.session_id), call.account_id))
        await ports.key_values.remove(streams.session(each.token_hash))
    return [each.is_new for each in ended]
