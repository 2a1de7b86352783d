"""Dead letters: what could not be understood, in Redis (`dead:{k}`) and in the database (`dead_events`)."""

import time
from typing import Any

import msgspec
import psycopg
import redis

from protocol import streams
from protocol.streams import split_stream_id


class DeadLetterReport(msgspec.Struct, frozen=True):
    """One of them."""

    shard: int
    where: str
    """The stream that it was in, or `dead_events`."""
    stream_id: str
    """Its id there."""
    age_s: float
    """Since it was put aside."""
    size: int
    reason: str
    payload: bytes | None


def number_of_dead_letters(client: redis.Redis, shards: list[int]) -> int:
    """Return how many there are in Redis."""
    counts: list[Any] = [client.xlen(streams.dead_letters(shard)) for shard in shards]
    return sum(counts)


def dead_letters(client: redis.Redis, shards: list[int], limit: int) -> list[DeadLetterReport]:
    """Return the newest of each shard in Redis. Anybody may have written them, so nothing is taken for granted."""
    found = []
    now_ms = time.time_ns() // 1_000_000
    for shard in shards:
        entries: Any = client.xrevrange(streams.dead_letters(shard), count=limit)
        for entry_id, fields in entries:
            payload = fields.get(b"payload", b"")
            found.append(
                DeadLetterReport(
                    shard,
                    _text(fields.get(b"source", b"?")),
                    _text(fields.get(b"id", b"?")),
                    max(0, now_ms - split_stream_id(entry_id.decode())[0]) / 1_000,
                    len(payload),
                    _text(fields.get(b"reason", b"?")),
                    payload,
                )
            )
    return found


def dead_events(
    connection: psycopg.Connection[tuple[Any, ...]], shards: list[int], limit: int
) -> list[DeadLetterReport]:
    """Return the newest events of each shard that the database could not take."""
    rows = connection.execute(
        """
        SELECT shard, stream_id, extract(epoch FROM now() - time)::float8, reason, payload FROM (
            SELECT *, row_number() OVER (PARTITION BY shard ORDER BY time DESC) AS number FROM dead_events
        ) AS numbered WHERE shard = ANY(%s) AND number <= %s
        """,
        (shards, limit),
    ).fetchall()
    return [
        DeadLetterReport(shard, "dead_events", stream_id, max(0.0, age_s), len(payload), reason, bytes(payload))
        for shard, stream_id, age_s, reason, payload in rows
    ]


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
