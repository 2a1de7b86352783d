"""The OpenAPI description, generated from the functions, so that the hot paths' raw routes are in it, too.

The schema of a function's answer is its handler's return annotation, which mypy checks. Every object is
closed: a field that is not described is neither sent nor answered. `python -m gateway.openapi` prints the
description, from which clients are generated.
"""

import html
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from types import NoneType, UnionType
from typing import Any, Final, NamedTuple, NoReturn, Union, get_args, get_origin, get_type_hints

import msgspec
from litestar import Request
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.openapi.spec import (
    Components,
    Link,
    OpenAPI,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Parameter,
    PathItem,
    Reference,
    RequestBody,
    Schema,
    SecurityScheme,
)

from functions.api.function import Answered, Function, Group, Security, Written
from functions.api.function import Parameter as FunctionParameter
from functions.api.idempotency import HEADER, IDEMPOTENCY_KEY
from functions.api.shapes import ErrorShape
from functions.catalog import FUNCTIONS

TITLE: Final = "Exchange"
DESCRIPTION: Final = (
    "A spot exchange with Binance's REST API. Amounts are decimal strings, times milliseconds (microseconds "
    "with the header "
    "`X-MBX-TIME-UNIT: MICROSECOND`), errors `{code, msg}`. Signed requests carry `timestamp` and "
    "`signature`, and the API key in "
    "`X-MBX-APIKEY`; parameters of POST and DELETE may also be sent as a form."
)
_TAGS: Final = {
    Group.MARKET_DATA: "Market data",
    Group.ORDERS: "Orders",
    Group.ACCOUNT: "Account",
    Group.USERS: "Users and keys",
}
_INTEGER_MAX: Final = 2**63 - 1
_TYPES: Final = {
    "string": Schema(type=OpenAPIType.STRING),
    "decimal": Schema(type=OpenAPIType.STRING, pattern=r"^([0-9]{1,20})(\.[0-9]{1,20})?$"),
    "integer": Schema(type=OpenAPIType.INTEGER, minimum=0, maximum=_INTEGER_MAX),
    "positive": Schema(type=OpenAPIType.INTEGER, minimum=1, maximum=_INTEGER_MAX),
    "boolean": Schema(type=OpenAPIType.BOOLEAN),
}
_SIGNED_PARAMETERS: Final = (
    FunctionParameter("timestamp", "When the request was sent, in ms or µs.", required=True, kind="integer"),
    FunctionParameter(
        "recvWindow",
        "How long the request stays valid, in ms, with up to three decimals: 5000 by default, 60000 at most.",
        pattern=r"^[0-9]{1,5}(\.[0-9]{1,3})?$",
    ),
    FunctionParameter(
        "signature", "HMAC-SHA256 (hex), Ed25519 or RSA (base64) over query and body.", required=True
    ),
)
_REFERENCE: Final = "#/components/schemas/{name}"
_JSON: Final = "application/json"
_REFUSALS: Final = {
    400: "Refused: a parameter, a filter, the signature, or the engine.",
    401: "No such API key, or it may not do this, or not from there; or not signed in; or a wrong password "
    "or code.",
    403: "A page of another origin, or without the session's token against forgeries; an address that must "
    "be verified first; or "
    "something that this exchange does not offer.",
    408: "The request did not arrive in time.",
    409: "Not as things are: there are too many, or there is one already, or none.",
    410: "This exchange does not offer it any more.",
    413: "The body is larger than any request needs.",
    414: "The URL is longer than any request needs.",
    418: "Banned for going on after 429.",
    422: "The idempotency key was used for something else.",
    429: "A rate limit is used up, or too many attempts have failed; see Retry-After.",
    431: "The headers are larger than any request needs.",
    503: "Overloaded or unavailable; -1007 means that the outcome is unknown.",
}
_OF_ALL: Final = frozenset({400, 408, 414, 418, 429, 431, 503})
_OF: Final = {
    Security.PUBLIC: frozenset[int](),
    Security.SIGNED: frozenset({401}),
    Security.API_KEY: frozenset({401}),
    Security.SESSION: frozenset({401, 403}),
    Security.OWNER: frozenset({401, 403}),
}


class Lead(NamedTuple):
    """An answer with values that another request needs: parameter -> where the value is."""

    name: str
    method: str
    path: str
    parameters: dict[str, str]


