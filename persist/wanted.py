"""Hears that somebody waits until the database has a shard's events: `wanted:{k}`."""

import time
from collections.abc import Iterable
from typing import Any

import redis
import structlog

from protocol import streams
from runtime.redis_clients import ShardServers

_log = structlog.get_logger()


class Wanted:
    """Subscribes when it is first waited for, and again after every outage."""

    def __init__(self, url: str, shards: Iterable[int]) -> None:
        """Hear through the Redis at `url`. On a cluster one server is enough: it hears what all publish."""
        self._servers = ShardServers(url, socket_keepalive=True)
        self._shards = {streams.wanted(shard).encode(): shard for shard in shards}
        self._listener: Any = None
        self._is_refused = False

    def wait(self, timeout_s: float) -> set[int]:
        """Wait until somebody waits, at most `timeout_s`; return the shards.

        Raises:
            redis.RedisError: Redis is unreachable.
        """
        if self._is_refused:
            time.sleep(timeout_s)
            return set()
        try:
            listener = self._subscribed()
            heard = set[int]()
            message = listener.get_message(timeout=timeout_s)
            while message is not None:
                if message["type"] == "message":
                    heard.add(self._shards[message["channel"]])
                message = listener.get_message(timeout=0)
            return heard
        except redis.exceptions.NoPermissionError as error:
            # The Redis users of the release before. Questions wait for the linger to end then.
            _log.warning("nobody is heard who waits for the database", error=str(error))
            self._is_refused = True
            return set()
        except redis.RedisError:
            self._forget()
            raise

    def _subscribed(self) -> Any:
        if self._listener is None:
            shard = next(iter(self._shards.values()))
            listener: Any = self._servers.of(shard).pubsub()  # type: ignore[no-untyped-call]
            listener.subscribe(*self._shards)
            self._listener = listener
        return self._listener

    def _forget(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    def close(self) -> None:
        """Close the connections."""
        self._forget()
        self._servers.close()
