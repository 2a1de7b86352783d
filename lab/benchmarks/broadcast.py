"""The ceiling of any WebSocket server here: `websockets` broadcasting to all connections.

`python -m lab.benchmarks.broadcast PORT`.

A client sends `COUNT SIZE`, and everybody hears COUNT texts of SIZE bytes.
"""

import asyncio
import sys

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed


async def run(port: int) -> None:
    """Serve on `port` until the process is ended."""
    connections: set[ServerConnection] = set()

    async def handle(connection: ServerConnection) -> None:
        connections.add(connection)
        try:
            async for message in connection:
                count, size = map(int, message.split())
                for _ in range(count):
                    broadcast(connections, "x" * size)
        except ConnectionClosed:
            pass  # how a subscriber leaves is its own affair
        finally:
            connections.discard(connection)

    async with serve(handle, "127.0.0.1", port, compression=None, ping_interval=None, backlog=1024):
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    uvloop.run(run(int(sys.argv[1])))
