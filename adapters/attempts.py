"""Attempts to sign in, counted in Redis.

Three counters: of an account from one network, of an account from all, of a network.

An attacker with many networks, or in the same one, makes newcomers wait, not an account's owner who was there
before: for them the first counter alone counts. An attempt that succeeds is taken back, but it ends no wait
that failures have brought about.
"""

import hashlib
import time
from typing import Any, Final, NamedTuple

import redis.asyncio

from adapters.networks import networks_of
from adapters.outages import redis_outages
from functions.api.errors import ApiError
from functions.users.attempts import Attempt
from protocol import streams

_FORGOTTEN_MS: Final = 3_600_000
"""After so long without an attempt nothing is remembered."""


class Patience(NamedTuple):
    """How many attempts may fail before the next has to wait: 1 s, then twice as long each time, up to
    `wait_max_ms`.
    """

    free: int
    wait_max_ms: int


OF_PAIR: Final = Patience(5, 900_000)
OF_ACCOUNT: Final = Patience(20, 60_000)
OF_NETWORK: Final = Patience(50, 60_000)

# Counts an attempt and says when the next may be; or, when it is too early, how long it still is. One step,
# whoever else tries.
_BEGIN: Final = """
local count, due = string.match(redis.call('GET', KEYS[1]) or '0|0', '(%d+)|(%d+)')
count, due = tonumber(count), tonumber(due)
local now, free, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if now < due then return due - now end
count = count + 1
local wait = 0
if count > free then wait = math.min(most, 1000 * 2 ^ math.min(count - free - 1, 20)) end
redis.call('SET', KEYS[1], string.format('%d|%.0f', count, now + wait), 'PX', ARGV[4])
return 0
"""


# Takes one that succeeded back.
_TAKE_BACK: Final = """
local count, due = string.match(redis.call('GET', KEYS[1]) or '0|0', '(%d+)|(%d+)')
count = tonumber(count) - 1
if count <= 0 then return redis.call('DEL', KEYS[1]) end
if count <= tonumber(ARGV[1]) then due = '0' end
return redis.call('SET', KEYS[1], string.format('%d|%s', count, due), 'PX', ARGV[2])
"""


class RedisAttempts:
    """Implements `functions.users.attempts.Attempts`."""

    def __init__(self, client: redis.asyncio.Redis, *, enabled: bool) -> None:
        self._client = client
        self._enabled = enabled

    async def begin(self, attempt: Attempt) -> None:
        """Count one.

        Raises:
            ApiError: -1003, HTTP 429: it is too early for another.
        """
        if not self._enabled:
            return
        now_ms = time.time_ns() // 1_000_000
        for key, patience in _counters(attempt):
            with redis_outages():
                left_ms: Any = await self._client.eval(
                    _BEGIN, 1, key, now_ms, patience.free, patience.wait_max_ms, _FORGOTTEN_MS
                )
            if left_ms:
                raise ApiError(-1003, "Too many attempts; wait before the next.", 429, -(-left_ms // 1000))

    async def succeeded(self, attempt: Attempt) -> None:
        """Forget what failed before for this account from this network, and take this one back elsewhere."""
        if not self._enabled:
            return
        (pair, _), *others = _counters(attempt)
        with redis_outages():
            await self._client.delete(pair)
            for key, patience in others:
                await self._client.eval(_TAKE_BACK, 1, key, patience.free, _FORGOTTEN_MS)


def _counters(attempt: Attempt) -> list[tuple[str, Patience]]:
    account = hashlib.sha256(attempt.email.encode()).hexdigest()[:32]
    network = networks_of(attempt.address).own
    counters = [(streams.attempts(f"{account}:{network}"), OF_PAIR)]
    if not attempt.is_known:
        counters += [(streams.attempts(network), OF_NETWORK), (streams.attempts(account), OF_ACCOUNT)]
    return counters
