"""Whether a shard's log was compared with the database since Redis started: what persist notes, and the
engine worker reads.

Whatever can make Redis forget – a log file without its end, an old backup, a promoted replica – comes with
another run id.
"""

from typing import Any, Final, NamedTuple, Self

import redis

from protocol import streams
from runtime.redis_reserve import write_reserved
from runtime.redis_scripts import load_script

_READ: Final = load_script("stream_log", "read_lost_tail_note")


class Guard(NamedTuple):
    """What was found of one shard's log."""

    run_id: str
    """Of the Redis that runs now."""
    checked: bool
    """Whether the log was compared since it started."""
    reason: str
    """Why the shard must not open; empty: nothing speaks against it."""


class _Note(NamedTuple):
    """The value of `guard:{k}`, `run id|reason`; of a key that is not there, nothing."""

    run_id: str
    reason: str

    @classmethod
    def parse(cls, value: bytes) -> Self:
        run_id, _, reason = value.decode().partition("|")
        return cls(run_id, reason)

    def encode(self) -> str:
        return f"{self.run_id}|{self.reason}"


def read_guard(client: redis.Redis, shard: int) -> Guard:
    """Return what is noted of a shard's log."""
    found: Any = client.eval(_READ, 1, streams.guard(shard))
    run_id, noted = found[0].decode(), _Note.parse(found[1])
    checked = noted.run_id == run_id
    return Guard(run_id, checked, noted.reason if checked else "")


def write_guard(client: redis.Redis, shard: int, run_id: str, reason: str) -> None:
    """Note that the shard's log was compared with the database while Redis ran as `run_id`, and why it must
    not open, if so.
    """
    write_reserved(client, "SET", streams.guard(shard), _Note(run_id, reason).encode())
