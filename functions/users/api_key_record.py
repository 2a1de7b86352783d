"""An API key as it is kept: in the database, and as a read model in Redis for the authentication of
requests.
"""

from enum import StrEnum
from typing import Final

import msgspec

from functions.api.key_permissions import DEFAULT_SCOPES
from protocol.decoding import msgpack_decoder
from protocol.units import AccountId


class KeyKind(StrEnum):
    """How requests with the key are signed."""

    HMAC = "hmac"
    ED25519 = "ed25519"
    RSA = "rsa"


class ApiKeyRecord(msgspec.Struct, frozen=True, array_like=True):
    """`secret` is the sealed HMAC secret, or the public key (PEM) for the other kinds.

    A ticket, which stands in no database, names the session that it ends with.
    """

    account_id: AccountId
    kind: KeyKind
    secret: bytes
    scopes: tuple[str, ...] = DEFAULT_SCOPES
    networks: tuple[str, ...] = ()
    """From where it is taken; empty: from anywhere."""
    expires_ms: int = 0
    """When it ends (ms); 0: never."""
    session_id: str = ""
    stands_until_ms: int = 0
    """When what was opened with it ends (ms), for a ticket that is when its session does; 0: never."""


KEPT_S: Final = 300
"""How long a read model may live.

Revocations are remembered for longer, so none that is out of date is ever believed.
"""
_decode = msgpack_decoder(ApiKeyRecord)
_encode = msgspec.msgpack.Encoder().encode


def encode_record(record: ApiKeyRecord) -> bytes:
    """Return the read model's value."""
    return _encode(record)


def decode_record(value: bytes) -> ApiKeyRecord:
    """Return the record of a read model's value."""
    return _decode(value)
