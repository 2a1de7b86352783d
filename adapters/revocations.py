"""Revoked credentials: a list in Redis that every process reads several times a second.

A process's cached keys, and connections that depend on a credential, are valid only if the list was read
within the last second. A process that was stopped for a while, or cannot reach Redis, has to read it first.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import redis.asyncio
import structlog

from adapters.outages import redis_outages
from functions.users.revocations import Revocation
from protocol import streams
from protocol.units import AccountId
from runtime.redis_clients import RedisOutage
from runtime.redis_reserve import reserved
from runtime.tasks import end_tasks

FRESH_S: Final = 1.0
"""How long cached data is valid after the list was read."""
_LOOK_S: Final = 0.25
KEPT_MAX: Final = 100_000
"""Maximum of revocations in the list, the newest ones.

The read model of a key that was revoked before them has expired long ago.
"""
_PER_READ: Final = 5_000

_log = structlog.get_logger()


class RevokedCredentials:
    """The known part of the list, and when it was read. Pure."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}
        self._looked_at: float | None = None

    def hear(self, credential: str) -> bool:
        """Record a revocation; return whether it is new."""
        if credential in self._names:
            return False
        self._names[credential] = None
        while len(self._names) > KEPT_MAX:
            del self._names[next(iter(self._names))]
        return True

    def looked(self, at: float) -> None:
        """Record that everything on the list at `at` (s) is known."""
        self._looked_at = at

    def is_fresh(self, now: float) -> bool:
        """Return whether everything that was on the list a second ago is known."""
        return self._looked_at is not None and now - self._looked_at <= FRESH_S

    def __contains__(self, credential: object) -> bool:
        """Return whether a credential was revoked."""
        return credential in self._names


class RevocationWatch:
    """Reads the list, and adds to it. Implements `functions.users.revocations.Revocations`."""

    def __init__(self, client: redis.asyncio.Redis, monotonic: Callable[[], float]) -> None:
        self._client = client
        self._monotonic = monotonic
        self._revoked = RevokedCredentials()
        self._last: bytes | None = None
        """The id of the newest entry that was read."""
        self._on_revoked: list[Callable[[Revocation], None]] = []
        self._on_gap: list[Callable[[], None]] = []
        self._when_looked: list[Callable[[], None]] = []
        self._look_now = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Stop reading."""
        await end_tasks([self._task])

    def call_when_revoked(self, callback: Callable[[Revocation], None]) -> None:
        """Call `callback` for every new revocation."""
        self._on_revoked.append(callback)

    def call_when_lost(self, callback: Callable[[], None]) -> None:
        """Call `callback` when revocations may have been missed for good: all cached data is invalid."""
        self._on_gap.append(callback)

    def call_when_looked(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, after the list has been read again, which starts at once."""
        self._when_looked.append(callback)
        self._look_now.set()

    def is_fresh(self) -> bool:
        """Return whether the list was read within the last second."""
        return self._revoked.is_fresh(self._monotonic())

    def is_revoked(self, credential: str) -> bool:
        """Return whether a credential is on the list, as far as it was read."""
        return credential in self._revoked

    async def freshened(self, timeout_s: float) -> bool:
        """Return whether the list was read within the last second, after reading it; False: it timed out."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while not self.is_fresh():
            looked = loop.create_future()
            self.call_when_looked(lambda looked=looked: None if looked.done() else looked.set_result(None))  # type: ignore[misc]
            try:
                async with asyncio.timeout_at(until):
                    await looked
            except TimeoutError:
                return False
        return True

    async def add(self, revoked: Revocation) -> None:
        """Add to the list, even if Redis's memory is full.

        This process knows the revocations when the call returns.

        Raises:
            ApiError: unavailable, Redis is unreachable; the revocations may or may not be on the list.
        """
        fields = ("credential", revoked.credential, "account", revoked.account_id)
        with redis_outages():
            await self._client.execute_command(  # type: ignore[no-untyped-call]  # the library lacks the annotation
                *reserved("XADD", streams.revocations(), "MAXLEN", "~", KEPT_MAX, "*", *fields)
            )
        self._hear(revoked)

    async def _run(self) -> None:
        while True:
            self._look_now.clear()
            try:
                await self._look()
            except RedisOutage as error:
                _log.debug("revocations not read", error=str(error))
                await asyncio.sleep(_LOOK_S)
                continue
            callbacks, self._when_looked = self._when_looked, []
            for callback in callbacks:
                callback()
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._look_now.wait()
            except TimeoutError:
                pass

    async def _look(self) -> None:
        """Read new entries, beginning with the newest known one: if it is gone, others may be gone, too."""
        while True:
            start_s = self._monotonic()
            entries: Any = await self._client.xrange(
                streams.revocations(), "-" if self._last is None else self._last.decode(), "+", _PER_READ
            )
            if self._last is not None and (not entries or entries[0][0] != self._last):
                _log.warning("revocations may have been missed")
                self._last = None
                for lost in self._on_gap:
                    lost()
                continue
            for entry_id, fields in entries:
                if entry_id != self._last:
                    self._last = entry_id
                    if (revoked := _revocation_of(fields)) is not None:
                        self._hear(revoked)
            if len(entries) < _PER_READ:
                self._revoked.looked(start_s)
                return

    def _hear(self, revoked: Revocation) -> None:
        if self._revoked.hear(revoked.credential):
            for callback in self._on_revoked:
                callback(revoked)


def _revocation_of(fields: dict[bytes, bytes]) -> Revocation | None:
    """Return the revocation of an entry; None: a later release wrote it in another form."""
    try:
        return Revocation(fields[b"credential"].decode(), AccountId(int(fields[b"account"])))
    except (KeyError, ValueError):
        return None
