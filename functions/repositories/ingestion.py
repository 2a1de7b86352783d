"""The progress of persist."""

from typing import Protocol


class Ingestion(Protocol):
    """The part of the shards' events that the database has."""

    async def catch_up(self, shard: int) -> None:
        """Wait, at most about a second, until the database has all current events of the shard."""
        ...
