"""JSON bodies of the functions that Binance does not have."""

import re
from typing import Final, TypeVar

import msgspec

from functions.api.errors import ApiError, invalid_json

T = TypeVar("T")

_missing: Final = re.compile(r"Object missing required field `([^`]+)`")
_at_field: Final = re.compile(r"(?P<what>.*) - at `\$\.?(?P<name>[^`]*)`")
_length: Final = re.compile(r"Expected `str` of length (>=|<=) (\d+)")
_BOUNDS: Final = {">=": "at least {} characters are needed", "<=": "at most {} characters are allowed"}


def read_body(body: bytes, expected: type[T]) -> T:
    """Return the body as `expected`.

    Raises:
        ApiError: -1135 the body is not JSON, -1102 a field is missing or of another type.
    """
    try:
        return msgspec.json.decode(body, type=expected)
    except msgspec.ValidationError as error:
        raise ApiError(-1102, _said(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid_json() from error


def _said(mistake: str) -> str:
    """Return msgspec's error message in the words of the API."""
    if missing := _missing.match(mistake):
        return f"Mandatory parameter '{missing[1]}' was not sent, was empty/null, or malformed."
    at = _at_field.fullmatch(mistake)
    rule, name = (at["what"], at["name"]) if at is not None else (mistake, "")
    rule = _length.sub(lambda bound: _BOUNDS[bound[1]].format(bound[2]), rule).replace("`", "'")
    rule = rule.replace("'str'", "text").replace("'int'", "a whole number").replace("'bool'", "true or false")
    return (
        f"Parameter '{name}' is not valid: {rule[:1].lower()}{rule[1:]}."
        if name
        else f"The body is not valid: {rule}."
    )
