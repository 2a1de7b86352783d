"""The database schema that this version needs, and the note in Redis that it was seen.

A process that starts while the database is unreachable relies on the note: where the schema was seen before,
it may serve everything that needs no database, above all orders. Without the note it is not ready, because
the exchange may never have had a schema.
"""

from typing import Any, Final, LiteralString

import redis

from protocol import streams
from runtime.redis_reserve import write_reserved

SCHEMA_NUMBER: Final = 11
"""The number of the newest migration. A test compares it with the files in persist/schema."""
SCHEMA_QUERY: Final[LiteralString] = "SELECT coalesce(max(number), 0) FROM schema_migrations"
"""Fails with UndefinedTable if no migration was ever applied; see persist/migrate.py."""


def why_schema_lacks(number: int) -> str | None:
    """Return why a database whose newest migration is `number` is insufficient, or None."""
    if number >= SCHEMA_NUMBER:
        return None
    return (
        f"the database has no schema of this version: its newest migration is {number}, {SCHEMA_NUMBER} is "
        "needed"
    )


def noted_schema(note: object) -> int:
    """Return the number that `streams.schema()` holds; 0: no schema was seen yet."""
    return int(note) if isinstance(note, bytes) and note.isdigit() else 0


def read_schema(client: redis.Redis) -> int:
    """Return the number of the newest schema that was ever seen."""
    note: Any = client.get(streams.schema())
    return noted_schema(note)


def note_schema(client: redis.Redis) -> None:
    """Record that a database with the schema of this version was seen."""
    write_reserved(client, "SET", streams.schema(), SCHEMA_NUMBER)
