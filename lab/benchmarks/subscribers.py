"""Subscribers of WebSocket streams on bare sockets: they count bytes, and use little processor time."""

import asyncio
import base64
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import cast

from websockets.frames import Frame, Opcode

OPEN_AT_ONCE = 100
"""Connections that are opened at the same time."""
PER_ADDRESS = 1_500
"""Subscribers that come from one address of this machine."""
_STUCK_RECEIVE_BYTES = 4_096

HearPayload = Callable[[memoryview], None]


def frames_of(buffer: bytes) -> Iterator[tuple[int, memoryview]]:
    """Yield (end of the frame, its payload) of the complete, unmasked frames in `buffer`."""
    view, at = memoryview(buffer), 0
    while len(buffer) - at >= 2:
        length, start = buffer[at + 1], at + 2
        if length >= 126:
            size = 2 if length == 126 else 8
            length, start = int.from_bytes(buffer[start : start + size], "big"), start + size
        if start + length > len(buffer):
            return
        at = start + length
        yield at, view[start:at]


class Subscriber(asyncio.Protocol):
    """One connection; with `hear`, every payload is looked at, otherwise bytes are counted and no more."""

    def __init__(self, path: str, hear: HearPayload | None = None) -> None:
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.received = 0
        """Bytes since the handshake."""
        self.lost = False
        self._path = path
        self._hear = hear
        self._head = b""
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the WebSocket handshake."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        self.transport.write(
            f"GET {self._path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        """Count the bytes after the handshake, and pass the payloads on."""
        if not self.opened.done():
            self._head += data
            head, separator, data = self._head.partition(b"\r\n\r\n")
            if not separator:
                return
            if b" 101 " not in head:
                self.opened.set_exception(ConnectionError(head.decode(errors="replace")))
                return
            self.opened.set_result(None)
        self.received += len(data)
        if self._hear is not None:
            self._take(data, self._hear)

    def _take(self, data: bytes, hear: HearPayload) -> None:
        buffer, done = self._rest + data, 0
        for end, payload in frames_of(buffer):
            hear(payload)
            done = end
        self._rest = buffer[done:]

    def send(self, text: str) -> None:
        """Send a text frame."""
        self.transport.write(Frame(Opcode.TEXT, text.encode()).serialize(mask=True))

    def connection_lost(self, exc: Exception | None) -> None:
        """Record that the server has closed the connection."""
        self.lost = True
        if not self.opened.done():
            self.opened.set_exception(exc or ConnectionError("closed by the server"))


def address(number: int) -> str:
    """Return the address of this machine that subscriber `number` comes from: limits count per address."""
    return f"127.0.0.{1 + number // PER_ADDRESS}"


async def subscribe(port: int, paths: Sequence[str], hear: HearPayload | None = None) -> list[Subscriber]:
    """Open a connection for each of `paths`, and wait for all handshakes; `hear` gets each frame's payload.

    Raises:
        OSError: a connection or a handshake was refused.
    """
    loop = asyncio.get_running_loop()
    subscribers: list[Subscriber] = []
    for first in range(0, len(paths), OPEN_AT_ONCE):
        opening = [
            loop.create_connection(
                lambda path=path: Subscriber(path, hear),  # type: ignore[misc]
                "127.0.0.1",
                port,
                local_addr=(address(first + offset), 0),
            )
            for offset, path in enumerate(paths[first : first + OPEN_AT_ONCE])
        ]
        opened = [subscriber for _, subscriber in await asyncio.gather(*opening)]
        await asyncio.gather(*(subscriber.opened for subscriber in opened))
        subscribers += opened
    return subscribers


async def subscribe_stuck(port: int, path: str, count: int) -> list[socket.socket]:
    """Open `count` connections that never read."""
    loop = asyncio.get_running_loop()
    stuck = []
    for _ in range(count):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _STUCK_RECEIVE_BYTES)
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", port))
        await loop.sock_sendall(
            client,
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode(),
        )
        stuck.append(client)
    return stuck
