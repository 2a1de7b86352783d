"""Whether a shard's log was compared with the database since Redis started.

Persist writes this note, and the engine worker reads it. Every event that can make Redis lose data (a
truncated log file, an old backup, a promoted replica) comes with a new run id.
"""

from typing import Any, Final, NamedTuple, Self

import redis

from protocol import streams
from runtime.redis_reserve import write_reserved
from runtime.redis_scripts import load_script

_READ: Final = load_script("stream_log", "read_lost_tail_note")


class Guard(NamedTuple):
    """The result of comparing one shard's log."""

    run_id: str
    """The run id of the current Redis."""
    checked: bool
    """Whether the log was compared since Redis started."""
    reason: str
    """Why the shard must not open; empty: it may."""


class _Note(NamedTuple):
    """The value of `guard:{k}`, `run id|reason`; empty fields if there is no such key."""

    run_id: str
    reason: str

    @classmethod
    def parse(cls, value: bytes) -> Self:
        run_id, _, reason = value.decode().partition("|")
        return cls(run_id, reason)

    def encode(self) -> str:
        return f"{self.run_id}|{self.reason}"


def read_guard(client: redis.Redis, shard: int) -> Guard:
    """Return the note about a shard's log."""
    reply: Any = client.eval(_READ, 1, streams.guard(shard))
    run_id, note = reply[0].decode(), _Note.parse(reply[1])
    checked = note.run_id == run_id
    return Guard(run_id, checked, note.reason if checked else "")


def write_guard(client: redis.Redis, shard: int, run_id: str, reason: str) -> None:
    """Record the comparison of a shard's log with the database while Redis ran as `run_id`.

    `reason` is why the shard must not open, or empty.
    """
    write_reserved(client, "SET", streams.guard(shard), _Note(run_id, reason).encode())
