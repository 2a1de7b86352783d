"""Decoders for bytes that anybody may have written.

msgspec refuses most bytes with a `MsgspecError`, but text that is not UTF-8 with a `UnicodeDecodeError`, and deep nesting, in a field that
is skipped, with a `RecursionError`. A reader that forgets one of them ends, starts again, and reads the same bytes.
"""

from collections.abc import Callable
from typing import TypeVar

import msgspec

T = TypeVar("T")


def msgpack_decoder(kind: type[T]) -> Callable[[bytes | memoryview | msgspec.Raw], T]:
    """Return a decoder of msgpack that raises only `msgspec.MsgspecError`."""
    return _refusing(msgspec.msgpack.Decoder(kind).decode)


def json_decoder(kind: type[T]) -> Callable[[bytes | str], T]:
    """Return a decoder of JSON that raises only `msgspec.MsgspecError`."""
    return _refusing(msgspec.json.Decoder(kind).decode)


def _refusing(decode: Callable[..., T]) -> Callable[..., T]:
    def decode_or_refuse(payload: bytes) -> T:
        try:
            return decode(payload)
        except UnicodeDecodeError as error:
            raise msgspec.DecodeError(f"text that is not UTF-8: {error.reason}") from None
        except RecursionError:
            raise msgspec.DecodeError("nested too deeply") from None

    return decode_or_refuse
