"""The links to the shards' servers: one where there is one server, one for each shard on a cluster."""

from collections.abc import Callable, Iterable

from adapters.redis_link import RedisLink
from runtime.redis_clients import parse_address


class RedisLinks:
    """A link for each shard; on one server all are the same."""

    def __init__(
        self, url: str, shard_count: int, *, on_message: Callable[[bytes, bytes], object] | None = None
    ) -> None:
        def open_link(shard: int) -> RedisLink:
            return RedisLink(url, key=f"pos:{{{shard}}}", on_message=on_message)

        if parse_address(url).is_cluster:
            self._links = [open_link(shard) for shard in range(shard_count)]
        else:
            self._links = [open_link(0)] * shard_count

    @property
    def shard_count(self) -> int:
        """How many shards there are."""
        return len(self._links)

    @property
    def are_several(self) -> bool:
        """Whether the shards are on several servers."""
        return len(dict.fromkeys(self._links)) > 1

    def of(self, shard: int) -> RedisLink:
        """Return the link to a shard's server."""
        return self._links[shard]

    def all(self) -> Iterable[RedisLink]:
        """Return every distinct link."""
        return dict.fromkeys(self._links)

    def call_when_ready(self, callback: Callable[[], None]) -> None:
        """Call `callback` after every (re)connection of any link."""
        for link in self.all():
            link.on_ready = callback

    async def start(self) -> None:
        """Start connecting, and stay connected."""
        for link in self.all():
            await link.start()

    async def close(self) -> None:
        """Disconnect for good."""
        for link in self.all():
            await link.close()
