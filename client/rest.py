"""The public API, signed: parameters in, decoded JSON out, and three exceptions for all failures."""

import asyncio
import time
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlencode

import aiohttp
import msgspec

from client.signing import signed_query
from runtime.tls import LocalTrust

STATUS_UNKNOWN: Final = -1007
OUTSIDE_RECV_WINDOW: Final = -1021
TIMEOUT_S: Final = 10
RETRY_AFTER_S_MAX: Final = 60


class ApiError(Exception):
    """The exchange refused a request."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message


class UnavailableError(Exception):
    """The exchange could not be reached, or could not answer; nothing was done."""


class StatusUnknownError(Exception):
    """The request may have been carried out or not: ask before doing anything on top of it."""


FAILURES: Final = (ApiError, UnavailableError, StatusUnknownError)


class Keys(msgspec.Struct, frozen=True, rename="camel"):
    """An API key and the secret that signs its requests."""

    api_key: str
    secret: str


class _Refusal(msgspec.Struct):
    code: int = 0
    msg: str = ""


class Client:
    """One connection pool to the exchange at `url`.

    After a 429 or 418 no request leaves before Retry-After is over.
    """

    def __init__(self, url: str, trust: LocalTrust | None = None) -> None:
        """Connect at the first request.

        `trust` has the trusted certificate for an https URL; None: the system's.
        """
        self._url = url.rstrip("/")
        self._trust = trust
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        self._blocked_until = 0.0
        self._clock_offset_ms = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()

    async def synchronize_clock(self) -> None:
        """Learn how far the exchange's clock is ahead of ours, for the timestamps of signed requests."""
        answer = await self.get("/api/v3/time")
        self._clock_offset_ms = answer["serverTime"] - time.time_ns() // 1_000_000

    async def get(self, path: str, **parameters: str | int) -> Any:
        """Ask something public; raises as `signed` does."""
        await self._rate_limit_over()
        return await self._request("GET", _with_query(path, parameters))

    async def post(self, path: str, body: dict[str, str], token: str = "") -> Any:
        """Send JSON to one of the exchange's own endpoints, signed in when there is a token.

        Raises as `signed` does.
        """
        await self._rate_limit_over()
        headers = {"Content-Type": "application/json"} | (
            {"Authorization": f"Bearer {token}"} if token else {}
        )
        return await self._request("POST", path, headers, msgspec.json.encode(body))

    async def signed(self, keys: Keys, method: str, path: str, **parameters: str | int) -> Any:
        """Send a request in the name of an account.

        Raises:
            ApiError: the exchange refused.
            UnavailableError: nothing was done.
            StatusUnknownError: it may have been done.
        """
        await self._rate_limit_over()
        timestamp = time.time_ns() // 1_000_000 + self._clock_offset_ms
        query = signed_query(keys.secret, parameters, timestamp)
        headers = {"X-MBX-APIKEY": keys.api_key}
        try:
            return await self._request(method, f"{path}?{query}", headers)
        except ApiError as error:
            if error.code != OUTSIDE_RECV_WINDOW:
                raise
            await self.synchronize_clock()
            raise UnavailableError(str(error)) from error

    async def _rate_limit_over(self) -> None:
        await asyncio.sleep(max(0.0, self._blocked_until - time.monotonic()))

    async def _request(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> Any:
        if self._trust is not None:
            self._trust.refresh()
        context = self._trust.context if self._trust is not None else True
        try:
            async with self._session.request(
                method, self._url + path, headers=headers, data=body or None, ssl=context
            ) as response:
                status, text = response.status, await response.read()
                retry_after = response.headers.get("Retry-After", "")
        # Without a connection nothing was sent. After any other error the request may have been executed.
        except aiohttp.ClientConnectorError as error:
            raise UnavailableError(str(error)) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise StatusUnknownError(repr(error)) from error
        if status in (418, 429):
            seconds = min(int(retry_after), RETRY_AFTER_S_MAX) if retry_after.isdecimal() else 1
            self._blocked_until = time.monotonic() + max(1, seconds)
            raise UnavailableError(f"rate limited for {seconds} s")
        if status < 400:
            return msgspec.json.decode(text)
        try:
            refusal = msgspec.json.decode(text, type=_Refusal)
        except msgspec.MsgspecError:
            refusal = _Refusal(msg=text[:200].decode(errors="replace"))
        if refusal.code == STATUS_UNKNOWN:
            raise StatusUnknownError(refusal.msg)
        if status >= 500:
            raise UnavailableError(f"{status}: {refusal.msg}")
        raise ApiError(status, refusal.code, refusal.msg)


def _with_query(path: str, parameters: dict[str, str | int]) -> str:
    return f"{path}?{urlencode(parameters)}" if parameters else path
