"""The archive's formats: segments of an input log, and the description inside a snapshot (pure)."""

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from protocol.decoding import msgpack_decoder
from protocol.stream_id import StreamId

FINAL_LEVEL: Final = 2
"""Segments of this level are not merged any further."""
MERGED_AT_ONCE: Final = 16
"""Number of segments of one level that are merged into one of the next."""
_LEVEL_BYTES: Final = (16_384, 262_144)
"""A segment smaller than the first is of level 0, one smaller than the second of level 1."""
QUICK, SMALL = 1, 6
"""zlib's levels: for segments that will be merged soon, and for final ones."""

_SNAPSHOT_DIGEST_SIZE: Final = 32

Fields = dict[bytes, bytes]
_StoredEntry = tuple[str, Fields]
"""(id as text, fields): an entry in the bytes of a segment."""


class Segment(NamedTuple):
    """Consecutive entries, ready to be stored."""

    first_id: StreamId
    last_id: StreamId
    entries: int
    raw_bytes: int
    level: int
    payload: bytes


class SnapshotInfo(NamedTuple):
    """A snapshot's description of itself."""

    stream_id: StreamId
    sequences: dict[str, int]
    """Market -> its sequence."""


class _MarketHead(msgspec.Struct, frozen=True, array_like=True):
    symbol: str
    last_price: int
    sequence: int


class _SnapshotHead(msgspec.Struct, frozen=True, array_like=True):
    """The head of a `ShardSnapshot` (engine_worker/core/snapshot.py); msgspec skips what follows."""

    version: int
    stream_id: str
    index: int
    shard_count: int
    order_count: int
    command_count: int
    totals: msgspec.Raw
    accounts: msgspec.Raw
    markets: list[_MarketHead]


_encode = msgspec.msgpack.Encoder().encode
_decode_entries = msgpack_decoder(list[_StoredEntry])
_decode_head = msgpack_decoder(_SnapshotHead)


class ArchiveDamagedError(ValueError):
    """The archive cannot be read, or has a gap."""


def pack(entries: Sequence[tuple[StreamId, Fields]], level: int | None = None) -> Segment:
    """Return a segment of one or more entries; its level depends on its size, unless it is given."""
    return _pack([(str(stream_id), fields) for stream_id, fields in entries], level)


def _pack(entries: Sequence[_StoredEntry], level: int | None) -> Segment:
    raw = _encode(entries)
    if level is None:
        level = sum(len(raw) >= size for size in _LEVEL_BYTES)
    payload = zlib.compress(raw, QUICK if level == 0 else SMALL)
    first_id, last_id = StreamId.parse(entries[0][0]), StreamId.parse(entries[-1][0])
    return Segment(first_id, last_id, len(entries), len(raw), level, payload)


def unpack(payload: bytes) -> list[tuple[StreamId, Fields]]:
    """Return the entries of a segment.

    Raises:
        ArchiveDamagedError: the bytes are not a segment.
    """
    return [(StreamId.parse(stream_id), fields) for stream_id, fields in _unpack(payload)]


def _unpack(payload: bytes) -> list[_StoredEntry]:
    try:
        return _decode_entries(zlib.decompress(payload))
    except (zlib.error, msgspec.MsgspecError) as error:
        raise ArchiveDamagedError(f"a segment of the log cannot be read: {error}") from error


def merged(payloads: Iterable[bytes], level: int) -> Segment:
    """Return one segment of `level` with the entries of several."""
    return _pack([entry for payload in payloads for entry in _unpack(payload)], level)


def portions(
    entries: Iterable[tuple[StreamId, Fields]], bytes_max: int
) -> Iterator[list[tuple[StreamId, Fields]]]:
    """Yield the entries in lists of at most about `bytes_max` bytes, or of a single entry."""
    portion: list[tuple[StreamId, Fields]] = []
    size = 0
    for stream_id, fields in entries:
        length = sum(len(name) + len(value) for name, value in fields.items())
        if portion and size + length > bytes_max:
            yield portion
            portion, size = [], 0
        portion.append((stream_id, fields))
        size += length
    if portion:
        yield portion


def snapshot_info(snapshot: bytes) -> SnapshotInfo | None:
    """Return a complete snapshot's description of itself; None if it is torn."""
    digest, body = snapshot[:_SNAPSHOT_DIGEST_SIZE], snapshot[_SNAPSHOT_DIGEST_SIZE:]
    if hashlib.blake2b(body, digest_size=_SNAPSHOT_DIGEST_SIZE).digest() != digest:
        return None
    try:
        head = _decode_head(body)
    except msgspec.MsgspecError:
        return None
    return SnapshotInfo(
        StreamId.parse(head.stream_id), {market.symbol: market.sequence for market in head.markets}
    )
