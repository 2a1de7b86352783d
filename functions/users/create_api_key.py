"""POST /api/v1/api-keys: create an API key."""

import secrets
import string
from typing import Annotated, Final

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from functions.api.errors import ApiError, invalid_parameter
from functions.api.function import Function, Group, Security
from functions.api.json_body import read_body
from functions.api.key_permissions import DEFAULT_SCOPES, NETWORKS_MAX, Scope, network_of
from functions.api.ports import Call, Ports
from functions.repositories.api_keys import NewKey
from functions.users.api_key_record import KEPT_S, ApiKeyRecord, KeyKind, encode_record
from functions.users.sign_up import Secret
from functions.users.step_up import confirm
from functions.users.verification import check_verified
from protocol import streams

_ALPHABET: Final = string.ascii_letters + string.digits
_LENGTH: Final = 64
_KEYS_MAX: Final = 30
_RSA_BITS: Final = (2048, 3072, 4096)
_RSA_EXPONENT: Final = 65_537
_LIFE_MAX_MS: Final = 10 * 365 * 86_400_000


class NewApiKey(msgspec.Struct, frozen=True, rename="camel"):
    """The key's name and permissions; with a public key (PEM, Ed25519 or RSA) instead of a shared secret.

    `password` is the account's password, `code` its second factor if it has one: a session alone cannot
    create a key, so that a stolen session leaves no key behind.
    """

    password: Secret
    code: Secret = ""
    label: Annotated[str, msgspec.Meta(max_length=100)] = ""
    public_key: Annotated[str, msgspec.Meta(max_length=2000)] = ""
    scopes: tuple[Scope, ...] = DEFAULT_SCOPES
    networks: Annotated[tuple[str, ...], msgspec.Meta(max_length=NETWORKS_MAX)] = ()
    """Addresses and networks (10.0.0.0/8) from which it is accepted; none: any."""
    expires_time: int | None = None
    """Its expiry in ms; none: never."""


class ApiKeyShape(msgspec.Struct, rename="camel"):
    """A new key."""

    api_key: str
    kind: KeyKind
    label: str
    scopes: tuple[str, ...]
    networks: tuple[str, ...]
    expires_time: int | None
    secret: str | msgspec.UnsetType = msgspec.UNSET
    """Of an HMAC key: never shown again."""


def random_text() -> str:
    """Return 64 random letters and digits."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))


def kind_of(public_key: str) -> KeyKind:
    """Return the kind of a public key in PEM; -1130 if it is not supported."""
    try:
        key = serialization.load_pem_public_key(public_key.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ApiError(-1130, "Data sent for parameter 'publicKey' is not valid.") from error
    if isinstance(key, ed25519.Ed25519PublicKey):
        return KeyKind.ED25519
    # A user's own RSA key may have an exponent as long as the key itself, which makes each check eight times
    # as expensive.
    if (
        isinstance(key, rsa.RSAPublicKey)
        and key.key_size in _RSA_BITS
        and key.public_numbers().e == _RSA_EXPONENT
    ):
        return KeyKind.RSA
    raise ApiError(-1130, "Data sent for parameter 'publicKey' is not valid.")


async def create_api_key(ports: Ports, call: Call) -> ApiKeyShape:
    """Create a key; return it with its secret, which is never shown again."""
    body = read_body(call.body, NewApiKey)
    if "\x00" in body.label:
        raise invalid_parameter("label")
    if not body.scopes:
        raise invalid_parameter("scopes")
    if body.expires_time is not None and not call.now < body.expires_time <= call.now + _LIFE_MAX_MS:
        raise invalid_parameter("expiresTime")
    kind = kind_of(body.public_key) if body.public_key else KeyKind.HMAC
    networks = _networks(body.networks)
    # After the checks of the body: comparing a password takes long, and counts as an attempt.
    await check_verified(ports, call)
    password_hash = await confirm(ports, call, body.password, body.code)
    key, secret = random_text(), ""
    if kind is KeyKind.HMAC:
        secret = random_text()
        kept = ports.secret_box.seal(secret.encode(), key)
    else:
        kept = body.public_key.encode()
    scopes = tuple(dict.fromkeys(body.scopes))
    new = NewKey(key, kind, kept, body.label, scopes, networks, body.expires_time)
    # A key that was requested before a password change must not survive the change.
    is_added = await ports.api_keys.add(
        call.account_id, new, call.origin, password_hash=password_hash, keys_max=_KEYS_MAX
    )
    if not is_added:
        if not await ports.users.has_password(call.account_id, password_hash):
            raise ApiError(-1002, "Password is wrong.", 401)
        raise ApiError(-1130, f"No more than {_KEYS_MAX} API keys.", 409)
    # After the database, so that a key which was not stored never counts.
    until = body.expires_time or 0
    record = ApiKeyRecord(call.account_id, kind, kept, scopes, networks, until, stands_until_ms=until)
    await ports.key_values.put(streams.api_key(key), encode_record(record), KEPT_S)
    return ApiKeyShape(key, kind, body.label, scopes, networks, body.expires_time, secret or msgspec.UNSET)


def _networks(texts: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(dict.fromkeys(str(network_of(text)) for text in texts))
    except ValueError as error:
        raise invalid_parameter("networks") from error


FUNCTION = Function(
    "POST",
    "/api/v1/api-keys",
    Group.USERS,
    "Make an API key",
    create_api_key,
    security=Security.SESSION,
    weight=5,
    body=NewApiKey,
    refuses_with=(409,),
)
