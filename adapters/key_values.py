"""Small values in Redis: sessions and the read models of API keys."""

import redis.asyncio

from adapters.outages import redis_outages


class RedisKeyValues:
    """Implements `functions.api.ports.KeyValues`."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client

    async def get(self, key: str) -> bytes | None:
        """Return a value."""
        with redis_outages():
            value = await self._client.get(key)
        return value if isinstance(value, bytes) else None

    async def put(self, key: str, value: bytes, ttl_s: int | None = None) -> None:
        """Set a value, for `ttl_s` seconds if given."""
        with redis_outages():
            await self._client.set(key, value, ex=ttl_s)

    async def remove(self, key: str) -> None:
        """Remove a value; it need not exist."""
        with redis_outages():
            await self._client.delete(key)
