"""Reading a WebSocket up to the code it is closed with."""

import asyncio
from contextlib import suppress

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

TIMEOUT_S = 60


async def closing(client: ClientConnection) -> tuple[int, str]:
    """Read until the connection ends; return code and reason of its close."""
    async with asyncio.timeout(TIMEOUT_S):
        while client.close_code is None:
            with suppress(ConnectionClosed):
                await client.recv()
    return client.close_code, client.close_reason or ""
