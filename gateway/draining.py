"""How a gateway leaves: nobody who has sent a request is cut off.

1. For a while it goes on as before, not ready any more: a balancer needs time to notice.
2. Every answer says `Connection: close`, so whoever uses a connection moves with the next request.
3. It lets nobody new in, accepts the last who wait, and closes its port.
4. Connections that have been idle for a while are closed, on our side first: what a client sends in that very moment meets an end of
   the connection without an answer and was not carried out. What is being answered or still arriving is waited for.
"""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from serving.listening import accept_the_last, has_input, until

_LINGER_S: Final = 1.0
"""How long a client may take to close its side too."""


class _State(ServerState):
    """What a server's connections share."""

    def __init__(self) -> None:
        super().__init__()
        self.leaving_since: float | None = None
        """On the loop's clock; None: it is not."""


class Connection(HttpToolsProtocol):
    """One client's connection."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """See `HttpToolsProtocol`."""
        super().__init__(*arguments, **options)
        self._shared = cast("_State", self.server_state)
        self._under_way = 0
        """Requests that have begun to arrive and have not got their whole answer."""
        self._used_s = self.loop.time()
        """When the connection was made, or had its last answer."""
        self._closing = False

    def data_received(self, data: bytes) -> None:
        """Take what a client sends, unless it comes too late."""
        if not self._closing:
            super().data_received(data)

    def on_message_begin(self) -> None:
        """Note that a request begins."""
        super().on_message_begin()
        self._under_way += 1

    def on_headers_complete(self) -> None:
        """Begin to answer a request."""
        super().on_headers_complete()
        if self._shared.leaving_since is not None:
            self.cycle.keep_alive = False

    def on_response_complete(self) -> None:
        """Note that a request has its answer."""
        super().on_response_complete()
        self._under_way -= 1
        self._used_s = self.loop.time()

    def leave(self) -> None:
        """Let the answer under way be the last, where it has not begun without saying so."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is not None and not cycle.response_started:
            cycle.keep_alive = False

    def close_if_idle(self, idle_s: float) -> None:
        """Close the connection if it has been idle for so long since its server leaves."""
        since = max(self._used_s, self._shared.leaving_since or 0.0)
        if self._under_way or self._closing or self.transport.is_closing() or self.loop.time() < since + idle_s:
            return
        if has_input(self.transport.get_extra_info("socket")):
            return
        self._closing = True
        # Only our side: closing the other one too would answer what comes late with a reset, which may destroy an answer on its way.
        self.transport.write_eof()
        self.loop.call_later(_LINGER_S, self.transport.abort)


class DrainingServer(uvicorn.Server):
    """A server whose connections are of this module; it leaves signals to the process."""

    def __init__(self, config: uvicorn.Config) -> None:
        """Serve as `config` says, which names `Connection`."""
        super().__init__(config)
        self.server_state: _State = _State()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

    async def drain(self, listener: socket.socket, *, delay_s: float, grace_s: float, finish_s: float) -> None:
        """Leave in the steps above, the last of which takes at most `finish_s` more than the grace; then stop serving."""
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
        """Close the connections that have been idle for so long; return whether none is left."""
        for connection in self._connections():
            connection.close_if_idle(idle_s)
        return not self.server_state.connections

    def _connections(self) -> list[Connection]:
        return [cast("Connection", each) for each in self.server_state.connections]
