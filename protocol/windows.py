"""How long a shard remembers the outcome of a request.

These windows affect outcomes, so every replay needs the same ones.
"""

from typing import Final, NamedTuple

REPLY_TIMEOUTS: Final = 10
"""A shard remembers a request for this number of reply timeouts; gateways retry within half of that."""


class Windows(NamedTuple):
    """Retention times, in milliseconds of the shard's own time, which is that of its input."""

    request_ms: int = 50_000
    """How long the first outcome of every command is kept under its reply channel and request id."""
    key_ms: int = 600_000
    """How long the first outcome is kept under an account's idempotency key."""
    keys_max: int = 10_000
    """Maximum of remembered keys per account; then new ones are refused, none is dropped early."""
    transfer_ms: int = 7 * 86_400_000
    """How long a transfer id is remembered.

    A caller whose transfer id may be older checks the database first.
    """


DEFAULT_WINDOWS: Final = Windows()