_ORDER: Final = {"symbol": "$response.body#/symbol", "orderId": "$response.body#/orderId"}
_LEADS: Final[dict[tuple[str, str], tuple[Lead, ...]]] = {
    ("POST", "/api/v3/order"): (
        Lead("GetOrder", "GET", "/api/v3/order", _ORDER),
        Lead("CancelOrder", "DELETE", "/api/v3/order", _ORDER),
        Lead("AllOrders", "GET", "/api/v3/allOrders", _ORDER),
        Lead("MyTrades", "GET", "/api/v3/myTrades", _ORDER),
    ),
    ("GET", "/api/v3/openOrders"): (
        Lead(
            "CancelFirst",
            "DELETE",
            "/api/v3/order",
            {"symbol": "$response.body#/0/symbol", "orderId": "$response.body#/0/orderId"},
        ),
    ),
    ("DELETE", "/api/v3/order"): (Lead("GetCanceled", "GET", "/api/v3/order", _ORDER),),
    ("POST", "/api/v3/userDataStream"): (
        Lead("KeepStream", "PUT", "/api/v3/userDataStream", {"listenKey": "$response.body#/listenKey"}),
        Lead("CloseStream", "DELETE", "/api/v3/userDataStream", {"listenKey": "$response.body#/listenKey"}),
    ),
    ("POST", "/api/v1/api-keys"): (
        Lead("RevokeKey", "DELETE", "/api/v1/api-keys", {"apiKey": "$response.body#/apiKey"}),
    ),
    ("GET", "/api/v1/statement"): (
        Lead("NextPage", "GET", "/api/v1/statement", {"after": "$response.body#/entries/0/position"}),
    ),
    ("GET", "/api/v1/activity"): (
        Lead("Earlier", "GET", "/api/v1/activity", {"beforeId": "$response.body#/0/id"}),
    ),
    ("GET", "/api/v3/trades"): (
        Lead(
            "Older",
            "GET",
            "/api/v3/historicalTrades",
            {"symbol": "$request.query.symbol", "fromId": "$response.body#/0/id"},
        ),
    ),
}


_LISTING: Final = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<style>body{{font:15px system-ui;max-width:60em;margin:2em auto;padding:0 1em}}
td{{padding:.2em .8em .2em 0;vertical-align:top}}code{{white-space:nowrap}}</style>
<h1>{title}</h1><p>{description}</p><p><a href="{json}">openapi.json</a>
is the whole description, for any viewer and for generators.</p>
<table>{rows}</table></html>"""


class _Listing(OpenAPIRenderPlugin):
    """A page at /schema without scripts.

    The framework's viewers run scripts of other sites on this origin.
    """

    def __init__(self) -> None:
        super().__init__(path="/")

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """Return the page."""
        rows = [
            f"<tr><td><code>{html.escape(method.upper())} "
            f"{html.escape(path)}</code><td>{html.escape(operation.get('summary', ''))}"
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
    """Return everything but paths and types, which the framework would otherwise take from its handlers."""
    return OpenAPIConfig(
        title=TITLE,
        version="1",
        description=DESCRIPTION,
        render_plugins=[_Listing()],
    )


def document(functions: Sequence[Function]) -> OpenAPI:
    """Return the whole description."""
    description = config().to_openapi_schema()
    shapes = Shapes(functions)
    description.paths = path_items(functions, shapes)
    description.components = Components(schemas=shapes.components, security_schemes=_SECURITY_SCHEMES)
    return description


_SECURITY_SCHEMES: Final[dict[str, SecurityScheme | Reference]] = {
    Security.SIGNED.value: SecurityScheme(type="apiKey", name="X-MBX-APIKEY", security_scheme_in="header"),
    Security.API_KEY.value: SecurityScheme(type="apiKey", name="X-MBX-APIKEY", security_scheme_in="header"),
    Security.SESSION.value: SecurityScheme(type="http", scheme="bearer"),
}


def answers_of(function: Function) -> tuple[object, ...]:
    """Return the types of a function's JSON answers, by its handler's annotation; none: it only refuses."""
    return tuple(_answers(get_type_hints(function.handle, include_extras=True)["return"]))


def _answers(kind: Any) -> Iterator[object]:
    if get_origin(kind) in (Union, UnionType):
        for member in get_args(kind):
            yield from _answers(member)
    elif get_origin(kind) is Answered:
        yield from _answers(get_args(kind)[0])
    elif kind not in (Written, NoReturn, NoneType):
        yield kind


class Shapes:
    """The schemas of bodies and answers."""

    components: dict[str, Any]
    """By name: the schemas of objects, closed."""

    def __init__(self, functions: Iterable[Function]) -> None:
        kinds: list[Any] = [ErrorShape]
        for function in functions:
            kinds += [*answers_of(function), *([function.body] if function.body else [])]
        schemas, components = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
        self._schemas = [(kind, closed(schema)) for kind, schema in zip(kinds, schemas, strict=True)]
        self.components = {name: closed(schema) for name, schema in components.items()}

    def of(self, *kinds: object) -> Any:
        """Return the schema of a value of one of `kinds`."""
        schemas: list[Any] = []
        for kind in kinds:
            schema = next(schema for shape, schema in self._schemas if shape == kind)
            if schema not in schemas:
                schemas.append(schema)
        return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def closed(schema: Any) -> Any:
    """Return a schema whose objects have no other fields than those it names."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed_schema = {name: closed(value) for name, value in schema.items()}
    if closed_schema.get("type") == "object" and "additionalProperties" not in closed_schema:
        closed_schema["additionalProperties"] = False
    if closed_schema.get("items") is False and closed_schema["maxItems"] == len(closed_schema["prefixItems"]):
        # Redundant, and not every generator knows schemas that are not objects.
        del closed_schema["items"]
    return closed_schema


