"""Load generators on bare sockets: closed loop (one request per connection) and open loop (a fixed rate)."""

import asyncio
import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import uvloop

from lab.benchmarks.garbage import uncollected

RequestMaker = Callable[[int, int], bytes]
"""(connection, number) -> the bytes of that connection's next request."""


@dataclass
class Load:
    """What came of it; latencies in seconds, statuses with the number of answers that had them."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)


class _Connection(asyncio.Protocol):
    def __init__(
        self, index: int, make: RequestMaker, load: Load, ends: float, done: asyncio.Future[None]
    ) -> None:
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

    with uncollected():
        return uvloop.run(main())


class Answered(NamedTuple):
    """One request of an open loop: its due time, its answer's time (`time.perf_counter`), and the answer."""

    due: float
    done: float
    status: int
    body: bytes


class _Line(asyncio.Protocol):
    """A connection that takes one request after the other."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._received = b""
        self.lost: Callable[[Exception], None] | None = None
        self._answered: Callable[[int, bytes], None] | None = None

    def ask(self, request: bytes, answered: Callable[[int, bytes], None]) -> None:
        self._received, self._answered = b"", answered
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if separator and len(body) >= _content_length(head) and self._answered is not None:
            self._answered(int(head[9:12]), body)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.lost is not None:
            self.lost(exc or ConnectionError("the server has closed a connection"))

    def close(self) -> None:
        self.lost = None
        self._transport.close()


async def open_loop(
    port: int,
    connections: int,
    rate: float,
    seconds: float,
    make: RequestMaker,
    addresses: Sequence[str] = ("127.0.0.1",),
) -> list[Answered]:
    """Send `rate` requests per second from `addresses` in turn, and return them with their answers.

    A request without a free connection waits for one, and the wait counts: latency is from its due time.
    """
    with uncollected():
        return await _open_loop(port, connections, rate, seconds, make, addresses)


async def _open_loop(
    port: int, connections: int, rate: float, seconds: float, make: RequestMaker, addresses: Sequence[str]
) -> list[Answered]:
    loop = asyncio.get_running_loop()
    froms = itertools.islice(itertools.cycle(addresses), connections)
    opened = [
        await loop.create_connection(_Line, "127.0.0.1", port, local_addr=(address, 0)) for address in froms
    ]
    lines = [line for _, line in opened]
    free = deque(enumerate(lines))
    waiting: deque[tuple[int, float]] = deque()
    answers: list[Answered] = []
    count = int(rate * seconds)
    finished: asyncio.Future[None] = loop.create_future()

    def lost(error: Exception) -> None:
        if not finished.done():
            last_answer = answers[-1]._replace(due=0, done=0) if answers else "none"
            finished.set_exception(
                ConnectionError(f"{error}; {len(answers)} answers before, the last {last_answer}")
            )

    for line in lines:
        line.lost = lost

    def start() -> None:
        while free and waiting:
            (index, line), (number, due) = free.popleft(), waiting.popleft()

            def answered(
                status: int, body: bytes, index: int = index, line: _Line = line, due: float = due
            ) -> None:
                # Timed from the moment at which it was due: a request that had to wait for a free connection
                # counts its wait.
                answers.append(Answered(due, time.perf_counter(), status, body))
                free.append((index, line))
                if len(answers) == count and not finished.done():
                    finished.set_result(None)
                start()

            line.ask(make(index, number), answered)

    began = time.perf_counter()
    for number in range(1, count + 1):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        waiting.append((number, due))
        start()
    await finished
    for line in lines:
        line.close()
    return answers
