"""Bodies that are not what a function takes: the answer names the field, and says what is wrong in words for
people."""

from enum import StrEnum
from typing import Annotated

import msgspec
import pytest

from functions.api.errors import ApiError
from functions.api.json_body import read_body


class Colour(StrEnum):
    RED = "red"


class Wanted(msgspec.Struct, rename="camel"):
    a_name: Annotated[str, msgspec.Meta(min_length=8, max_length=10)]
    colours: tuple[Colour, ...] = ()
    count: int = 0


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (b"{", -1135, "Invalid JSON Request"),
        (b"[]", -1102, "The body is not valid: Expected 'object', got 'array'."),
        (b"{}", -1102, "Mandatory parameter 'aName' was not sent, was empty/null, or malformed."),
        (b'{"aName": "short"}', -1102, "Parameter 'aName' is not valid: at least 8 characters are needed."),
        (
            b'{"aName": "far too long"}',
            -1102,
            "Parameter 'aName' is not valid: at most 10 characters are allowed.",
        ),
        (b'{"aName": 1}', -1102, "Parameter 'aName' is not valid: expected text, got a whole number."),
        (
            b'{"aName": "in length", "colours": ["red", "blue"]}',
            -1102,
            "Parameter 'colours[1]' is not valid: invalid enum value 'blue'.",
        ),
        (
            b'{"aName": "in length", "count": "1"}',
            -1102,
            "Parameter 'count' is not valid: expected a whole number, got text.",
        ),
    ],
)
def test_mistakes_are_said_in_words(body: bytes, code: int, message: str) -> None:
    with pytest.raises(ApiError) as refused:
        read_body(body, Wanted)
    assert (refused.value.code, refused.value.message) == (code, message)


def test_what_is_right_is_read() -> None:
    assert read_body(b'{"aName": "in length"}', Wanted) == Wanted("in length")
