"""Signatures of requests, as Binance defines them for HMAC keys. Pure.

The signature is the HMAC-SHA256, in hexadecimal, of the payload exactly as it is sent. REST signs the query
(and the body behind it); the WebSocket API signs its parameters, sorted by name, in the same form.
"""

import hmac
from collections.abc import Mapping
from urllib.parse import urlencode


def signature(secret: str | bytes, payload: str | bytes) -> str:
    """Return the signature of a payload."""
    key = secret.encode() if isinstance(secret, str) else secret
    return hmac.digest(key, payload.encode() if isinstance(payload, str) else payload, "sha256").hex()


def signed_query(secret: str | bytes, parameters: Mapping[str, str | int], now_ms: int) -> str:
    """Return the query of a signed request: the parameters, the timestamp `now_ms` and the signature."""
    query = urlencode({**parameters, "timestamp": now_ms})
    return f"{query}&signature={signature(secret, query)}"


def signed_parameters(
    api_key: str, secret: str | bytes, parameters: Mapping[str, str | int], now_ms: int
) -> dict[str, str | int]:
    """Return the parameters of a signed request of the WebSocket API."""
    keyed = {**parameters, "apiKey": api_key, "timestamp": now_ms}
    payload = "&".join(f"{name}={keyed[name]}" for name in sorted(keyed))
    return {**keyed, "signature": signature(secret, payload)}
