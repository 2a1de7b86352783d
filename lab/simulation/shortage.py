"""What there may be too little of: Redis's memory, and time of readers.

While Redis's memory is full it refuses new work and still takes the writes of the reserve
(`runtime.redis_reserve`); a server whose disk is full, or that lacks replicas, takes no write at all. While a
reader does nothing the log grows behind it, and gateways refuse orders before it is larger than its limit.
"""

from enum import Enum
from typing import Final

import redis

from runtime import redis_clients
from stream_log.redis_log import RETRY_AFTER_S

RETRY_MS: Final = int(RETRY_AFTER_S * 1_000)
"""So long a commit waits before it asks again."""
LOOK_MS: Final = 500
"""How often a gateway looks how full the logs are."""


class Refusal(Enum):
    """Redis's answers to a write that it refuses."""

    OUT_OF_MEMORY = "OOM"
    """Of new work only: that is what the reserve is for."""
    ALL_OUT_OF_MEMORY = "OOM of all writes"
    DISK = "MISCONF"
    REPLICAS = "NOREPLICAS"


_ANSWERS: Final[dict[Refusal, tuple[type[redis.ResponseError], str]]] = {
    Refusal.OUT_OF_MEMORY: (redis.OutOfMemoryError, "command not allowed when used memory > 'maxmemory'."),
    Refusal.ALL_OUT_OF_MEMORY: (
        redis.OutOfMemoryError,
        "command not allowed when used memory > 'maxmemory'.",
    ),
    Refusal.DISK: (redis.ResponseError, "MISCONF Redis is configured to save RDB snapshots, and cannot"),
    Refusal.REPLICAS: (redis.ResponseError, "NOREPLICAS Not enough good replicas to write."),
}
"""As the library hands them over: it strips the codes that it has classes for."""


def raise_refusal(refusal: Refusal) -> None:
    """Raise what a client's connection makes of the answer; decided by the program, not by the simulation.

    Raises:
        redis.RedisError: always.
    """
    kind, text = _ANSWERS[refusal]
    error = kind(text)
    redis_clients._raise_passing(error)
    raise error


class Shortage:
    """Until when Redis refuses what, and which readers stand still.

    Times are those of the simulated clock.
    """

    def __init__(self) -> None:
        self._refusal: Refusal | None = None
        self._until_ms = 0
        self._still_until_ms: dict[tuple[str, int], int] = {}
        """(kind of process, shard) -> until when it does nothing."""
        self.log_bytes_max: dict[int, tuple[int, int]] = {}
        """Shard -> (what its log may take, until when)."""
        self.over_since_ms: dict[tuple[int, bool], int] = {}
        """(shard, whether for cancels) -> since when its log has been larger than it may be."""

    def refuse(self, refusal: Refusal, until_ms: int) -> None:
        """Refuse writes until `until_ms`."""
        self._refusal, self._until_ms = refusal, until_ms

    def refusal(self, now_ms: int, *, is_reserved: bool) -> Refusal | None:
        """Return how a write is refused at `now_ms`, or None. Reserved writes are never out of memory."""
        if now_ms >= self._until_ms or (is_reserved and self._refusal is Refusal.OUT_OF_MEMORY):
            return None
        return self._refusal

    def hold_reader(self, kind: str, shard: int, until_ms: int) -> None:
        """Stop the processes of a kind for a shard until `until_ms`."""
        self._still_until_ms[kind, shard] = until_ms

    def is_held(self, kind: str, shard: int, now_ms: int) -> bool:
        """Return whether processes of a kind do nothing for a shard now."""
        return now_ms < self._still_until_ms.get((kind, shard), 0)

    def limit(self, shard: int, now_ms: int) -> int:
        """Return how many bytes a shard's log may take now; 0: any number."""
        limit, until_ms = self.log_bytes_max.get(shard, (0, 0))
        return limit if now_ms < until_ms else 0

    def allow(self, shard: int, size: int) -> None:
        """Let a shard's log grow by `size` further bytes."""
        if shard in self.log_bytes_max:
            limit, until_ms = self.log_bytes_max[shard]
            self.log_bytes_max[shard] = (limit + size, until_ms)

    def end(self) -> None:
        """End all shortages."""
        self._until_ms = 0
        self._still_until_ms.clear()
        self.log_bytes_max.clear()
        self.over_since_ms.clear()
