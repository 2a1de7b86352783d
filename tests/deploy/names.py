"""The names and addresses of a cluster, for processes in a network namespace of their own.

A resolver that remembers what it was told, present or absent, for as long as CoreDNS and the caches of nodes
do; and in kube-proxy's place, addresses that stay and lead to whichever pod is behind them. With no pod
behind it an address refuses, as kube-proxy lets it.

Run as `python -m tests.deploy.names RESOLVER TTL_S`: a line of JSON each on stdin is a change, and is
answered by a line.
"""

import asyncio
import contextlib
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from typing import Any, Final, Self, cast

_HEADER: Final = struct.Struct("!HHHHHH")
_A: Final = 1
_RESPONSE: Final = 0x8580
_ABSENT: Final = 3
_CHUNK_BYTES: Final = 1 << 16


class CachingResolver(asyncio.DatagramProtocol):
    """Answers queries for addresses (A) out of `records`, and keeps each answer for `ttl_s`."""

    def __init__(self, ttl_s: float) -> None:
        self.records: dict[str, str] = {}
        self._ttl_s = ttl_s
        self._cache: dict[str, tuple[str | None, float]] = {}
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where answers go."""
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Answer one query."""
        assert self._transport is not None
        number, labels, place = _HEADER.unpack_from(data)[0], [], _HEADER.size
        while length := data[place]:
            labels.append(data[place + 1 : place + 1 + length].decode())
            place += 1 + length
        (kind,) = struct.unpack_from("!H", data, place + 1)
        question = data[_HEADER.size : place + 5]
        address = self.look_up(".".join(labels).lower())
        answer = b""
        if address is not None and kind == _A:
            answer = struct.pack("!HHHIH", 0xC00C, _A, 1, int(self._ttl_s), 4) + socket.inet_aton(address)
        flags = _RESPONSE | (_ABSENT if address is None else 0)
        self._transport.sendto(_HEADER.pack(number, flags, 1, bool(answer), 0, 0) + question + answer, addr)

    def remember(self, name: str) -> None:
        """Look a name up anew, so that what is so now is remembered for the whole of `ttl_s`."""
        self._cache.pop(name, None)
        self.look_up(name)

    def look_up(self, name: str) -> str | None:
        """Return what is remembered of a name, and else what is so now."""
        known = self._cache.get(name)
        if known is None or time.monotonic() >= known[1]:
            known = self._cache[name] = self.records.get(name), time.monotonic() + self._ttl_s
        return known[0]


class Forwarder:
    """An address that stays."""

    def __init__(self, address: str, port: int) -> None:
        self._place = address, port
        self._target = ""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def lead_to(self, target: str) -> None:
        """Lead new connections to another pod; to none, refuse them."""
        self._target = target
        if target and self._server is None:
            self._server = await asyncio.start_server(self._accept, *self._place)
        elif not target and self._server is not None:
            self._server.close()
            self._server = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection(self._target, self._place[1])
        except OSError:
            _reset(writer)
            return
        for each in ((reader, there[1]), (there[0], writer)):
            task = asyncio.ensure_future(_copy(*each))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


async def serve(address: str, ttl_s: float) -> None:
    """Answer names at `address`, and change what stdin says, until it ends."""
    loop = asyncio.get_running_loop()
    resolver = CachingResolver(ttl_s)
    await loop.create_datagram_endpoint(lambda: resolver, local_addr=(address, 53))
    forwarders: dict[tuple[str, int], Forwarder] = {}
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    _say("ready")
    while line := await lines.readline():
        change = json.loads(line)
        if "remember" in change:
            resolver.remember(change["remember"])
        elif "name" in change:
            resolver.records.pop(change["name"], None)
            if change["address"]:
                resolver.records[change["name"]] = change["address"]
        else:
            place = change["service"], change["port"]
            forwarder = forwarders.setdefault(place, Forwarder(*place))
            await forwarder.lead_to(change["target"])
        _say("done")


class Names:
    """That program, from outside."""

    def __init__(self, address: str, ttl_s: float) -> None:
        command = [sys.executable, "-m", "tests.deploy.names", address, str(ttl_s)]
        self._lock = threading.Lock()
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._heard("ready")

    def publish(self, name: str, address: str) -> None:
        """Give a name an address; an empty one takes the name away."""
        self._change(name=name, address=address)

    def remember(self, name: str) -> None:
        """Let the cache have asked for a name just now."""
        self._change(remember=name)

    def lead(self, service: str, port: int, target: str) -> None:
        """Let an address that stays lead to a pod's; to an empty one, refuse."""
        self._change(service=service, port=port, target=target)

    def _change(self, **change: str | int) -> None:
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(json.dumps(change) + "\n")
            self._process.stdin.flush()
            self._heard("done")

    def _heard(self, word: str) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == word

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], float(sys.argv[2])))
