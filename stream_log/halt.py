"""A shard's halt, in Redis: why it stopped, for gateways, which then refuse orders, and for operators.

It is written when an invariant is violated, and removed by a worker that has got past the place.
"""

import time
from typing import Any

import msgspec
import redis

from protocol import streams
from protocol.decoding import json_decoder
from runtime.redis_reserve import write_reserved

HALTED_EXIT_CODE = 4
"""Exit code of a process that has found an error that it would find again after a restart."""


class Halt(msgspec.Struct, frozen=True):
    """Why a shard is halted, and since when (seconds since the epoch)."""

    reason: str
    time: float


_decode = json_decoder(Halt)


def write_halt(client: redis.Redis, shard: int, reason: str) -> None:
    """Record that a shard is halted; a halt for the same reason keeps its time."""
    recorded = read_halt(client, shard)
    if recorded is None or recorded.reason != reason:
        halt = msgspec.json.encode(Halt(reason, time.time()))
        write_reserved(client, "SET", streams.halted(shard), halt)


def clear_halt(client: redis.Redis, shard: int) -> None:
    """Record that a shard is not halted."""
    client.delete(streams.halted(shard))


def read_halt(client: redis.Redis, shard: int) -> Halt | None:
    """Return why a shard is halted, or None."""
    value: Any = client.get(streams.halted(shard))
    try:
        return _decode(value) if value else None
    except msgspec.MsgspecError:
        return Halt("not readable", 0.0)
