"""Compares the settings that all processes of an exchange must share, when a process starts.

Every process renews its entry in `settings:{k}` while it runs, and removes it when it stops: an engine worker
on the server of its shard, the others on that of shard 0. A starting process reads the entries of the others:
a gateway with another number of shards would send orders to shards that do not own them. Decision:
docs/decisions/0043-shared-settings.md.
"""

import os
import signal
import time
from typing import Final

import msgspec
import redis
import structlog

from protocol import streams
from protocol.decoding import json_decoder
from runtime import redis_clients
from runtime.redis_reserve import write_reserved
from runtime.settings import PREFIX, ClusterSettings, Settings, SettingsError
from runtime.unique_names import own_instance

FRESH_S: Final = 10
"""An entry that was not renewed for this time belongs to a process that was killed."""
_RENEW_S: Final = 3.0
"""Each renewal is a write, which Redis brings to the disk."""
_TIMEOUT_S: Final = 2.0
_ADVICE: Final = (
    "All processes of an exchange need the same values; stop those that have other ones first, "
    "or set these alike."
)

_log = structlog.get_logger()


class Entry(msgspec.Struct, frozen=True):
    """The last announcement of one process."""

    time_s: int
    """By Redis's clock."""
    settings: ClusterSettings


_decode: Final = json_decoder(Entry)


def differences(own: ClusterSettings, others: dict[str, ClusterSettings]) -> list[str]:
    """Return a line, with the variable, for each setting in which another process differs."""
    lines = []
    for field in msgspec.structs.fields(ClusterSettings):
        value = getattr(own, field.name)
        others_values = {
            name: getattr(process_settings, field.name) for name, process_settings in sorted(others.items())
        }
        if wrong := [f"{theirs} in {name}" for name, theirs in others_values.items() if theirs != value]:
            lines.append(f"{PREFIX}{field.name.upper()}: {value} here, {', '.join(wrong)}")
    return lines


class Agreement:
    """The entry of one process, and its comparison with the other entries on the same server.

    Only that server is asked: the loop of an engine worker, which renews its entry, must not wait for the
    server of another shard.
    """

    def __init__(self, settings: Settings, process: str, shard: int = 0) -> None:
        self._name = f"{process}@{own_instance()}"
        self._own = settings.cluster()
        self._key = streams.cluster_settings(shard)
        self._redis = redis_clients.client_for(
            settings.resolved_redis_url(), self._key, socket_timeout=_TIMEOUT_S
        )
        self._has_agreed = False
        self._due_s = 0.0

    def renew(self) -> None:
        """Write this process's entry, and compare it with the others if that has not been done yet.

        Raises:
            SettingsError: another running process has other values.
            redis.RedisError: Redis is unreachable.
        """
        now_s = int(self._redis.time()[0])
        entry = msgspec.json.encode(Entry(now_s, self._own))
        write_reserved(self._redis, "HSET", self._key, self._name, entry)
        if self._has_agreed:
            return
        # Written before the others are read: of two processes that start at the same moment, at least one
        # sees the other.
        if mistakes := differences(self._own, self._others(now_s)):
            self._redis.hdel(self._key, self._name)
            raise SettingsError("\n".join([*mistakes, _ADVICE]))
        self._has_agreed = True

    def renew_or_end(self) -> None:
        """Renew the entry when it is due; end this process when another running process has other values.

        The latter is for a process that started while Redis was unreachable.
        """
        if time.monotonic() < self._due_s:
            return
        try:
            self.renew()
            self._due_s = time.monotonic() + _RENEW_S
        except redis.RedisError as error:
            _log.debug("the shared settings were not compared", error=str(error))
        except SettingsError as error:
            _log.critical("other processes have other settings", reason=str(error))
            os.kill(os.getpid(), signal.SIGTERM)

    def leave(self) -> None:
        """Remove this process's entry."""
        try:
            self._redis.hdel(self._key, self._name)
        except redis.RedisError as error:
            _log.debug("the shared settings were not removed", error=str(error))
        self.close()

    def close(self) -> None:
        """Close the connection; the entry stays."""
        self._redis.close()

    def _others(self, now_s: int) -> dict[str, ClusterSettings]:
        """Return the settings of the running processes; remove the entries of killed ones."""
        others = {}
        entries: dict[bytes, bytes] = self._redis.hgetall(self._key)  # type: ignore[assignment]
        for name, value in entries.items():
            try:
                entry = _decode(value)
            except msgspec.MsgspecError:
                continue  # of another release, which has other settings
            if now_s - entry.time_s > FRESH_S:
                self._redis.hdel(self._key, name)
            elif name != self._name.encode():
                others[name.decode()] = entry.settings
        return others


def agree(settings: Settings, process: str, shard: int = 0) -> None:
    """Compare the settings with those of the running processes on the servers of `shard` and of shard 0.

    What cannot be compared because Redis is unreachable, the heartbeat compares later.

    Raises:
        SettingsError: another running process has other values.
    """
    for place in sorted({0, shard}):
        agreement = Agreement(settings, process, place)
        try:
            agreement.renew()
        except redis.RedisError as error:
            _log.debug("the shared settings were not compared", error=str(error))
        finally:
            if place != shard:
                agreement.leave()  # its entry is on its own shard's server
            else:
                agreement.close()
