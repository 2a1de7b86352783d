"""A shard's halt, in Redis: why it stopped, for gateways (which then refuse orders at once) and for whoever
looks after it.

It is written when what must always be true is not, and removed by a worker that has got past the place.
"""

import time
from typing import Any

import msgspec
import redis

from protocol import streams
from protocol.decoding import json_decoder
from runtime.redis_reserve import write_reserved

HALTED_EXIT_CODE = 4
"""A process that ends with it has found something wrong that another start will find again."""


class Halt(msgspec.Struct, frozen=True):
    """Why a shard stands still, and since when (seconds since the epoch)."""

    reason: str
    time: float


_decode = json_decoder(Halt)


def write_halt(client: redis.Redis, shard: int, reason: str) -> None:
    """Say that a shard stopped; the time of a halt for the same reason stays."""
    known = read_halt(client, shard)
    if known is None or known.reason != reason:
        halt = msgspec.json.encode(Halt(reason, time.time()))
        write_reserved(client, "SET", streams.halted(shard), halt)


def clear_halt(client: redis.Redis, shard: int) -> None:
    """Say that a shard works."""
    client.delete(streams.halted(shard))


def read_halt(client: redis.Redis, shard: int) -> Halt | None:
    """Return why a shard stands still; None when it does not."""
    found: Any = client.get(streams.halted(shard))
    try:
        return _decode(found) if found else None
    except msgspec.MsgspecError:
        return Halt("not readable", 0.0)