def path_items(functions: Iterable[Function], shapes: Shapes) -> dict[str, PathItem]:
    """Return the description of the functions by path."""
    items: dict[str, PathItem] = {}
    endpoints = {(function.method, function.path) for function in functions}
    for function in functions:
        item = items.setdefault(function.path, PathItem())
        leads = _LEADS.get((function.method, function.path), ())
        links = {link.name: _link(link) for link in leads if (link.method, link.path) in endpoints}
        setattr(item, function.method.lower(), operation(function, shapes, links))
    return items


def statuses_of(function: Function) -> list[int]:
    """Return the statuses of a function's refusals."""
    own = set(function.refuses_with) | ({422} if function.takes_idempotency_key else set())
    with_body = {413} if function.method != "GET" else set()
    never = {503} if function.needs_nothing else set()
    return sorted((_OF_ALL | _OF[function.security] | own | with_body) - never)


def operation(function: Function, shapes: Shapes, links: Mapping[str, Link]) -> Operation:
    """Return the description of one function."""
    signs = function.security in (Security.SIGNED, Security.OWNER)
    parameters = [*function.parameters]
    if signs:
        # With a session there is nothing to sign.
        is_needed = function.security is Security.SIGNED
        parameters += [
            parameter._replace(required=parameter.required and is_needed) for parameter in _SIGNED_PARAMETERS
        ]
    error_body = OpenAPIMediaType(schema=shapes.of(ErrorShape))
    refusals = {
        str(status): OpenAPIResponse(description=_REFUSALS[status], content={_JSON: error_body})
        for status in statuses_of(function)
    }
    answers = answers_of(function)
    done = OpenAPIResponse(
        description="Done.",
        content={
            _JSON: OpenAPIMediaType(schema=shapes.of(*answers)),
            **{media_type: OpenAPIMediaType(schema=_TYPES["string"]) for media_type in function.also_writes},
        }
        if answers
        else None,
        links=dict(links) or None,
    )
    return Operation(
        tags=[_TAGS[function.group]],
        summary=function.summary,
        description=inspect.getdoc(function.handle),
        operation_id=_operation_id(function.method, function.path),
        parameters=[
            *(_parameter(parameter) for parameter in parameters),
            *(
                [_parameter(IDEMPOTENCY_KEY._replace(name=HEADER), "header")]
                if function.takes_idempotency_key
                else []
            ),
        ],
        request_body=_request_body(shapes.of(function.body)) if function.body else None,
        responses={**({str(HTTPStatus.OK.value): done} if answers else {}), **refusals},
        security=_security(function.security),
    )


def _operation_id(method: str, path: str) -> str:
    return f"{method.lower()}{path.replace('/', '_').replace('-', '_')}"


def _link(lead: Lead) -> Link:
    return Link(operation_id=_operation_id(lead.method, lead.path), parameters=dict(lead.parameters))


def _security(security: Security) -> list[dict[str, list[str]]] | None:
    if security is Security.PUBLIC:
        return None
    if security is Security.OWNER:
        return [{Security.SIGNED.value: []}, {Security.SESSION.value: []}]
    return [{security.value: []}]


def _parameter(parameter: FunctionParameter, where: str = "query") -> Parameter:
    schema = _TYPES[parameter.kind]
    if parameter.choices:
        schema = Schema(type=OpenAPIType.STRING, enum=list(parameter.choices))
    elif parameter.pattern:
        schema = Schema(type=OpenAPIType.STRING, pattern=parameter.pattern)
    if parameter.example:
        schema = Schema(type=schema.type, pattern=schema.pattern, examples=[parameter.example])
    return Parameter(
        name=parameter.name,
        param_in=where,
        description=parameter.description,
        required=parameter.required,
        schema=schema,
    )


def _request_body(schema: Any) -> RequestBody:
    return RequestBody(content={_JSON: OpenAPIMediaType(schema=schema)}, required=True)


if __name__ == "__main__":
    sys.stdout.buffer.write(
        msgspec.json.format(msgspec.json.encode(document(FUNCTIONS).to_schema()), indent=2) + b"\n"
    )
