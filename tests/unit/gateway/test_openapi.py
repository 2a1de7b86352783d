"""The description of the API: valid, and closed, so that nothing is answered that it does not name."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple, TypedDict

import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from functions.api.function import Answered, Function, Group, Security, Written
from functions.api.ports import Call, Ports
from functions.api.shapes import Amount
from functions.catalog import FUNCTIONS
from gateway import openapi

AMOUNTS = re.compile(
    r"(?i).*(price|qty|quantity|amount|volume|commission|notional|balance|opening|closing|multiplier|percent|slippage)"
    r"|free|locked|maker|taker|buyer|seller|freeze|withdrawing|ipo|storage|discount|p|q"
)
"""Fields that say how much: of a text, what it looks like must be said."""
NO_AMOUNTS = {"commissionAsset", "discountAsset", "orderAmount", "allowTrailingStop"}


class Place(NamedTuple):
    """A schema, and where it is."""

    path: str
    schema: dict[str, Any]


def described(functions: tuple[Function, ...] = FUNCTIONS) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.json.decode(
        msgspec.json.encode(openapi.document(functions).to_schema())
    )
    return document


def schemas_of(document: dict[str, Any]) -> Iterator[Place]:
    """Yield every schema, those inside others too."""
    for name, schema in document["components"]["schemas"].items():
        yield from _inside(Place(name, schema))
    for path, item in document["paths"].items():
        for method, operation in item.items():
            where = f"{method} {path}"
            for parameter in operation.get("parameters", ()):
                yield from _inside(Place(f"{where} {parameter['name']}", parameter["schema"]))
            bodies = [operation["requestBody"]] if "requestBody" in operation else []
            for body in (*bodies, *operation["responses"].values()):
                for media in body.get("content", {}).values():
                    yield from _inside(Place(where, media["schema"]))


def _inside(place: Place) -> Iterator[Place]:
    yield place
    path, schema = place
    for name, each in schema.get("properties", {}).items():
        yield from _inside(Place(f"{path}.{name}", each))
    for kind in ("items", "additionalProperties"):
        if isinstance(schema.get(kind), dict):
            yield from _inside(Place(f"{path}[]", schema[kind]))
    for kind in ("prefixItems", "anyOf"):
        for each in schema.get(kind, ()):
            yield from _inside(Place(f"{path} {kind}", each))


def open_places(document: dict[str, Any]) -> list[str]:
    """Return where anything may be."""
    return [path for path, schema in schemas_of(document) if not _is_closed(schema)]


def _is_closed(schema: dict[str, Any]) -> bool:
    if "$ref" in schema or "anyOf" in schema or "enum" in schema:
        return True
    match schema.get("type"):
        case "object":
            extra = schema.get("additionalProperties")
            return extra is False if "properties" in schema else isinstance(extra, dict) and extra != {}
        case "array":
            if "prefixItems" in schema:
                return (schema["minItems"], schema["maxItems"]) == (len(schema["prefixItems"]),) * 2
            return bool(schema.get("items"))
        case "string" | "integer" | "boolean" | "null":
            return True
    return False


def test_it_is_valid() -> None:
    assert [each.message for each in OpenAPIV31SpecValidator(described()).iter_errors()] == []


def test_a_document_that_is_not_valid_is_found() -> None:
    document = described()
    document["paths"]["/api/v3/depth"]["get"]["parameters"][0]["in"] = "nowhere"
    assert list(OpenAPIV31SpecValidator(document).iter_errors())


def test_it_has_every_function() -> None:
    assert {(method.upper(), path) for path, item in described()["paths"].items() for method in item} == {
        (function.method, function.path) for function in FUNCTIONS
    }


def test_every_object_is_closed() -> None:
    document = described()
    assert open_places(document) == []
    assert sum("properties" in schema for _, schema in schemas_of(document)) > 80


class Loose(TypedDict):
    """A map of anything."""

    filters: list[dict[str, Any]]


async def answers_anything(_ports: Ports, _call: Call) -> object:
    """Answer."""
    return {}


async def answers_loosely(_ports: Ports, _call: Call) -> Loose:
    """Answer."""
    return Loose(filters=[])


def test_an_open_object_is_found() -> None:
    assert open_places(described((Function("GET", "/x", Group.ORDERS, "", answers_loosely),))) == [
        "Loose.filters[]"
    ]


def test_a_handler_must_say_what_it_answers() -> None:
    with pytest.raises(TypeError, match="object"):
        described((Function("GET", "/x", Group.ORDERS, "", answers_anything),))


def test_amounts_have_a_form() -> None:
    formless = [
        f"{path}.{name}"
        for path, schema in schemas_of(described())
        for name, each in schema.get("properties", {}).items()
        if AMOUNTS.fullmatch(name)
        and name not in NO_AMOUNTS
        and each.get("type") == "string"
        and "pattern" not in each
    ]
    assert formless == []


def test_amounts_are_what_the_form_says() -> None:
    [meta] = Amount.__metadata__  # type: ignore[attr-defined]
    pattern = re.compile(meta.pattern)
    assert all(pattern.search(text) for text in ("0.00000000", "92233720368.54775807"))
    assert not any(
        pattern.search(text) for text in ("1", "-1.00000000", "1.0", "1e8", " 1.00000000", "1.00000000\n1")
    )


def test_every_answer_to_a_refusal_has_code_and_message() -> None:
    document = described()
    for item in document["paths"].values():
        for operation in item.values():
            refusals = {status: each for status, each in operation["responses"].items() if status != "200"}
            assert {"400", "418", "429"} <= refusals.keys()
            for refusal in refusals.values():
                assert refusal["content"] == {
                    "application/json": {"schema": {"$ref": "#/components/schemas/ErrorShape"}}
                }
    assert document["components"]["schemas"]["ErrorShape"]["required"] == ["code", "msg"]


@pytest.mark.parametrize(
    ("method", "path", "own"),
    [
        ("GET", "/api/v3/depth", set()),
        ("GET", "/api/v3/account", {401}),
        ("POST", "/api/v3/order", {401, 413, 422}),
        ("POST", "/api/v1/signin", {401, 413}),
        ("POST", "/api/v1/signout", {401, 403, 413}),
        ("POST", "/api/v1/api-keys", {401, 403, 409, 413}),
        ("POST", "/api/v3/userDataStream", {401, 410, 413}),
        ("GET", "/api/v1/statement", {401, 403}),
    ],
)
def test_statuses(method: str, path: str, own: set[int]) -> None:
    (function,) = (each for each in FUNCTIONS if (each.method, each.path) == (method, path))
    assert set(openapi.statuses_of(function)) == {400, 408, 414, 418, 429, 431, 503} | own


def test_what_needs_nothing_is_never_unavailable() -> None:
    alone = {function.path for function in FUNCTIONS if 503 not in openapi.statuses_of(function)}
    assert {"/api/v3/ping", "/api/v3/time", "/fapi/v1/exchangeInfo"} <= alone
    assert len(alone) == 7


class One(msgspec.Struct):
    """An answer."""

    x: int


class Two(msgspec.Struct):
    """Another."""

    y: int


async def answers_much(_ports: Ports, _call: Call) -> One | list[Two] | Answered[Two] | Answered[Written]:
    """Answer."""
    raise NotImplementedError


def test_answers_are_what_the_handler_returns() -> None:
    function = Function("GET", "/x", Group.ORDERS, "", answers_much, also_writes=("text/csv",))
    assert openapi.answers_of(function) == (One, list[Two], Two)
    content = described((function,))["paths"]["/x"]["get"]["responses"]["200"]["content"]
    two = {"$ref": "#/components/schemas/Two"}
    assert content == {
        "application/json": {
            "schema": {
                "anyOf": [{"$ref": "#/components/schemas/One"}, {"type": "array", "items": two}, two],
            }
        },
        "text/csv": {"schema": {"type": "string"}},
    }


def test_what_belongs_to_an_owner_is_read_with_a_key_or_a_session() -> None:
    (function,) = (each for each in FUNCTIONS if each.security is Security.OWNER)
    operation = described()["paths"][function.path]["get"]
    assert operation["security"] == [{"signed": []}, {"session": []}]
    assert not any(each["required"] for each in operation["parameters"])


def test_links_name_operations_and_parameters_that_there_are() -> None:
    document = described()
    operations = {each["operationId"]: each for item in document["paths"].values() for each in item.values()}
    count = 0
    for operation in operations.values():
        for link in operation["responses"].get("200", {}).get("links", {}).values():
            known = {parameter["name"] for parameter in operations[link["operationId"]]["parameters"]}
            assert link["parameters"].keys() <= known
            count += 1
    assert count >= 10
