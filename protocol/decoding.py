"""Decoders for untrusted bytes.

msgspec refuses most invalid bytes with a `MsgspecError`, but text that is not UTF-8 with a
`UnicodeDecodeError`, and deep nesting in a skipped field with a `RecursionError`. A reader that does not
catch all of them ends, restarts, and reads the same bytes.
"""

from collections.abc import Callable
from typing import Final, TypeVar

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


# How msgpack encodes lengths, for everything but arrays and maps: head -> (bytes of the length that follows,
# further bytes).
_LENGTHS: Final = {
    0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1), 0xD9: (1, 0),
    0xDA: (2, 0), 0xDB: (4, 0),
}  # fmt: skip
# Head -> bytes that follow: nil and booleans, floats, numbers, and extensions of a fixed size.
_SIZES: Final = {
    0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2,
    0xD2: 4, 0xD3: 8,
    0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17,
}  # fmt: skip
_ARRAY_16, _ARRAY_32, _MAP_16 = 0xDC, 0xDD, 0xDE


def array_items(payload: bytes) -> list[bytes]:
    """Return the encodings of an array's items, whatever their types and depth of nesting.

    Slow; only for bytes that msgspec refuses.

    Raises:
        msgspec.DecodeError: the bytes are not one whole array.
    """
    try:
        count, at = _array_head(payload)
        items = []
        for _ in range(count):
            end = _end_of_item(payload, at)
            items.append(payload[at:end])
            at = end
    except IndexError:
        raise msgspec.DecodeError("the data ends too early") from None
    if at != len(payload):
        raise msgspec.DecodeError("the data goes on behind its end")
    return items


def _array_head(payload: bytes) -> tuple[int, int]:
    """Return the number of items of an array, and the offset of the first."""
    head = payload[0]
    if 0x90 <= head < 0xA0:
        return head & 0x0F, 1
    if head in (_ARRAY_16, _ARRAY_32):
        end = 3 if head == _ARRAY_16 else 5
        return int.from_bytes(payload[1:end], "big"), end
    raise msgspec.DecodeError("no array")


def _end_of_item(payload: bytes, at: int) -> int:
    """Return the offset of the end of the item that begins at `at`.

    A loop with a counter replaces recursion, which deep nesting could exhaust.

    Raises:
        IndexError: the end is beyond the end of the payload.
    """
    left = 1
    while left:
        left -= 1
        head = payload[at]
        at += 1
        if head < 0x80 or head >= 0xE0:
            continue
        if head < 0x90:
            left += 2 * (head & 0x0F)
        elif head < 0xA0:
            left += head & 0x0F
        elif head < 0xC0:
            at += head & 0x1F
        elif head >= _ARRAY_16:
            end = at + (2 if head in (_ARRAY_16, _MAP_16) else 4)
            left += int.from_bytes(payload[at:end], "big") * (1 if head < _MAP_16 else 2)
            at = end
        elif head in _LENGTHS:
            length, besides = _LENGTHS[head]
            at += length + besides + int.from_bytes(payload[at : at + length], "big")
        elif head in _SIZES:
            at += _SIZES[head]
        else:
            raise msgspec.DecodeError(f"no item begins with {head:#x}")
    if at > len(payload):
        raise IndexError
    return at
