"""For how long a shard remembers what came of a request: part of what decides outcomes, so of every replay,
too.
"""

from typing import Final, NamedTuple

REPLY_TIMEOUTS: Final = 10
"""A shard remembers a request for so many reply timeouts. Gateways repeat one within half of that."""


class Windows(NamedTuple):
    """Times are milliseconds of the shard's own time, which is that of its input."""

    request_ms: int = 50_000
    """How long the first outcome of every command is kept under its reply channel and request id."""
    key_ms: int = 600_000
    """How long the first outcome is kept under an account's idempotency key."""
    keys_max: int = 10_000
    """Idempotency keys of one account; beyond that new ones are refused, and none is forgotten early."""
    transfer_ms: int = 7 * 86_400_000
    """How long a transfer id is remembered.

    Whoever makes a transfer whose id may be older asks the database first.
    """


DEFAULT_WINDOWS: Final = Windows()
