"""Whatever is wrong with a request, the answer names it in Binance's words, and nothing else happens."""

from typing import Any
from urllib.parse import urlencode

import pytest

from tests.support.api import Api, new_account, now_ms, refused

pytestmark = pytest.mark.usefixtures("liquid")

LIMIT = {
    "symbol": "BTCUSDT",
    "side": "BUY",
    "type": "LIMIT",
    "timeInForce": "GTC",
    "quantity": "0.001",
    "price": "90000",
}


@pytest.fixture(scope="module")
def account(exchange_url: str) -> Api:
    return new_account(exchange_url, USDT="1000", BTC="1")


@pytest.fixture(autouse=True)
def _nothing_happened(account: Api) -> Any:
    before = account.balances()
    yield
    assert account.balances() == before
    assert account.signed("GET", "/api/v3/openOrders") == []


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"symbol": "NOSUCH"}, -1121, "Invalid symbol."),
        ({"symbol": ""}, -1105, "Parameter 'symbol' was empty."),
        (
            {"symbol": "BTC/USDT"},
            -1100,
            "Illegal characters found in parameter 'symbol'; legal range is '^[A-Z0-9-_.]{1,20}$'.",
        ),
        ({"symbol": None}, -1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed."),
        ({"side": "HOLD"}, -1117, "Invalid side."),
        ({"side": None}, -1102, "Mandatory parameter 'side' was not sent, was empty/null, or malformed."),
        ({"type": "WISH"}, -1116, "Invalid orderType."),
        ({"timeInForce": "GTX"}, -1115, "Invalid timeInForce."),
        (
            {"timeInForce": None},
            -1102,
            "Mandatory parameter 'timeInForce' was not sent, was empty/null, or malformed.",
        ),
        ({"quantity": "0"}, -1013, "Invalid quantity."),
        ({"quantity": "0.000001"}, -1013, "Filter failure: LOT_SIZE"),
        ({"quantity": "0.000015"}, -1013, "Filter failure: LOT_SIZE"),
        ({"quantity": "0.0000000001"}, -1111, "Parameter 'quantity' has too much precision."),
        ({"quantity": "99999999"}, -1013, "Filter failure: LOT_SIZE"),
        (
            {"quantity": None},
            -1102,
            "Mandatory parameter 'quantity' was not sent, was empty/null, or malformed.",
        ),
        ({"price": "0"}, -1013, "Invalid price."),
        ({"price": "90000.001"}, -1013, "Filter failure: PRICE_FILTER"),
        ({"price": "99999999"}, -1013, "Filter failure: PRICE_FILTER"),
        ({"price": "9000.00", "quantity": "0.0001"}, -1013, "Filter failure: NOTIONAL"),
        ({"price": "10000.00"}, -1013, "Filter failure: PERCENT_PRICE_BY_SIDE"),
        ({"quantity": "0.5"}, -2010, "Account has insufficient balance for requested action."),
        (
            {"side": "SELL", "quantity": "1.5"},
            -2010,
            "Account has insufficient balance for requested action.",
        ),
        (
            {"type": "LIMIT_MAKER", "timeInForce": None, "price": "200000"},
            -2010,
            "Order would immediately match and take.",
        ),
        ({"type": "MARKET"}, -1106, "Parameter 'price' sent when not required."),
        (
            {"surprise": "1"},
            -1104,
            "Not all sent parameters were read; read '8' parameter(s) but was sent '9'.",
        ),
    ],
)
def test_orders_that_cannot_be(account: Api, change: dict[str, str | None], code: int, message: str) -> None:
    parameters = {name: value for name, value in {**LIMIT, **change}.items() if value is not None}
    with refused(code, message):
        account.signed("POST", "/api/v3/order", **parameters)


@pytest.mark.parametrize("name", ["quantity", "price"])
@pytest.mark.parametrize(
    "value", ["-1", "abc", "1e3", "0x10", "NaN", "Infinity", "1,5", " 1", "1" * 30, "\u0661"]
)
def test_amounts_that_are_no_numbers(account: Api, name: str, value: str) -> None:
    legal = r"^([0-9]{1,20})(\.[0-9]{1,20})?$"
    with refused(-1100, f"Illegal characters found in parameter '{name}'; legal range is '{legal}'."):
        account.signed("POST", "/api/v3/order", **{**LIMIT, name: value})


def test_orders_that_are_not_there(account: Api) -> None:
    with refused(-2013, "Order does not exist."):
        account.signed("GET", "/api/v3/order", symbol="BTCUSDT", orderId=123456)
    with refused(-2011, "Unknown order sent."):
        account.signed("DELETE", "/api/v3/order", symbol="BTCUSDT", orderId=123456)
    with refused(-2011, "Unknown order sent."):
        account.signed("DELETE", "/api/v3/openOrders", symbol="BTCUSDT")


def test_a_signature_is_over_exactly_what_is_sent(account: Api) -> None:
    wrong = "0" * 64
    answer = account.http.get(f"/api/v3/account?timestamp={now_ms()}&signature={wrong}")
    assert (answer.status_code, answer.json()) == (
        400,
        {"code": -1022, "msg": "Signature for this request is not valid."},
    )
    answer = account.http.get(f"/api/v3/account?timestamp={now_ms()}")
    assert answer.json() == {
        "code": -1102,
        "msg": "Mandatory parameter 'signature' was not sent, was empty/null, or malformed.",
    }


@pytest.mark.parametrize(("offset_ms", "window"), [(-6_000, None), (-1_500, "1000"), (5_000, None)])
def test_a_timestamp_outside_the_window(account: Api, offset_ms: int, window: str | None) -> None:
    parameters = {"timestamp": str(now_ms() + offset_ms)} | ({"recvWindow": window} if window else {})
    answer = account.send("GET", "/api/v3/account", urlencode(parameters))
    assert (answer.status_code, answer.json()["code"]) == (400, -1021)


def test_keys_that_are_none(exchange_url: str) -> None:
    with refused(-2014, "API-key format invalid."):
        Api(exchange_url, "no-key!", "secret").signed("GET", "/api/v3/account")
    with refused(-2015, "Invalid API-key, IP, or permissions for action."):
        Api(exchange_url, "x" * 64, "secret").signed("GET", "/api/v3/account")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"email": 1}', b"\xff\xfe", b'{"email": "a@b.c", "pass']
)
@pytest.mark.parametrize("path", ["/api/v1/signup", "/api/v1/signin"])
def test_malformed_json(account: Api, path: str, body: bytes) -> None:
    answer = account.http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500
    assert answer.json()["code"] < 0


@pytest.mark.parametrize("form", [b"%zz=%", b"a=1&a=2", b"\xff=1", b"&&&=", b"symbol=BTCUSDT&symbol=BTCUSDT"])
def test_malformed_forms(account: Api, form: bytes) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = account.http.post("/api/v3/order", content=form, headers=headers)
    assert 400 <= answer.status_code < 500
    assert answer.json()["code"] < 0


def test_an_oversize_body(account: Api) -> None:
    answer = account.http.post("/api/v3/order", content=b"x" * 2_000_000)
    assert answer.status_code == 413


def test_paths_and_methods_that_are_not_there(account: Api) -> None:
    assert account.http.get("/api/v3/nothing").status_code == 404
    assert account.http.put("/api/v3/time").status_code == 405
