"""One client's connection to a gateway: what may arrive on it, how slowly, and how it ends.

A request is a head and a body. What is not body – the head, sizes and extensions of chunks, trailers – may
take `head_bytes_max` altogether: 431. All of it must be there in time, counted from its first byte, so
dripping bytes does not prolong it: 408. A connection that sends nothing, or is idle for too long, is closed;
so is one whose client does not take its answer. Sizes of bodies and URLs are for the door (gateway/door.py),
which knows what is asked.
"""

import asyncio
from collections.abc import Callable, Container
from typing import Any, Final, NamedTuple, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from adapters.crowd import Crowd
from adapters.metrics import Refusal, count_refusal
from adapters.proxies import TrustedProxies
from functions.api.errors import ApiError
from gateway.errors import error_body, head_too_large, too_slow
from runtime.listening import has_input
from runtime.settings import Settings

_LINGER_S: Final = 1.0
"""How long a client may take to close its side too."""
_HEADERS_MAX: Final = 100
"""Headers of a request. Thousands of tiny ones fit into the bytes that a head may have, and took 7 ms of
everybody's time."""
_DISCARDED_MAX: Final = 4 << 20
"""Bytes that it may still send meanwhile."""
_STUCK_S: Final = 30.0
"""How long a client may leave its answer untaken."""


class Bounds(NamedTuple):
    """What one connection may do; sizes in bytes, times in seconds."""

    head_bytes_max: int
    body_bytes_max: int
    request_timeout_s: float
    idle_timeout_s: float

    @classmethod
    def of(cls, settings: Settings) -> "Bounds":
        """Return what the settings say."""
        return cls(
            settings.head_bytes_max,
            max(settings.body_bytes_max, settings.form_bytes_max),
            settings.request_timeout_ms / 1000,
            float(settings.idle_timeout_s),
        )


class Shared(ServerState):
    """What a server's connections share."""

    def __init__(
        self, bounds: Bounds, crowd: Crowd, proxies: TrustedProxies, knocks: Container[object] = frozenset()
    ) -> None:
        """Let in as many as `crowd` has room for.

        Who comes by one of `proxies` is not counted by its address, who comes from one of `knocks` not at
        all.
        """
        super().__init__()
        self.knocks = knocks
        self.bounds, self.crowd, self.proxies = bounds, crowd, proxies
        self.leaving_since: float | None = None
        """On the loop's clock; None: it is not."""


class _Transport:
    """A transport that is closed as its connection wants it; what is called often is the transport's own."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self._transport = transport
        self.write = transport.write
        self.abort = transport.abort
        self.get_extra_info = transport.get_extra_info
        self.close = close
        self.lingers = False
        """Whether only the client's end is waited for."""

    def is_closing(self) -> bool:
        """Return whether nothing can be said any more."""
        return self.lingers or self._transport.is_closing()


