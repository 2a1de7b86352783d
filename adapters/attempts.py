"""Sign-in attempts, counted in Redis.

There are three counters: for an account from one network, for an account from all networks, for a network.

An attacker with many networks, or in the same network, delays new clients, but not an owner who has signed in
from there before: for the owner only the first counter applies. A successful attempt is taken back, but does
not end a delay that failures have caused.
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
from runtime.redis_scripts import load_script

_FORGOTTEN_MS: Final = 3_600_000
"""The counters are forgotten after this time without an attempt."""


class Patience(NamedTuple):
    """How many attempts may fail before the next has to wait.

    The wait is 1 s, doubled with each further failure up to `wait_max_ms`.
    """

    free: int
    wait_max_ms: int


OF_PAIR: Final = Patience(5, 900_000)
OF_ACCOUNT: Final = Patience(20, 60_000)
OF_NETWORK: Final = Patience(50, 60_000)

_BEGIN: Final = load_script("adapters", "begin_attempt")


_TAKE_BACK: Final = load_script("adapters", "take_attempt_back")


class RedisAttempts:
    """Implements `functions.users.attempts.Attempts`."""

    def __init__(self, client: redis.asyncio.Redis, *, enabled: bool) -> None:
        self._client = client
        self._enabled = enabled

    async def begin(self, attempt: Attempt) -> None:
        """Count an attempt.

        Raises:
            ApiError: -1003, HTTP 429: the next attempt is not allowed yet.
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
        """Forget the failures for this account from this network, and take this attempt back elsewhere."""
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
