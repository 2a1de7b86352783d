"""The OpenAPI description, made from the functions themselves, so that the hot paths' raw routes are in it too.

`python -m gateway.openapi` prints it; clients are generated from that.
"""

import html
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from litestar import Request
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.openapi.spec import (
    Components,
    OpenAPI,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Parameter,
    PathItem,
    RequestBody,
    Schema,
    SecurityScheme,
)

from functions.catalog import FUNCTIONS
from functions.function import Function, Group, Security
from functions.function import Parameter as FunctionParameter
from functions.idempotency import DESCRIPTION as DESCRIPTION_OF_KEY
from functions.idempotency import HEADER

TITLE: Final = "Exchange"
DESCRIPTION: Final = (
    "A spot exchange with Binance's REST API. Amounts are decimal strings, times milliseconds (microseconds with the header "
    "`X-MBX-TIME-UNIT: MICROSECOND`), errors `{code, msg}`. Signed requests carry `timestamp` and `signature`, and the API key in "
    "`X-MBX-APIKEY`; parameters of POST and DELETE may also be sent as a form."
)
_TAGS: Final = {
    Group.MARKET_DATA: "Market data",
    Group.ORDERS: "Orders",
    Group.ACCOUNT: "Account",
    Group.USERS: "Users and keys",
}
_TYPES: Final = {
    "string": Schema(type=OpenAPIType.STRING),
    "decimal": Schema(type=OpenAPIType.STRING, pattern=r"^([0-9]{1,20})(\.[0-9]{1,20})?$"),
    "integer": Schema(type=OpenAPIType.INTEGER, minimum=0),
    "boolean": Schema(type=OpenAPIType.BOOLEAN),
}
_SIGNED_PARAMETERS: Final = (
    FunctionParameter("timestamp", "When the request was sent, in ms or µs.", required=True, kind="integer"),
    FunctionParameter("recvWindow", "How long the request stays valid, in ms: 5000 by default, 60000 at most."),
    FunctionParameter("signature", "HMAC-SHA256 (hex), Ed25519 or RSA (base64) over query and body.", required=True),
)
_IDEMPOTENCY_KEY: Final = Parameter(
    name=HEADER, param_in="header", description=DESCRIPTION_OF_KEY, required=False, schema=_TYPES["string"]
)
_REFERENCE: Final = "#/components/schemas/{name}"
_ERROR: Final = Schema(
    type=OpenAPIType.OBJECT,
    properties={"code": Schema(type=OpenAPIType.INTEGER), "msg": Schema(type=OpenAPIType.STRING)},
    required=["code", "msg"],
)
_REFUSALS: Final = {
    "400": "Refused: a parameter, a filter, the signature, or the engine.",
    "401": "No such API key, or it may not do this, or not from there; or not signed in.",
    "403": "A page of another origin, or without the session's token against forgeries.",
    "418": "Banned for going on after 429.",
    "429": "A rate limit is used up; see Retry-After.",
    "503": "Overloaded or unavailable; -1007 means that the outcome is unknown.",
}


_LISTING: Final = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width"><style>body{{font:15px system-ui;max-width:60em;margin:2em auto;padding:0 1em}}
td{{padding:.2em .8em .2em 0;vertical-align:top}}code{{white-space:nowrap}}</style>
<h1>{title}</h1><p>{description}</p><p><a href="{json}">openapi.json</a> is the whole description, for any viewer and for generators.</p>
<table>{rows}</table></html>"""


class _Listing(OpenAPIRenderPlugin):
    """A page at /schema without scripts: the viewers that come with the framework run those of other sites on this origin."""

    def __init__(self) -> None:
        super().__init__(path="/")

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """Return the page."""
        rows = [
            f"<tr><td><code>{html.escape(method.upper())} {html.escape(path)}</code><td>{html.escape(operation.get('summary', ''))}"
            for path, item in sorted(openapi_schema["paths"].items())
            for method, operation in item.items()
            if isinstance(operation, dict)
        ]
        info = openapi_schema["info"]
        return _LISTING.format(
            title=html.escape(info["title"]),
            description=html.escape(info.get("description", "")),
            json=html.escape(self.get_openapi_json_route(request)),
            rows="\n".join(rows),
        ).encode()


def config() -> OpenAPIConfig:
    """Return everything but the paths and types, which the application would otherwise look for in its handlers."""
    return OpenAPIConfig(
        title=TITLE,
        version="1",
        description=DESCRIPTION,
        render_plugins=[_Listing()],
    )


def document(functions: Sequence[Function]) -> OpenAPI:
    """Return the whole description."""
    description = config().to_openapi_schema()
    description.paths, description.components = path_items(functions), components(functions)
    return description


def components(functions: Iterable[Function]) -> Components:
    """Return how requests authenticate themselves, and the types of bodies and answers."""
    types = [each for function in functions for each in (function.body, function.answer) if each is not None]
    _, schemas = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    return Components(
        schemas=schemas,
        security_schemes={
            Security.SIGNED.value: SecurityScheme(type="apiKey", name="X-MBX-APIKEY", security_scheme_in="header"),
            Security.API_KEY.value: SecurityScheme(type="apiKey", name="X-MBX-APIKEY", security_scheme_in="header"),
            Security.SESSION.value: SecurityScheme(type="http", scheme="bearer"),
        },
    )


def path_items(functions: Iterable[Function]) -> dict[str, PathItem]:
    """Return the description of the functions by path."""
    items: dict[str, PathItem] = {}
    for function in functions:
        item = items.setdefault(function.path, PathItem())
        setattr(item, function.method.lower(), operation(function))
    return items


def operation(function: Function) -> Operation:
    """Return the description of one function."""
    is_signed = function.security is Security.SIGNED
    described = (*function.parameters, *(_SIGNED_PARAMETERS if is_signed else ()))
    refusals = {status: _refused(text) for status, text in _REFUSALS.items()}
    takes_key = function.takes_idempotency_key
    return Operation(
        tags=[_TAGS[function.group]],
        summary=function.summary,
        description=(function.handle.__doc__ or "").strip() or None,
        operation_id=f"{function.method.lower()}{function.path.replace('/', '_').replace('-', '_')}",
        parameters=[
            *(
                Parameter(
                    name=parameter.name,
                    param_in="query",
                    description=parameter.description,
                    required=parameter.required,
                    schema=_TYPES[parameter.kind],
                )
                for parameter in described
            ),
            *([_IDEMPOTENCY_KEY] if takes_key else []),
        ],
        request_body=_request_body(function.body) if function.body else None,
        responses={
            "200": OpenAPIResponse(
                description="Done.", content={"application/json": OpenAPIMediaType(schema=_shape(function.answer))}
            ),
            **refusals,
            **({"422": _refused("The idempotency key was used for something else.")} if takes_key else {}),
        },
        security=[{function.security.value: []}] if function.security is not Security.PUBLIC else None,
    )


def _refused(text: str) -> OpenAPIResponse:
    return OpenAPIResponse(description=text, content={"application/json": OpenAPIMediaType(schema=_ERROR)})


def _shape(kind: object) -> Any:
    return Schema() if kind is None else msgspec.json.schema_components([kind], ref_template=_REFERENCE)[0][0]


def _request_body(body: type) -> RequestBody:
    return RequestBody(content={"application/json": OpenAPIMediaType(schema=_shape(body))}, required=True)


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(document(FUNCTIONS).to_schema()), indent=2) + b"\n")
