"""Signed requests, checked exactly as Binance does. Pure: keys and the time are passed in.

The signed bytes are the raw query followed by the raw body, as received, without the `signature` itself.
"""

import base64
import hmac
import re
from typing import Final, NamedTuple, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

from functions.api.errors import ApiError, illegal_characters, mandatory_missing
from functions.api.key_permissions import EVERY_SCOPE, Network, Scope, is_within, not_permitted
from functions.api.parameters import Parameters
from functions.users.api_key_record import KeyKind
from protocol.units import AccountId

RECEIVE_WINDOW_DEFAULT_US: Final = 5_000_000
RECEIVE_WINDOW_MAX_MS: Final = 60_000
_AHEAD_MAX_US: Final = 1_000_000
_MICROSECONDS_FROM: Final = 100_000_000_000_000
_RECEIVE_WINDOW: Final = r"^[0-9]{1,5}(\.[0-9]{1,3})?$"
_receive_window = re.compile(r"([0-9]{1,20})(?:\.([0-9]{1,3}))?", re.ASCII)
_api_key = re.compile(r"[A-Za-z0-9]{1,128}", re.ASCII)
_hmac_signature = re.compile("[0-9A-Fa-f]{64}", re.ASCII)
_SIGNATURE: Final = b"signature="


class Verifier(Protocol):
    """Checks signatures of one API key."""

    def is_valid(self, payload: bytes, signature: str) -> bool:
        """Return whether `signature` is the key's signature of `payload`."""
        ...


class HmacVerifier(NamedTuple):
    """HMAC-SHA256 in hex, either case."""

    secret: bytes

    def is_valid(self, payload: bytes, signature: str) -> bool:
        """Return whether `signature` is the key's signature of `payload`."""
        if _hmac_signature.fullmatch(signature) is None:  # `fromhex` ignores white space
            return False
        return hmac.compare_digest(hmac.digest(self.secret, payload, "sha256"), bytes.fromhex(signature))


def _base64_of(text: str) -> bytes:
    """Return the bytes that `text` encodes.

    Raises:
        ValueError: it is not the canonical encoding: it has white space, or bits after the last byte.
    """
    decoded = base64.b64decode(text, validate=True)
    if base64.b64encode(decoded).decode() != text:
        raise ValueError("not the base64 of these bytes")
    return decoded


class Ed25519Verifier(NamedTuple):
    """Ed25519 in base64."""

    key: ed25519.Ed25519PublicKey

    def is_valid(self, payload: bytes, signature: str) -> bool:
        """Return whether `signature` is the key's signature of `payload`."""
        try:
            self.key.verify(_base64_of(signature), payload)
        except (InvalidSignature, ValueError):
            return False
        return True


class RsaVerifier(NamedTuple):
    """RSASSA-PKCS1-v1_5 with SHA-256, in base64."""

    key: rsa.RSAPublicKey

    def is_valid(self, payload: bytes, signature: str) -> bool:
        """Return whether `signature` is the key's signature of `payload`."""
        try:
            self.key.verify(_base64_of(signature), payload, padding.PKCS1v15(), hashes.SHA256())
        except (InvalidSignature, ValueError):
            return False
        return True


class Signer(NamedTuple):
    """The account of an API key, its verifier, and its permissions."""

    account_id: AccountId
    verifier: Verifier
    credential: str = ""
    """The credential on which it depends: see functions/users/revocations.py."""
    scopes: frozenset[str] = EVERY_SCOPE
    networks: tuple[Network, ...] = ()
    expires_ms: int = 0
    """Its expiry (ms); 0: never."""
    stands_until_ms: int = 0
    """The expiry (ms) of everything opened with it; 0: never."""
    is_ticket: bool = False


def verifier_of(kind: KeyKind, secret: bytes) -> Verifier:
    """Return the verifier of a key: `secret` is the plain HMAC secret, or a public key in PEM.

    Raises:
        ValueError: the public key is not of its kind.
    """
    if kind is KeyKind.HMAC:
        return HmacVerifier(secret)
    key = serialization.load_pem_public_key(secret)
    if kind is KeyKind.ED25519 and isinstance(key, ed25519.Ed25519PublicKey):
        return Ed25519Verifier(key)
    if kind is KeyKind.RSA and isinstance(key, rsa.RSAPublicKey):
        return RsaVerifier(key)
    raise ValueError(f"not a public key of kind {kind}")


def check_key_format(key: str | None) -> str:
    """Return the API key of the header; -2014 if it is missing or malformed."""
    if key is None or _api_key.fullmatch(key) is None:
        raise ApiError(-2014, "API-key format invalid.", 401)
    return key


def check_permission(signer: Signer, scope: Scope, address: str, now_us: int) -> None:
    """Refuse with -2015 a key without the scope, from a wrong address, or expired."""
    if (
        scope not in signer.scopes
        or (signer.expires_ms and now_us >= signer.expires_ms * 1000)
        or not is_within(address, signer.networks)
    ):
        raise not_permitted()


def check_request(signer: Signer, query: bytes, body: bytes, parameters: Parameters, now_us: int) -> int:
    """Check signature and timing of a signed request, and return its deadline (µs).

    Raises:
        ApiError: -1102, -1100 for missing or malformed parameters, -1022 for a wrong signature, -1021 for a
            request outside its window.
    """
    signature = parameters.required("signature")
    timestamp = parameters.integer("timestamp")
    if timestamp is None:
        raise mandatory_missing("timestamp")
    window_us = receive_window_us(parameters)
    if not signer.verifier.is_valid(without_signature(query) + without_signature(body), signature):
        raise ApiError(-1022, "Signature for this request is not valid.")
    return check_timing(timestamp, window_us, now_us)


def without_signature(encoded: bytes) -> bytes:
    """Return a query string or form body without its `signature`, otherwise unchanged."""
    if _SIGNATURE not in encoded:
        return encoded
    head, separator, tail = encoded.rpartition(b"&" + _SIGNATURE)
    if separator and b"&" not in tail and not head.startswith(_SIGNATURE):
        return head
    return b"&".join(pair for pair in encoded.split(b"&") if not pair.startswith(_SIGNATURE))


def receive_window_us(parameters: Parameters) -> int:
    """Return `recvWindow` in microseconds."""
    text = parameters.optional("recvWindow")
    if text is None:
        return RECEIVE_WINDOW_DEFAULT_US
    match = _receive_window.fullmatch(text)
    if match is None:
        raise illegal_characters("recvWindow", _RECEIVE_WINDOW)
    window_us = int(match.group(1)) * 1000 + int((match.group(2) or "").ljust(3, "0"))
    if window_us > RECEIVE_WINDOW_MAX_MS * 1000:
        raise ApiError(
            -1102, f"'recvWindow' contains unexpected value. Cannot be greater than {RECEIVE_WINDOW_MAX_MS}."
        )
    return window_us


def check_timing(timestamp: int, window_us: int, now_us: int) -> int:
    """Refuse with -1021 a `timestamp` (ms or µs) that is 1 s ahead, or older than its window.

    Return the window's end (µs).
    """
    sent_us = timestamp if timestamp >= _MICROSECONDS_FROM else timestamp * 1000
    if sent_us >= now_us + _AHEAD_MAX_US:
        raise ApiError(-1021, "Timestamp for this request was 1000ms ahead of the server's time.")
    if now_us - sent_us > window_us:
        raise ApiError(-1021, "Timestamp for this request is outside of the recvWindow.")
    return sent_us + window_us
