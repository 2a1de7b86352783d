"""Password hashing with argon2id, with limited concurrency: sign-ups do not delay existing users.

Existing users are served by threads. Sign-ups are hashed in a low-priority process.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import argon2

from adapters.hashing_process import HashingProcess, password_hasher
from functions.api.errors import overloaded
from functions.users.password_rules import check_password

T = TypeVar("T")

_PARALLEL: Final = 2
_SIGN_UPS_PARALLEL: Final = 1
_SIGN_UPS_REST: Final = 3.0
"""The pause after a sign-up, as a multiple of its duration: they get at most a quarter of a processor."""
_REST_S_MAX: Final = 0.3
"""Maximum of the pause: on a busy machine a low-priority hash takes seconds.

A proportional pause would then only delay users.
"""
_WAITING_MAX: Final = 50


class _Queue:
    """Limits concurrency and waiting callers, and pauses after each turn for `rest` times its duration."""

    def __init__(self, parallel: int, rest: float = 0.0) -> None:
        self._slots = asyncio.Semaphore(parallel)
        self._rest = rest
        self._rests_until_s = 0.0
        self._waiting = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        if self._waiting >= _WAITING_MAX:
            raise overloaded()
        self._waiting += 1
        try:
            async with self._slots:
                loop = asyncio.get_running_loop()
                await asyncio.sleep(self._rests_until_s - loop.time())
                began_s = loop.time()
                try:
                    yield
                finally:
                    now_s = loop.time()
                    self._rests_until_s = now_s + min(self._rest * (now_s - began_s), _REST_S_MAX)
        finally:
            self._waiting -= 1


class ArgonPasswords:
    """Implements `functions.api.ports.Passwords`."""

    def __init__(self) -> None:
        self._hasher = password_hasher()
        self._low = HashingProcess()
        self._sign_ins, self._sign_ups = _Queue(_PARALLEL), _Queue(_SIGN_UPS_PARALLEL, _SIGN_UPS_REST)
        # Compared with an unknown user's password, so that the answer takes as long as for a known one.
        self._nobody = self._hasher.hash("nobody has this password")
        self._threads = ThreadPoolExecutor(_PARALLEL + _SIGN_UPS_PARALLEL, "passwords")

    def close(self) -> None:
        """Stop hashing; waiting callers get a 503."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._low.close()

    async def hashed(self, password: str, email: str, *, is_known: bool) -> str:
        """Return the hash to store.

        Raises:
            ApiError: -1130, the rules refuse the password; 503, too many callers wait, or memory is short.
        """
        async with (self._sign_ins if is_known else self._sign_ups).turn():
            try:
                if not is_known:
                    return await self._in_thread(self._low.hash, password, email)
                # The rules take some milliseconds of the event loop, so they are checked only when it is the
                # caller's turn.
                check_password(password, email)
                return await self._in_thread(self._hasher.hash, password)
            except (OSError, argon2.exceptions.HashingError):  # no process, or no memory
                raise overloaded() from None

    async def matches(self, password_hash: str, password: str) -> bool:
        """Return whether the password matches the hash; never, for an empty hash.

        Raises:
            ApiError: 503, too many callers wait, or memory is short.
        """
        async with self._sign_ins.turn():
            return await self._in_thread(self._verify, password_hash, password)

    async def _in_thread(self, work: Callable[..., T], *arguments: str) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def _verify(self, password_hash: str, password: str) -> bool:
        try:
            self._hasher.verify(password_hash or self._nobody, password)
        except (argon2.exceptions.VerifyMismatchError, argon2.exceptions.InvalidHashError):
            return False
        except argon2.exceptions.VerificationError:  # no memory, which says nothing about the password
            raise overloaded() from None
        return bool(password_hash)
