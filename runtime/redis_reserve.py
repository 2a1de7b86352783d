"""Writing to a Redis whose memory is full.

At `maxmemory` Redis refuses commands that need more memory. New work must then be refused, but accepted work
must be finished: otherwise nothing would be read, stored and trimmed, and the memory would stay full.
Therefore all writes behind the gateways (commits, leases, messages, positions of readers, snapshots) are done
by scripts that begin with `RESERVE`. Redis refuses only the first write of a script, so that no script stops
in the middle, and this first write needs no memory. The amount of these writes is bounded by the work
accepted before; docs/how-to/respond-to-alerts.md, RedisFilling, says how much memory to leave for it beyond
`maxmemory`.
"""

from typing import Any, Final

import redis

RESERVE: Final = "redis.call('PERSIST', KEYS[1])\n"
"""The first line of a script that also writes when Redis's memory is full.

`KEYS[1]` must be a key that does not expire, or whose expiry the script sets again.
"""
_ONE: Final = f"{RESERVE}return redis.call(unpack(ARGV))"


def reserved(*command: Any) -> tuple[Any, ...]:
    """Return a write, whose key is its first argument, in a form that also works when memory is full."""
    return "EVAL", _ONE, 1, command[1], *command


def write_reserved(client: redis.Redis, *command: Any) -> Any:
    """Execute a write, whose key is its first argument, even when memory is full; return the answer."""
    return client.execute_command(*reserved(*command))  # type: ignore[no-untyped-call]  # the library lacks the annotation
