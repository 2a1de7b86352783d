"""Graceful shutdown of a gateway: no request that was sent is cut off.

1. For a while it serves as before, but is not ready any more: a load balancer needs time to notice.
2. Every answer has `Connection: close`, so clients leave the connection with their next request.
3. It accepts no new connections except those already waiting, and closes its port.
4. Connections that have been idle for a while are closed, on our side first: a request that a client sends at
   that very moment meets the end of the connection without an answer, and was not executed. Requests that are
   arriving or being answered are waited for.
"""

import asyncio
import socket
import ssl
from collections.abc import Container, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, cast

import uvicorn

from adapters.crowd import Crowd
from adapters.proxies import TrustedProxies
from gateway.connection import Bounds, Connection, Shared
from runtime.listening import accept_the_last, until

_CHECK_S: Final = 1.0
"""Interval at which connections are checked."""
_CHECKED_AT_ONCE: Final = 50
"""Maximum of connections checked between two turns of the loop.

Closing thousands takes a tenth of a second, in which orders would wait.
"""


class DrainingServer(uvicorn.Server):
    """A server whose connections are of this package; it leaves signals to the process."""

    def __init__(
        self,
        config: uvicorn.Config,
        bounds: Bounds,
        crowd: Crowd,
        proxies: TrustedProxies,
        knocks: Container[object] = frozenset(),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Serve as `config` says, which names `Connection`; over TLS if there is a context."""
        super().__init__(config)
        self._tls = tls
        self.server_state: Shared = Shared(bounds, crowd, proxies, knocks)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen. The server's own default for a TLS handshake is a minute."""
        if self._tls is None or sockets is None:
            await super().startup(sockets)
            return
        await self.lifespan.startup()
        loop = asyncio.get_running_loop()
        handshake_s = self.server_state.bounds.request_timeout_s
        make = partial(
            Connection, config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        self.servers = [
            await loop.create_server(
                make,
                sock=listener,
                ssl=self._tls,
                ssl_handshake_timeout=handshake_s,
                ssl_shutdown_timeout=handshake_s,
                backlog=self.config.backlog,
            )
            for listener in sockets
        ]
        self.started = True

    async def watch(self) -> None:
        """End connections whose clients are too slow, forever."""
        loop = asyncio.get_running_loop()
        looked_s, has_waited = loop.time(), False
        while True:
            await asyncio.sleep(_CHECK_S)
            now_s = loop.time()
            was_late, looked_s = now_s - looked_s > 2 * _CHECK_S, now_s
            if was_late and not has_waited:
                has_waited = True  # after this process stood still, waiting input is read first
                continue
            has_waited = False
            for number, connection in enumerate(self._connections(), 1):
                connection.check(now_s)
                if not number % _CHECKED_AT_ONCE:
                    await asyncio.sleep(0)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture no signals."""
        yield

    async def drain(
        self, listener: socket.socket, *, delay_s: float, grace_s: float, finish_s: float
    ) -> None:
        """Shut down in the steps above, the last of which takes at most `finish_s` more than the grace.

        Then stop serving.
        """
        await asyncio.sleep(delay_s)
        self.server_state.leaving_since = asyncio.get_running_loop().time()
        for connection in self._connections():
            connection.leave()
        await until(lambda: not self.server_state.connections, grace_s)
        await accept_the_last(listener)
        for server in self.servers:
            server.close()
        await until(lambda: self._are_gone(grace_s), grace_s + finish_s)
        self.should_exit = True

    def _are_gone(self, idle_s: float) -> bool:
        """Close the connections that have been idle for `idle_s`; return whether none is left."""
        for connection in self._connections():
            connection.close_if_idle(idle_s)
        return not self.server_state.connections

    def _connections(self) -> list[Connection]:
        return [cast("Connection", connection) for connection in self.server_state.connections]
