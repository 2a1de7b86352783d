"""How far persist has brought the database."""

from typing import Protocol


class Ingestion(Protocol):
    """What has come into the database of what the shards have said."""

    async def catch_up(self, shard: int) -> None:
        """Wait, for about a second at most, until the database holds all that the shard has said so far."""
        ...
