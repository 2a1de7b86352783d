"""Idempotency keys: where they are looked for, and what follows from them."""

import pytest

from functions.api.errors import ApiError
from functions.api.idempotency import idempotency_key_of, name_of_key
from functions.api.parameters import Parameters
from functions.api.ports import Call
from protocol.units import TimeMs


def key_of(parameter: str | None, header: str) -> str:
    values = {} if parameter is None else {"idempotencyKey": parameter}
    return idempotency_key_of(Call(Parameters(values), TimeMs(1), idempotency_key=header))


def test_parameter_or_header() -> None:
    assert [key_of(None, ""), key_of("a", ""), key_of(None, "a"), key_of("a", "a")] == ["", "a", "a", "a"]


@pytest.mark.parametrize(
    ("parameter", "header", "code"), [("a", "b", -1130), (None, "x" * 65, -1100), ("a", "é", -1100)]
)
def test_what_makes_no_sense(parameter: str | None, header: str, code: int) -> None:
    with pytest.raises(ApiError) as caught:
        key_of(parameter, header)
    assert caught.value.code == code


def test_names_follow_from_keys() -> None:
    assert name_of_key("a") == name_of_key("a") != name_of_key("b")
    assert name_of_key("a", "USDT", "5") != name_of_key("a", "USDT", "6")
    assert Parameters({"id": name_of_key("any key ~")}).client_order_id("id") is not None
