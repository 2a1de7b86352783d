"""An edge needs no more memory for 20,000 refused handshakes than for one."""

import asyncio
import itertools
import os
from typing import Final
from urllib.parse import urlsplit

import pytest

from tests.support.edge_processes import Edge
from tests.support.memory import growth_of

HANDSHAKES: Final = int(os.environ.get("TEST_REFUSED_HANDSHAKES", "2000"))
AT_ONCE: Final = 8
GROWTH_BYTES_MAX: Final = 4_000_000
"""An exception that was built once took 8 kB a handshake: 16 MB for 2,000."""
REFUSED: Final = {
    "/": b"404",
    "/wsx": b"404",
    "/api/v3/ping": b"404",
    f"/ws/{'x' * 64}": b"400",
}


@pytest.mark.timeout(3_600)
def test_refused_handshakes_leave_nothing_behind(edge_process: Edge) -> None:
    address = urlsplit(edge_process.url)

    async def refused(number: int) -> None:
        for _, (path, status) in zip(range(number), itertools.cycle(REFUSED.items()), strict=False):
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            writer.write(
                f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: Upgrade\r\nUpgrade: "
                "websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
                "AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
            )
            answer = await reader.read()
            assert answer.split(b" ", 2)[1] == status, answer
            writer.close()

    async def at_once(count: int) -> None:
        await asyncio.gather(*(refused(count // AT_ONCE) for _ in range(AT_ONCE)))

    growth = growth_of(edge_process.process.pid, HANDSHAKES, lambda count: asyncio.run(at_once(count)))
    assert growth < GROWTH_BYTES_MAX