class Connection(HttpToolsProtocol):
    """One client's connection."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._shared = cast("Shared", self.server_state)
        self._head_bytes_max = self._shared.bounds.head_bytes_max
        self._peer: str | None = None
        self._is_counted = False
        self._under_way = 0
        """Requests that have begun to arrive and have not got their whole answer."""
        self._used_s = self.loop.time()
        """When the connection was made, or had its last answer."""
        self._begun_s: float | None = None
        """When the request that arrives began; None: none arrives."""
        self._has_asked = False
        """Whether a request has begun, ever."""
        self._is_in_head = False
        self._raw = 0
        """Bytes of the request that arrives, without those that came together with its first one."""
        self._body = 0
        """Of its body."""
        self._is_in_blocks = False
        """Whether more is fed at once than a head may have."""
        self._stuck_since_s: float | None = None
        self._closing = False
        """Whether what comes is not taken any more."""
        self._closing_since_s: float | None = None
        self._discarded = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Let a client in, if there is room."""
        super().connection_made(transport)
        self._raw_transport = transport
        self._link = _Transport(transport, self._close)
        self.transport = cast("asyncio.Transport", self._link)
        peer = str(self.client[0]) if self.client else "unknown"
        if self.client in self._shared.knocks:
            return
        self._peer = None if peer in self._shared.proxies else peer
        self._is_counted = self._shared.crowd.enter(self._peer)
        if not self._is_counted:
            count_refusal(Refusal.CONNECTIONS)
            self._closing = True
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        self._begun_s = None
        super().connection_lost(exc)
        if self._is_counted:
            self._is_counted = False
            self._shared.crowd.leave(self._peer)

    def data_received(self, data: bytes) -> None:
        """Take what a client sends, unless it comes too late or is too much."""
        if self._closing:
            self._discarded += len(data)
            if self._discarded > _DISCARDED_MAX:
                self.transport.abort()
            return
        most = self._head_bytes_max
        if len(data) <= most:
            self._feed(data)
            return
        # In pieces, so that no more than twice the limit is taken in before it is noticed.
        self._is_in_blocks = True
        for start in range(0, len(data), most):
            if self._takes_nothing():
                break
            self._feed(data[start : start + most])
        self._is_in_blocks = False

    def _feed(self, data: bytes) -> None:
        self._raw += len(data)
        super().data_received(data)
        if self._begun_s is not None and self._raw - self._body > self._head_bytes_max:
            self._refuse(head_too_large(), Refusal.HEAD)

    def on_message_begin(self) -> None:
        """Note that a request begins."""
        super().on_message_begin()
        self._under_way += 1
        self._begun_s = self.loop.time()
        self._has_asked = self._is_in_head = True
        self._raw = self._body = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header. Trailers are dropped: nothing reads them, and they must not pass for headers."""
        if not self._is_in_head or self._closing:
            return
        if len(self.headers) >= _HEADERS_MAX:
            self._refuse(head_too_large(), Refusal.HEAD)
            return
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer a request."""
        self._is_in_head = False
        if self._closing:
            return
        if (self._raw or self._is_in_blocks) and self._head_bytes() > self._head_bytes_max:
            self._refuse(head_too_large(), Refusal.HEAD)
            return
        super().on_headers_complete()
        if self._shared.leaving_since is not None:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._body += len(body)
        if self._closing:
            return
        if self._body > self._shared.bounds.body_bytes_max and self.cycle.response_complete:
            self._end()  # nobody reads it
            return
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that a request is there."""
        self._begun_s = None
        if not self._closing:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Note that a request has its answer."""
        super().on_response_complete()
        self._under_way -= 1
        self._used_s = self.loop.time()

    def pause_writing(self) -> None:
        """Note that the client does not take its answer."""
        super().pause_writing()
        self._stuck_since_s = self.loop.time()

    def resume_writing(self) -> None:
        """Note that it does again."""
        super().resume_writing()
        self._stuck_since_s = None

    def check(self, now_s: float) -> None:
        """End the connection if its client has taken too long over something."""
        bounds = self._shared.bounds
        if self.transport.is_closing():
            if self._closing_since_s is None:
                self._closing_since_s = now_s
            elif now_s - self._closing_since_s > bounds.request_timeout_s:
                self.transport.abort()  # it takes nothing, not even the end
        elif self._closing:
            return
        elif self._begun_s is not None and now_s - self._begun_s > bounds.request_timeout_s:
            self._refuse(too_slow(), Refusal.SLOW)
        elif self._stuck_since_s is not None and now_s - self._stuck_since_s > _STUCK_S:
            count_refusal(Refusal.SLOW)
            self.transport.abort()
        elif not self._under_way and now_s - self._used_s > self._quiet_s_max():
            if not self._has_asked:
                count_refusal(Refusal.SLOW)
            self._end()

    def _takes_nothing(self) -> bool:
        return self._closing or self.transport.is_closing()

    def _quiet_s_max(self) -> float:
        bounds = self._shared.bounds
        return bounds.idle_timeout_s if self._has_asked else bounds.request_timeout_s

    def leave(self) -> None:
        """Let the answer under way be the last, where it has not begun without saying so."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is not None and not cycle.response_started:
            cycle.keep_alive = False

    def close_if_idle(self, idle_s: float) -> None:
        """Close the connection if it has been idle for so long since its server leaves."""
        since = max(self._used_s, self._shared.leaving_since or 0.0)
        if (
            self._under_way
            or self._closing
            or self.transport.is_closing()
            or self.loop.time() < since + idle_s
        ):
            return
        if has_input(self.transport.get_extra_info("socket")):
            return
        self._closing = True
        # Only our side: closing the other one too would answer what comes late with a reset, which may
        # destroy an answer on its way.
        self._end_our_side()
        self.loop.call_later(_LINGER_S, self.transport.abort)

    def _end_our_side(self) -> None:
        """Say that nothing more comes from here.

        With TLS that ends the other side, too, once what is on its way has been taken.
        """
        if self._raw_transport.can_write_eof():
            self._raw_transport.write_eof()
        else:
            self._raw_transport.close()

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _refuse(self, error: ApiError, refusal: Refusal) -> None:
        """Answer the request that arrives, and take nothing more."""
        if self._closing or self.transport.is_closing():
            return
        count_refusal(refusal)
        cycle = cast("RequestResponseCycle | None", self.cycle)
        is_answered = False
        if cycle is not None and not cycle.response_complete:
            # Its handler waits for a body that nobody will get, or is the one of a request before this.
            is_answered = cycle.response_started
            cycle.disconnected = True
            cycle.message_event.set()
        if self._under_way <= 1 and not is_answered:
            body = error_body(error)
            head = b"content-type: application/json;charset=UTF-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            self.transport.write(STATUS_LINE[error.status] + head % len(body) + body)
        self._end()

    def _end(self) -> None:
        self._closing = True
        self._close()

    def _close(self) -> None:
        """Close, but not in the face of a client that is still sending: a reset may destroy the answer that
        says why.
        """
        if self._link.is_closing():
            return
        if self._begun_s is None:
            self._raw_transport.close()
            return
        self._closing = self._link.lingers = True
        self._end_our_side()
        self.flow.resume_reading()
        self.loop.call_later(_LINGER_S, self._raw_transport.abort)
