"""JSON bodies of the functions that have no counterpart at Binance."""

from typing import TypeVar

import msgspec

from functions.errors import ApiError, invalid_json

T = TypeVar("T")


def read_body(body: bytes, expected: type[T]) -> T:
    """Return the body as `expected`.

    Raises:
        ApiError: -1135 it is not JSON, -1102 a field is missing or of another type.
    """
    try:
        return msgspec.json.decode(body, type=expected)
    except msgspec.ValidationError as error:
        raise ApiError(-1102, f"Invalid field: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid_json() from error
