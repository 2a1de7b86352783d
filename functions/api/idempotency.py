"""Idempotency keys of clients: the parameter `idempotencyKey`, or the header `Idempotency-Key`.

Values that are random in a request without a key are derived from the key, so that a repetition makes the
same request.
"""

import hashlib
from base64 import urlsafe_b64encode
from typing import Final

from functions.api.errors import invalid_parameter
from functions.api.function import Parameter
from functions.api.parameters import Parameters
from functions.api.ports import Call

NAME: Final = "idempotencyKey"
HEADER: Final = "Idempotency-Key"
DESCRIPTION: Final = (
    "1 to 64 printable ASCII characters. The account's requests with the same key get the outcome of the "
    "first for at least ten minutes, and -2010 with status 422 when they ask for something else."
)
IDEMPOTENCY_KEY: Final = Parameter(NAME, DESCRIPTION, pattern="^[ -~]{1,64}$")
_DIGEST_BYTES: Final = 16


def idempotency_key_of(call: Call) -> str:
    """Return the request's idempotency key, or an empty text.

    Raises:
        ApiError: it is malformed, or parameter and header differ.
    """
    key = call.parameters.idempotency_key(NAME) or ""
    if not call.idempotency_key:
        return key
    header = Parameters({HEADER: call.idempotency_key}).idempotency_key(HEADER) or ""
    if key and key != header:
        raise invalid_parameter(NAME)
    return header


def name_of_key(*parts: str) -> str:
    """Return a name of 22 characters that is derived from the key and the other arguments."""
    digest = hashlib.blake2b("\n".join(parts).encode(), digest_size=_DIGEST_BYTES).digest()
    return urlsafe_b64encode(digest).rstrip(b"=").decode()
