"""Dead letters: undecodable data, in Redis (`dead:{k}`) and in the database (`dead_events`).

Each has a name: its place, and its id there, with `#` and its index if it was one item of an entry's frame.
"""

import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
import psycopg
import redis

from engine_worker.entries import NotUnderstoodError, why_not_applicable
from protocol import streams
from protocol.codec import LaterFormatError, decode_commands, encode_commands, raw_commands
from protocol.decoding import msgpack_decoder
from protocol.market import MarketMap
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import COMMANDS_FIELD, MESSAGES_FIELD
from runtime.redis_scripts import load_script

DEAD_EVENTS: Final = "dead_events"
_LETTERS_PER_READ: Final = 500
_decode_fields = msgpack_decoder(dict[bytes, bytes])

_REQUEUE: Final = load_script("cli", "requeue_letter")


class DeadLetterReport(msgspec.Struct, frozen=True):
    """An undecodable entry, or a part of one, that a process has put aside."""

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
    item: int | None = None
    """Its number in the entry's frame, when it was one item of it; None: it was the whole entry."""

    @property
    def name(self) -> str:
        """Its id in the stream `where`, with `#` and its number if it is one item of an entry."""
        return self.stream_id if self.item is None else f"{self.stream_id}#{self.item}"


def number_of_dead_letters(client: redis.Redis, shards: list[int]) -> int:
    """Return the number of dead letters of these shards in Redis; those in the database do not count."""
    counts: list[Any] = [client.xlen(streams.dead_letters(shard)) for shard in shards]
    return sum(counts)


def dead_letters(client: redis.Redis, shards: list[int], limit: int) -> list[DeadLetterReport]:
    """Return the newest of each shard in Redis.

    Anybody may have written them, so nothing is taken for granted.
    """
    reports = []
    for shard in shards:
        entries: Any = client.xrevrange(streams.dead_letters(shard), count=limit)
        reports += [_report(shard, entry_id, fields) for entry_id, fields in entries]
    return reports


def _report(shard: int, entry_id: bytes, fields: dict[bytes, bytes]) -> DeadLetterReport:
    payload, item = fields.get(b"payload", b""), fields.get(b"item", b"")
    return DeadLetterReport(
        shard,
        _text(fields.get(b"source", b"?")),
        _text(fields.get(b"id", b"?")),
        max(0, time.time_ns() // 1_000_000 - StreamId.parse(entry_id).ms) / 1_000,
        len(payload),
        _text(fields.get(b"reason", b"?")),
        payload,
        int(item) if item.isdigit() else None,
    )


class Letter(NamedTuple):
    """A dead letter in Redis, with the id by which it is removed."""

    entry_id: bytes
    """Its own id in `dead:{k}`."""
    report: DeadLetterReport


class RefusedError(Exception):
    """Nothing was changed; the message says why."""


def letters_named(client: redis.Redis, shards: Sequence[int], where: str, name: str) -> list[Letter]:
    """Return the letters with this name, oldest first; several processes may put the same entry aside."""
    letters: list[Letter] = []
    for shard in shards:
        after = STREAM_START
        while entries := _entries_after(client, shard, after):
            after = StreamId.parse(entries[-1][0])
            reports = [Letter(entry_id, _report(shard, entry_id, fields)) for entry_id, fields in entries]
            letters += [
                letter for letter in reports if (letter.report.where, letter.report.name) == (where, name)
            ]
    return letters


def _entries_after(
    client: redis.Redis, shard: int, after: StreamId
) -> list[tuple[bytes, dict[bytes, bytes]]]:
    entries: Any = client.xrange(streams.dead_letters(shard), f"({after}", count=_LETTERS_PER_READ)
    return list(entries)


def pass_letter(client: redis.Redis, letter: Letter) -> bool:
    """Remove a letter from Redis; return whether it was still there."""
    removed: Any = client.xdel(streams.dead_letters(letter.report.shard), letter.entry_id.decode())
    return bool(removed)


def requeueable_frame(letter: Letter, market_map: MarketMap, now_us: int) -> bytes:
    """Return the frame of commands to append for a letter, with the present time.

    Raises:
        RefusedError: it is not a command, or its shard would still not apply it.
    """
    report = letter.report
    payload = report.payload or b""
    if report.where != streams.commands(report.shard):
        raise RefusedError(
            f"Only commands are put back, which were in {streams.commands(report.shard)}; "
            f"what is missing in the database is in {DEAD_EVENTS}."
        )
    try:
        items = [payload] if report.item is not None else raw_commands(_commands_frame(payload))
        frame = encode_commands([msgspec.Raw(item) for item in items], now_us)
        reasons = why_not_applicable(frame, report.shard, market_map)
    except (msgspec.MsgspecError, NotUnderstoodError, LaterFormatError) as error:
        raise RefusedError(f"It is still not understood: {error}") from error
    if reasons:
        raise RefusedError(f"It is still not understood: {'; '.join(reasons)}")
    return frame


def _commands_frame(payload: bytes) -> bytes:
    fields = _decode_fields(payload)
    if MESSAGES_FIELD in fields:
        raise RefusedError(
            "It is mail of another shard. The shard counts what was skipped as received and would drop it; "
            "what it moved is booked by hand."
        )
    if fields.keys() != {COMMANDS_FIELD}:
        raise RefusedError("There are no commands in it.")
    return fields[COMMANDS_FIELD]


def late_commands(frame: bytes, now_ms: int) -> int:
    """Return how many commands of a frame the shard will refuse because their deadline has passed."""
    return sum(0 < getattr(command, "deadline_ms", 0) < now_ms for command in decode_commands(frame))


def requeue_letter(client: redis.Redis, letter: Letter, frame: bytes) -> str | None:
    """Append the frame to the shard's input and remove the letter, in one step.

    Return the new id; None: the letter is gone.
    """
    shard = letter.report.shard
    keys = (streams.dead_letters(shard), streams.commands(shard))
    arguments: tuple[Any, ...] = (letter.entry_id, COMMANDS_FIELD, frame)
    added: Any = client.eval(_REQUEUE, len(keys), *keys, *arguments)
    return added.decode() if added is not None else None


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
        DeadLetterReport(shard, DEAD_EVENTS, stream_id, max(0.0, age_s), len(payload), reason, bytes(payload))
        for shard, stream_id, age_s, reason, payload in rows
    ]


def dead_events_named(
    connection: psycopg.Connection[tuple[Any, ...]], shards: list[int], stream_id: str
) -> list[DeadLetterReport]:
    """Return the dead events of the entry in each of the shards."""
    rows = connection.execute(
        "SELECT shard, extract(epoch FROM now() - time)::float8, reason, payload FROM dead_events "
        "WHERE stream_id = %s AND shard = ANY(%s) ORDER BY shard",
        (stream_id, shards),
    ).fetchall()
    return [
        DeadLetterReport(shard, DEAD_EVENTS, stream_id, max(0.0, age_s), len(payload), reason, bytes(payload))
        for shard, age_s, reason, payload in rows
    ]


def pass_dead_event(connection: psycopg.Connection[tuple[Any, ...]], report: DeadLetterReport) -> bool:
    """Remove it, in the open transaction; return whether it was still there."""
    row = connection.execute(
        "DELETE FROM dead_events WHERE shard = %s AND stream_id = %s RETURNING 1",
        (report.shard, report.stream_id),
    ).fetchone()
    return row is not None


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
