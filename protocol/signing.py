"""Signatures of operators and of the treasury: Ed25519 over a command, its shard and its deadline."""

from collections.abc import Callable
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protocol.codec import OLDEST_FORMAT, encode_as
from protocol.commands import Signed, SignedBody, SkipEntry
from protocol.decoding import msgpack_decoder
from protocol.units import TimeMs

_CONTEXT: Final = "exchange command 1"
"""Domain separation: nothing else that such a key may sign begins with this text."""

_encode = msgspec.msgpack.Encoder().encode
decode_signed_body: Callable[[bytes], SignedBody] = msgpack_decoder(SignedBody)  # type: ignore[arg-type]  # a union is a type to msgspec
"""Decode `Signed.command`.

Raises:
    msgspec.MsgspecError: the bytes are not such a command.
"""


def sign(
    private_key: Ed25519PrivateKey,
    key: str,
    shard: int,
    deadline_ms: TimeMs,
    command: SignedBody | SkipEntry,
    number: int = OLDEST_FORMAT,
) -> Signed:
    """Return `command` with a signature that is valid for `shard` until `deadline_ms`.

    The deadline is by the clock that assigns entry ids. That of a `SkipEntry` is 0: it names the one entry
    for which it is valid. `number` is the format that the shard has been switched to.
    """
    body = encode_as(number, command)
    return Signed(key, shard, deadline_ms, body, private_key.sign(_message(key, shard, deadline_ms, body)))


def is_genuine(signed: Signed, public_key: bytes) -> bool:
    """Return whether the holder of `public_key` (32 bytes) has signed this. Takes 0.1 ms."""
    message = _message(signed.key, signed.shard, signed.deadline_ms, signed.command)
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signed.signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _message(key: str, shard: int, deadline_ms: int, body: bytes) -> bytes:
    return _encode((_CONTEXT, key, shard, deadline_ms, body))
