"""The door in front of all functions: charges a request by peer and request line before anything else.

1. The network is charged, also for unknown paths and methods; a banned network is refused before its body is
   read.
2. URL and body are limited, depending on the function.
3. The function's endpoint answers; it corrects the charge as soon as it knows the weight.

Requests of pages of other origins, preflights, the API's description, and unknown paths go through the
framework; all others bypass its layers, which are a fifth of the whole cost of an order.
"""

import time
from collections.abc import Container, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

from litestar import Litestar
from litestar.types import HTTPScope, Receive, Scope, Send

from adapters.clock import now_us
from adapters.metrics import count_refusal, refusal_of
from adapters.rate_limits import RateLimits
from functions.api.errors import ApiError
from gateway.endpoint import Endpoint, Headers, HttpAnswer, HttpRequest, refuse, weight_headers
from gateway.errors import body_too_large, malformed, url_too_long
from gateway.request_ids import HEADER, begin_request
from protocol.units import TimeMs

DESCRIPTION_WEIGHT: Final = 10
"""Weight of /schema, which is large."""
UNKNOWN_WEIGHT: Final = 1
"""Weight of unknown paths and of preflights."""
REQUEST: Final = "exchange_request"
"""Key in the scope's state: the `HttpRequest` of the door, for the framework's handlers."""
_JSON: Final = (b"content-type", b"application/json;charset=UTF-8")
_CLOSE: Final = (b"connection", b"close")
_NOBODY: Final = "unknown"
_DESCRIPTION: Final = "/schema"


class Sizes(NamedTuple):
    """Maximum sizes of a request, in bytes."""

    url_max: int
    form_max: int
    body_max: int


class Door:
    """The ASGI application."""

    def __init__(
        self,
        app: Litestar,
        endpoints: Mapping[str, Mapping[str, Endpoint]],
        limits: RateLimits,
        sizes: Sizes,
        origin_headers: Mapping[bytes, Headers],
        knocks: Container[object] = frozenset(),
    ) -> None:
        """Answer with `endpoints`, everything else with `app`.

        Refusals to pages of an origin have the headers that `origin_headers` has for it.

        Requests from `knocks` are not charged.
        """
        self._app = app
        self._endpoints = endpoints
        self._limits = limits
        self._sizes = sizes
        self._origin_headers = origin_headers
        self._knocks = knocks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        http_scope = cast("HTTPScope", scope)  # the server's WebSockets and lifespan are switched off
        start_s = time.perf_counter()
        path, client = http_scope["path"], http_scope["client"]
        by_method = self._endpoints.get(path)
        endpoint = by_method.get(http_scope["method"]) if by_method is not None else None
        address = client[0] if client else _NOBODY
        now = TimeMs(now_us() // 1000)
        try:
            if endpoint is not None:
                weight = endpoint.least_weight
            else:
                weight = DESCRIPTION_WEIGHT if path.startswith(_DESCRIPTION) else UNKNOWN_WEIGHT
            # Charged before anything else is read: refused and oversized requests cost their sender the same.
            undecided = None if client in self._knocks else self._limits.charge(address, weight, now)
            if undecided is not None:
                await undecided
            if len(http_scope["raw_path"]) + len(http_scope["query_string"]) > self._sizes.url_max:
                raise url_too_long()
            # Only now: whoever is over a limit cannot make this process read a body.
            body = b""
            if endpoint is not None and http_scope["method"] != "GET":
                takes_json = endpoint.function.body is not None
                body = await read_body(receive, self._sizes.body_max if takes_json else self._sizes.form_max)
        except ApiError as error:
            await self._refuse(http_scope, send, error, endpoint, address, now)
            return
        request = HttpRequest(
            address, http_scope["headers"], http_scope["query_string"], body, now_us(), start_s
        )
        # A page's request needs CORS headers, which the framework adds; all others bypass the framework.
        if endpoint is not None and not any(name == b"origin" for name, _ in http_scope["headers"]):
            await answer(send, await endpoint.answer(request))
            return
        http_scope["state"][REQUEST] = request
        await self._app(scope, receive, self._telling(http_scope, send, address, now))

    async def _refuse(
        self,
        scope: HTTPScope,
        send: Send,
        error: ApiError,
        endpoint: Endpoint | None,
        address: str,
        now: TimeMs,
    ) -> None:
        """Answer without reading any further.

        If much may follow on the connection, it is not read.
        """
        count_refusal(refusal_of(error))
        headers: Headers = [_JSON, (HEADER, begin_request(_request_id(scope)))]
        status, text = refuse(error, headers)
        if status != 429:
            headers.append(_CLOSE)
        headers.extend(weight_headers(self._limits, address, now))
        for name, value in scope["headers"]:
            if name == b"origin":
                headers.extend(self._origin_headers.get(value, ()))
        if endpoint is not None:
            endpoint.count_refused(error)
        await answer(send, HttpAnswer(status, headers, text))

    def _telling(self, scope: HTTPScope, send: Send, address: str, now: TimeMs) -> Send:
        """Return a `send` that adds the headers of every answer to the framework's own answers."""

        async def tell(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers: Sequence[tuple[bytes, bytes]] = message.get("headers", ())
                if not any(name == HEADER for name, _ in headers):
                    own = [
                        (HEADER, begin_request(_request_id(scope))),
                        *weight_headers(self._limits, address, now),
                    ]
                    message["headers"] = [*headers, *own]
            await send(message)

        return tell


def _request_id(scope: HTTPScope) -> bytes | None:
    return next((value for name, value in scope["headers"] if name == HEADER), None)


async def read_body(receive: Receive, bytes_max: int) -> bytes:
    """Return a request's body.

    Raises:
        ApiError: it is larger than `bytes_max` (413), or its client has disconnected.
    """
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise malformed(400)
        chunk = message["body"]
        size += len(chunk)
        if size > bytes_max:
            raise body_too_large()
        if not message.get("more_body") and not chunks:
            return chunk
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)


async def answer(send: Send, reply: HttpAnswer) -> None:
    """Send a complete answer."""
    headers = [*reply.headers, (b"content-length", b"%d" % len(reply.body))]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body, "more_body": False})
