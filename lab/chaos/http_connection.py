"""HTTP/1.1 for a load generator: one request under way per connection, parsed by httptools."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple, cast

import httptools

from runtime.listening import has_input


class NotConnectedError(ConnectionError):
    """No connection could be opened, so nothing was sent."""


class HttpAnswer(NamedTuple):
    """An HTTP response: its status, whether it has Retry-After, and its body."""

    status: int
    retry_after: bool
    body: bytes


class HttpConnection:
    """A connection that is opened when needed, and reopened after any error.

    Each connection is to the next of several addresses, or to another one if nothing listens there, as behind
    a load balancer.
    """

    def __init__(self, addresses: Sequence[tuple[str, int]], first: int = 0) -> None:
        """Connect to the first one of `addresses` first."""
        self._addresses = addresses
        self._turn = first
        self._open: _Open | None = None

    async def ask(self, request: bytes, timeout_s: float) -> HttpAnswer:
        """Send a request and return its answer.

        Raises:
            NotConnectedError: nothing was sent.
            ConnectionError: the connection was lost on the way.
            TimeoutError: no answer in time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                if self._open is not None and self._open.has_ended():
                    self.close()
                if self._open is None or self._open.transport is None:
                    self._open = await self._connect()
                return await self._open.ask(request)
        except TimeoutError:
            self.close()
            raise

    async def _connect(self) -> "_Open":
        refusal: OSError | None = None
        for _ in self._addresses:
            address = self._addresses[self._turn % len(self._addresses)]
            self._turn += 1
            try:
                _, connection = await asyncio.get_running_loop().create_connection(_Open, *address)
            except OSError as error:
                refusal = error
            else:
                return connection
        raise NotConnectedError(str(refusal)) from refusal

    def close(self) -> None:
        """Close the connection."""
        if self._open is not None:
            self._open.close()
            self._open = None


class _Open(asyncio.Protocol):
    """One connection, from its beginning to its end; also httptools' callbacks."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[HttpAnswer] | None = None
        self._retry_after = False
        self._body = b""

    def ask(self, request: bytes) -> asyncio.Future[HttpAnswer]:
        self._answer = asyncio.get_running_loop().create_future()
        if self.transport is None:
            self._answer.set_exception(NotConnectedError("closed at once"))
        else:
            self.transport.write(request)
        return self._answer

    def has_ended(self) -> bool:
        """Return whether the server has closed an idle connection that the loop has not processed yet.

        Clients with a pool check this, too.
        """
        return self.transport is not None and has_input(self.transport.get_extra_info("socket"))

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()
            self.transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.close()
            self._fail(ConnectionError(f"not HTTP: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._fail(ConnectionError("connection lost"))

    def on_message_begin(self) -> None:
        self._retry_after, self._body = False, b""

    def on_header(self, name: bytes, value: bytes) -> None:
        self._retry_after |= name.lower() == b"retry-after"

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        answer = HttpAnswer(self._parser.get_status_code(), self._retry_after, self._body)
        if not self._parser.should_keep_alive():
            self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
