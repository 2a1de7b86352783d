"""POST /api/v1/api-keys: make an API key."""

import secrets
import string
from typing import Annotated, Final

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from functions.api_key_record import ApiKeyRecord, KeyKind, encode_record
from functions.errors import ApiError
from functions.function import Function, Group, Security
from functions.json_body import read_body
from functions.ports import Call, Ports
from protocol import streams

_ALPHABET: Final = string.ascii_letters + string.digits
_LENGTH: Final = 64
_KEYS_MAX: Final = 30
_RSA_BITS: Final = (2048, 4096)
_INSERT = """
    INSERT INTO api_keys (key, account_id, secret, kind, label)
    SELECT %(key)s, %(account)s, %(secret)s, %(kind)s, %(label)s
    WHERE (SELECT count(*) FROM api_keys WHERE account_id = %(account)s AND revoked_at IS NULL) < %(most)s
    RETURNING key
"""


class NewApiKey(msgspec.Struct, frozen=True, rename="camel"):
    """What the key is for; with a public key (PEM, Ed25519 or RSA) instead of a secret that both sides know."""

    label: Annotated[str, msgspec.Meta(max_length=100)] = ""
    public_key: Annotated[str, msgspec.Meta(max_length=2000)] = ""


class ApiKeyShape(msgspec.Struct, rename="camel"):
    """A key that was made."""

    api_key: str
    kind: KeyKind
    label: str
    secret: str | msgspec.UnsetType = msgspec.UNSET
    """Of an HMAC key: never shown again."""


def random_text() -> str:
    """Return 64 random letters and digits."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))


def kind_of(public_key: str) -> KeyKind:
    """Return the kind of a public key in PEM; -1130 when it is none that is supported."""
    try:
        key = serialization.load_pem_public_key(public_key.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ApiError(-1130, "Data sent for parameter 'publicKey' is not valid.") from error
    if isinstance(key, ed25519.Ed25519PublicKey):
        return KeyKind.ED25519
    if isinstance(key, rsa.RSAPublicKey) and _RSA_BITS[0] <= key.key_size <= _RSA_BITS[1]:
        return KeyKind.RSA
    raise ApiError(-1130, "Data sent for parameter 'publicKey' is not valid.")


async def create_api_key(ports: Ports, call: Call) -> object:
    """Return the key, and its secret, which is never shown again."""
    wanted = read_body(call.body or b"{}", NewApiKey)
    if "\x00" in wanted.label:
        raise ApiError(-1130, "Data sent for parameter 'label' is not valid.")
    key, secret = random_text(), ""
    if wanted.public_key:
        record = ApiKeyRecord(call.account_id, kind_of(wanted.public_key), wanted.public_key.encode())
    else:
        secret = random_text()
        record = ApiKeyRecord(call.account_id, KeyKind.HMAC, ports.secret_box.seal(secret.encode()))
    rows = await ports.database.fetch(
        _INSERT,
        {
            "key": key,
            "account": call.account_id,
            "secret": record.secret,
            "kind": record.kind,
            "label": wanted.label,
            "most": _KEYS_MAX,
        },
    )
    if not rows:
        raise ApiError(-1130, f"No more than {_KEYS_MAX} API keys.", 409)
    await ports.key_values.put(streams.api_key(key), encode_record(record))
    return ApiKeyShape(key, record.kind, wanted.label, secret or msgspec.UNSET)


FUNCTION = Function(
    "POST",
    "/api/v1/api-keys",
    Group.USERS,
    "Make an API key",
    create_api_key,
    security=Security.SESSION,
    weight=5,
    body=NewApiKey,
    answer=ApiKeyShape,
)
