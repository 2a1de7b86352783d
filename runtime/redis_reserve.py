"""Writing to a Redis whose memory is full.

At `maxmemory` Redis refuses what needs more memory. What must be refused then is new work; what was accepted
has to be finished, or nothing would ever be read, stored and trimmed, and the memory would stay full for
ever. So everything behind the gateways – commits, leases, messages, positions of readers, snapshots – is
written by scripts that begin with `RESERVE`: of a script Redis refuses only the first write, lest it be torn
in the middle, and this is a write that needs no memory. How much is written so is bounded by what was
accepted before; docs/how-to/respond-to-alerts.md, RedisFilling, says how much memory to leave for it beside
`maxmemory`.
"""

from typing import Any, Final

import redis

RESERVE: Final = "redis.call('PERSIST', KEYS[1])\n"
"""The first line of a script that also writes when Redis's memory is full. `KEYS[1]` must be a key that does
not expire, or one that the script gives a new time to live."""
_ONE: Final = f"{RESERVE}return redis.call(unpack(ARGV))"


def reserved(*command: Any) -> tuple[Any, ...]:
    """Return a write, whose key is its first argument, as one that is also done when Redis's memory is
    full.
    """
    return "EVAL", _ONE, 1, command[1], *command


def write_reserved(client: redis.Redis, *command: Any) -> Any:
    """Do a write, whose key is its first argument, also when Redis's memory is full, and return the
    answer.
    """
    return client.execute_command(*reserved(*command))  # type: ignore[no-untyped-call]  # the library lacks the annotation
