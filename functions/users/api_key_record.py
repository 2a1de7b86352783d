"""An API key as it is stored: in the database, and in Redis as a read model for authentication."""

from enum import StrEnum
from typing import Final

import msgspec

from functions.api.key_permissions import DEFAULT_SCOPES
from protocol.decoding import msgpack_decoder
from protocol.units import AccountId


class KeyKind(StrEnum):
    """The signature algorithm of requests with the key."""

    HMAC = "hmac"
    ED25519 = "ed25519"
    RSA = "rsa"


class ApiKeyRecord(msgspec.Struct, frozen=True, array_like=True):
    """`secret` is the sealed HMAC secret, or the public key (PEM) for the other kinds.

    A ticket, which is not in the database, names the session on which it depends.
    """

    account_id: AccountId
    kind: KeyKind
    secret: bytes
    scopes: tuple[str, ...] = DEFAULT_SCOPES
    networks: tuple[str, ...] = ()
    """Networks from which it is accepted; empty: any."""
    expires_ms: int = 0
    """Its expiry (ms); 0: never."""
    session_id: str = ""
    stands_until_ms: int = 0
    """The expiry (ms) of everything opened with it, for a ticket that of its session; 0: never."""


KEPT_S: Final = 300
"""Maximum lifetime of a read model.

Revocations are remembered for longer, so an outdated read model is never accepted.
"""
_decode = msgpack_decoder(ApiKeyRecord)
_encode = msgspec.msgpack.Encoder().encode


def encode_record(record: ApiKeyRecord) -> bytes:
    """Return the read model's value."""
    return _encode(record)


def decode_record(value: bytes) -> ApiKeyRecord:
    """Return the record of a read model's value."""
    return _decode(value)
