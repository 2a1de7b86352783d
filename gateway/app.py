"""The Litestar application: every mounted function behind its route, and the door in front of it.

Bots, which are not web pages, are answered by the same `Endpoint` at the door: see gateway/door.py.
"""

from collections import defaultdict
from collections.abc import Container, Sequence
from typing import Any, Final

import structlog
from litestar import Litestar, Request, Response
from litestar.config.cors import CORSConfig
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.types import Method

from adapters.wiring import Surroundings
from functions.api.function import Function
from gateway import openapi
from gateway.door import REQUEST, Door, Sizes
from gateway.endpoint import Endpoint, Headers
from gateway.errors import body_too_large, error_body, internal, malformed, method_not_allowed, path_unknown

_JSON: Final = "application/json;charset=UTF-8"
_PREFLIGHT_S: Final = 7_200
"""How long a browser caches the answer to a preflight."""

_log = structlog.get_logger()


def create_app(
    functions: Sequence[Function],
    surroundings: Surroundings,
    sizes: Sizes,
    browser_origins: Sequence[str],
    knocks: Container[object] = frozenset(),
) -> Door:
    """Return the application that serves `functions`.

    Pages of `browser_origins` may call them; requests of `knocks` are not charged.
    """
    endpoints: dict[str, dict[str, Endpoint]] = defaultdict(dict)
    for function in functions:
        endpoints[function.path][function.method] = Endpoint(function, surroundings)
    cors = _cors(browser_origins)
    app = Litestar(
        route_handlers=[
            _route(path, endpoint) for path, by_method in endpoints.items() for endpoint in by_method.values()
        ],
        exception_handlers={HTTPException: _http_error, Exception: _unexpected},
        request_max_body_size=max(sizes.body_max, sizes.form_max),
        logging_config=None,  # the process has configured its logs
        openapi_config=openapi.config(),
        cors_config=cors,
    )
    document = openapi.document(functions)
    app.openapi_schema.paths, app.openapi_schema.components = document.paths, document.components
    return Door(app, dict(endpoints), surroundings.limits, sizes, _origin_headers(cors), knocks)


def _origin_headers(cors: CORSConfig) -> dict[bytes, Headers]:
    """Return the CORS headers of answers to each origin, for answers that the framework does not create."""
    exposed = ", ".join(cors.expose_headers).encode()
    return {
        origin.encode(): [
            (b"access-control-allow-origin", origin.encode()),
            (b"access-control-expose-headers", exposed),
            (b"vary", b"Origin"),
        ]
        for origin in cors.allow_origins
    }


def _cors(origins: Sequence[str]) -> CORSConfig:
    # A page of another origin sends its own key or token. Cookies are for pages on the API's own origin: the
    # pages' server forwards their requests, and no answer lets browsers send cookies from elsewhere.
    return CORSConfig(
        allow_origins=list(origins),
        allow_methods=["GET", "POST", "PUT", "DELETE"],
        allow_headers=[
            "Authorization",
            "Content-Type",
            "X-CSRF-Token",
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


def _route(path: str, endpoint: Endpoint) -> HTTPRouteHandler:
    """Return the framework's handler of a request that the door has prepared."""
    method: Method = endpoint.function.method  # type: ignore[assignment]

    async def handle(request: Request[Any, Any, Any]) -> Response[bytes]:
        answer = await endpoint.answer(request.scope["state"][REQUEST])
        headers = {name.decode(): value.decode("latin-1") for name, value in answer.headers}
        # The framework adds the encoding of text itself.
        media_type = headers.pop("content-type").removesuffix("; charset=utf-8")
        return Response(answer.body, status_code=answer.status, headers=headers, media_type=media_type)

    return HTTPRouteHandler(path, http_method=method, status_code=200, include_in_schema=False)(handle)


def _http_error(_request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Answer a request that the framework refused."""
    refusals = {404: path_unknown, 405: method_not_allowed, 413: body_too_large, 500: internal}
    refusal = refusals.get(error.status_code, lambda: malformed(error.status_code))()
    return Response(error_body(refusal), status_code=refusal.status, headers=error.headers, media_type=_JSON)


def _unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer after a bug, which is in the log."""
    _log.error("request failed", path=request.url.path, exc_info=error)
    return Response(error_body(internal()), status_code=500, media_type=_JSON)
