"""A load generator on bare sockets: so many connections, each with one request under way, for so many seconds."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import uvloop

RequestMaker = Callable[[int, int], bytes]
"""(connection, number) -> the bytes of that connection's next request."""


@dataclass
class Load:
    """What came of it; latencies in seconds, statuses with the number of answers that had them."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)


class _Connection(asyncio.Protocol):
    def __init__(self, index: int, make: RequestMaker, load: Load, ends: float, done: asyncio.Future[None]) -> None:
        self._index, self._make, self._load, self._ends, self._done = index, make, load, ends, done
        self._number = 0
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it
        self._send()

    def _send(self) -> None:
        self._number += 1
        request = self._make(self._index, self._number)
        self._sent = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator or len(body) < _content_length(head):
            return
        now = time.perf_counter()
        self._load.latencies.append(now - self._sent)
        self._load.statuses[int(head[9:12])] += 1
        self._received = b""
        if now >= self._ends:
            self._transport.close()
        else:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_result(None) if exc is None else self._done.set_exception(exc)


def _content_length(head: bytes) -> int:
    lowered = head.lower()
    start = lowered.index(b"content-length:") + 15
    return int(lowered[start : lowered.find(b"\r\n", start) if b"\r\n" in lowered[start:] else None])


def run(port: int, connections: int, seconds: float, make: RequestMaker) -> Load:
    """Load the server on 127.0.0.1:`port` and return what came of it."""

    async def main() -> Load:
        loop = asyncio.get_running_loop()
        load = Load()
        began = time.perf_counter()
        finished: list[asyncio.Future[None]] = [loop.create_future() for _ in range(connections)]
        for index, done in enumerate(finished):
            connection = _Connection(index, make, load, began + seconds, done)
            await loop.create_connection(lambda connection=connection: connection, "127.0.0.1", port)  # type: ignore[misc]
        await asyncio.gather(*finished)
        load.seconds = time.perf_counter() - began
        return load

    return uvloop.run(main())
