"""POST /api/v1/tickets: a key for a signed-in page, valid for a quarter of an hour.

A page signs its requests to `/api/v3` and its WebSocket logins with it. It is stored in no database and on no
disk of the browser, and becomes invalid when the session ends.
"""

from typing import Final

import msgspec

from functions.api.function import Function, Group, Security
from functions.api.key_permissions import DEFAULT_SCOPES
from functions.api.ports import Call, Ports
from functions.users.api_key_record import ApiKeyRecord, KeyKind, encode_record
from functions.users.create_api_key import random_text
from functions.users.sessions import record_of
from functions.users.verification import check_verified
from protocol import streams

TTL_S: Final = 900


class Ticket(msgspec.Struct, rename="camel"):
    """A key and its secret, valid for `expires_in` seconds."""

    api_key: str
    secret: str
    expires_in: int


async def make_ticket(ports: Ports, call: Call) -> Ticket:
    """Return a ticket of the session: it may read and trade, not withdraw."""
    await check_verified(ports, call)
    session = await record_of(ports.key_values, call.session)
    key, secret = random_text(), random_text()
    record = ApiKeyRecord(
        call.account_id,
        KeyKind.HMAC,
        ports.secret_box.seal(secret.encode(), key),
        DEFAULT_SCOPES,
        expires_ms=call.now + TTL_S * 1000,
        session_id=session.session_id,
        stands_until_ms=session.expires_ms,
    )
    await ports.key_values.put(streams.api_key(key), encode_record(record), TTL_S)
    return Ticket(key, secret, TTL_S)


FUNCTION = Function(
    "POST",
    "/api/v1/tickets",
    Group.USERS,
    "A short-lived key for a page",
    make_ticket,
    security=Security.SESSION,
    weight=2,
)
