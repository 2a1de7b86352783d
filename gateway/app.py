"""The Litestar application: every mounted function behind its route.

The path of orders is an `@asgi` route, which costs less than half of an ordinary handler; both answer by the same `Endpoint`. And bots,
which are no web pages, reach that route past the framework's own layers (`HotPaths`), which are a fifth of the whole cost of an order.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, cast

import structlog
from litestar import Litestar, Request, Response, asgi
from litestar.config.cors import CORSConfig
from litestar.exceptions import HTTPException
from litestar.handlers import ASGIRouteHandler, HTTPRouteHandler
from litestar.types import HTTPScope, Message, Method, Receive, Scope, Send

from functions.errors import ApiError
from functions.function import Function
from gateway import openapi
from gateway.endpoint import Endpoint, Headers, HttpAnswer, HttpRequest, refuse, weight_headers
from gateway.errors import body_too_large, error_body, internal, malformed, method_not_allowed, path_unknown
from gateway.request_ids import HEADER, begin_request
from serving.clock import now_ms
from serving.rate_limits import RateLimits
from serving.wiring import Surroundings

HOT_PATHS: Final = frozenset({"/api/v3/order"})
_JSON: Final = "application/json;charset=UTF-8"
_PREFLIGHT_S: Final = 7_200
"""How long a browser remembers what it may do."""
_NOBODY: Final = "unknown"

RawHandler = Callable[[Scope, Receive, Send], Awaitable[None]]

_log = structlog.get_logger()


class HotPaths:
    """Hands requests for the hot paths straight to their handlers, and everything else, and what pages ask, to the application.

    What the application answers by itself – there is no such path, say – gets the headers that every answer has.
    """

    def __init__(self, app: Litestar, handlers: Mapping[str, RawHandler], limits: RateLimits) -> None:
        self._app = app
        self._handlers = handlers
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        handler = self._handlers.get(scope["path"])  # the server's WebSockets and lifespan are switched off
        if handler is None or any(name == b"origin" for name, _ in scope["headers"]):
            await self._app(scope, receive, self._completing(cast("HTTPScope", scope), send))
        else:
            await handler(scope, receive, send)

    def _completing(self, scope: HTTPScope, send: Send) -> Send:
        async def complete(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message["headers"])
                if not any(name == HEADER for name, _ in headers):
                    message["headers"] = [*headers, *_common_headers(scope, self._limits)]
            await send(message)

        return complete


def create_app(
    functions: Sequence[Function], surroundings: Surroundings, body_bytes_max: int, browser_origins: Sequence[str]
) -> HotPaths:
    """Return the application that serves `functions`; pages of `browser_origins` may call them."""
    endpoints: dict[str, dict[str, Endpoint]] = defaultdict(dict)
    for function in functions:
        endpoints[function.path][function.method] = Endpoint(function, surroundings)
    hot: dict[str, RawHandler] = {}
    handlers: list[ASGIRouteHandler | HTTPRouteHandler] = []
    for path, by_method in endpoints.items():
        if path in HOT_PATHS:
            hot[path] = _raw_handler(by_method, body_bytes_max, surroundings.limits)
            handlers.append(asgi(path, copy_scope=False)(hot[path]))
        else:
            handlers.extend(_route(path, endpoint) for endpoint in by_method.values())
    app = Litestar(
        route_handlers=handlers,
        exception_handlers={HTTPException: _http_error, Exception: _unexpected},
        request_max_body_size=body_bytes_max,
        logging_config=None,  # the process has set up its logs
        openapi_config=openapi.config(),
        cors_config=_cors(browser_origins),
    )
    described = openapi.document(functions)
    app.openapi_schema.paths, app.openapi_schema.components = described.paths, described.components
    return HotPaths(app, hot, surroundings.limits)


def _cors(origins: Sequence[str]) -> CORSConfig:
    # Whoever calls shows a key or a token of its own; no cookie says who it is, so none needs to be let through.
    return CORSConfig(
        allow_origins=list(origins),
        allow_methods=["GET", "POST", "PUT", "DELETE"],
        allow_headers=[
            "Authorization",
            "Content-Type",
            "X-MBX-APIKEY",
            "X-MBX-TIME-UNIT",
            "X-Request-Id",
            "Idempotency-Key",
        ],
        expose_headers=[
            "X-Request-Id",
            "Retry-After",
            "X-MBX-USED-WEIGHT",
            "X-MBX-USED-WEIGHT-1M",
            "X-MBX-ORDER-COUNT-10S",
            "X-MBX-ORDER-COUNT-1D",
        ],
        max_age=_PREFLIGHT_S,
    )


def _raw_handler(by_method: dict[str, Endpoint], body_bytes_max: int, limits: RateLimits) -> RawHandler:
    refused_method: Headers = [(b"content-type", _JSON.encode()), (b"allow", ", ".join(by_method).encode())]

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        request = cast("HTTPScope", scope)  # the server's WebSockets are switched off
        endpoint = by_method.get(request["method"])
        if endpoint is None:
            headers = [*refused_method, *_common_headers(request, limits)]
            await _send(send, HttpAnswer(405, headers, error_body(method_not_allowed())))
            return
        try:
            body = b"" if request["method"] == "GET" else await _read_body(receive, body_bytes_max)
        except ApiError as error:
            headers = [(b"content-type", _JSON.encode()), (b"connection", b"close"), *_common_headers(request, limits)]
            status, text = refuse(error, headers)
            await _send(send, HttpAnswer(status, headers, text))
            return
        await _send(send, await endpoint.answer(_http_request(request, body)))

    return handle


def _route(path: str, endpoint: Endpoint) -> HTTPRouteHandler:
    method: Method = endpoint.function.method  # type: ignore[assignment]

    async def handle(request: Request[Any, Any, Any]) -> Response[bytes]:
        body = b"" if method == "GET" else await request.body()
        answer = await endpoint.answer(_http_request(request.scope, body))
        headers = {name.decode(): value.decode() for name, value in answer.headers if name != b"content-type"}
        return Response(answer.body, status_code=answer.status, headers=headers, media_type=_JSON)

    return HTTPRouteHandler(path, http_method=method, status_code=200, include_in_schema=False)(handle)


def _http_request(scope: HTTPScope, body: bytes) -> HttpRequest:
    return HttpRequest(_address_of(scope), scope["headers"], scope["query_string"], body)


def _address_of(scope: HTTPScope) -> str:
    client = scope["client"]
    return client[0] if client else _NOBODY


def _common_headers(scope: HTTPScope, limits: RateLimits) -> Headers:
    """Return what every answer says, of one that no endpoint gives."""
    wanted = next((value for name, value in scope["headers"] if name == HEADER), None)
    return [(HEADER, begin_request(wanted)), *weight_headers(limits, _address_of(scope), now_ms())]


async def _read_body(receive: Receive, bytes_max: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise malformed(400)
        chunk = message["body"]
        if not message.get("more_body") and not chunks:
            if len(chunk) > bytes_max:
                raise body_too_large()
            return chunk
        size += len(chunk)
        if size > bytes_max:
            raise body_too_large()
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)


async def _send(send: Send, answer: HttpAnswer) -> None:
    headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body))]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": False})


def _http_error(_request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Answer what the framework refused."""
    refusals = {404: path_unknown, 405: method_not_allowed, 413: body_too_large, 500: internal}
    refusal = refusals.get(error.status_code, lambda: malformed(error.status_code))()
    return Response(error_body(refusal), status_code=refusal.status, headers=error.headers, media_type=_JSON)


def _unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer a bug; the log has it."""
    _log.error("request failed", path=request.url.path, exc_info=error)
    return Response(error_body(internal()), status_code=500, media_type=_JSON)
