"""The Litestar application: every mounted function behind its route.

The path of orders is an `@asgi` route, which costs less than half of an ordinary handler; both answer by the same `Endpoint`.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final, cast

import structlog
from litestar import Litestar, Request, Response, asgi
from litestar.exceptions import HTTPException
from litestar.handlers import ASGIRouteHandler, HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import ScalarRenderPlugin, SwaggerRenderPlugin
from litestar.types import HTTPScope, Method, Receive, Scope, Send

from functions.errors import ApiError
from functions.function import Function
from gateway import openapi
from gateway.endpoint import Endpoint, Headers, HttpAnswer, HttpRequest, refuse
from gateway.errors import body_too_large, error_body, internal, malformed, method_not_allowed, path_unknown
from serving.wiring import Surroundings

HOT_PATHS: Final = frozenset({"/api/v3/order"})
_JSON: Final = "application/json;charset=UTF-8"
_NOBODY: Final = "unknown"

_log = structlog.get_logger()


def create_app(functions: Sequence[Function], surroundings: Surroundings, body_bytes_max: int) -> Litestar:
    """Return the application that serves `functions`."""
    endpoints: dict[str, dict[str, Endpoint]] = defaultdict(dict)
    for function in functions:
        endpoints[function.path][function.method] = Endpoint(function, surroundings)
    handlers: list[ASGIRouteHandler | HTTPRouteHandler] = []
    for path, by_method in endpoints.items():
        if path in HOT_PATHS:
            handlers.append(_raw_route(path, by_method, body_bytes_max))
        else:
            handlers.extend(_route(path, endpoint) for endpoint in by_method.values())
    app = Litestar(
        route_handlers=handlers,
        exception_handlers={HTTPException: _http_error, Exception: _unexpected},
        request_max_body_size=body_bytes_max,
        logging_config=None,  # the process has set up its logs
        openapi_config=OpenAPIConfig(
            title=openapi.TITLE,
            version="1",
            description=openapi.DESCRIPTION,
            components=openapi.security_components(),
            render_plugins=[SwaggerRenderPlugin(), ScalarRenderPlugin()],
        ),
    )
    app.openapi_schema.paths = openapi.path_items(functions)
    return app


def _raw_route(path: str, by_method: dict[str, Endpoint], body_bytes_max: int) -> ASGIRouteHandler:
    refused_method: Headers = [(b"content-type", _JSON.encode()), (b"allow", ", ".join(by_method).encode())]

    @asgi(path, copy_scope=False)
    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        request = cast("HTTPScope", scope)  # the server's WebSockets are switched off
        endpoint = by_method.get(request["method"])
        if endpoint is None:
            await _send(send, HttpAnswer(405, refused_method, error_body(method_not_allowed())))
            return
        try:
            body = b"" if request["method"] == "GET" else await _read_body(receive, body_bytes_max)
        except ApiError as error:
            headers: Headers = [(b"content-type", _JSON.encode()), (b"connection", b"close")]
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
    client = scope["client"]
    return HttpRequest(client[0] if client else _NOBODY, scope["headers"], scope["query_string"], body)


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
