"""Whatever is wrong with a request, the answer is a 4xx with a code, never a 5xx."""

import socket
from collections.abc import Iterator
from urllib.parse import quote, urlencode, urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from functions.api.function import Function
from functions.catalog import FUNCTIONS
from tests.support.api import Api, new_account, now_ms
from tests.support.gateway_processes import Processes

LIMIT = {
    "symbol": "BTCUSDT",
    "side": "BUY",
    "type": "LIMIT",
    "timeInForce": "GTC",
    "quantity": "0.001",
    "price": "20000",
}


@pytest.fixture
def api(url: str) -> Api:
    return new_account(url, USDT="1000")


def error_of(response: httpx.Response) -> tuple[int, int]:
    assert set(response.json()) == {"code", "msg"}
    return response.status_code, response.json()["code"]


def test_signatures_and_keys(api: Api) -> None:
    query = urlencode({**LIMIT, "timestamp": now_ms()})
    http, path = api.http, "/api/v3/order"
    assert error_of(http.post(f"{path}?{query}&signature={'0' * 64}")) == (400, -1022)
    assert error_of(http.post(f"{path}?{query}&signature=zz")) == (400, -1022)
    assert error_of(http.post(f"{path}?{query}")) == (400, -1102)
    assert error_of(http.post(f"{path}?{query}&signature=")) == (400, -1105)
    assert error_of(http.post(f"{path}?{query}&signature=1", headers={"X-MBX-APIKEY": "unknown"})) == (
        401,
        -2015,
    )
    assert error_of(http.post(f"{path}?{query}&signature=1", headers={"X-MBX-APIKEY": "no key"})) == (
        401,
        -2014,
    )
    assert error_of(httpx.post(f"{api.url}{path}?{query}&signature=1")) == (401, -2014)
    for timestamp, code in ((now_ms() - 6000, -1021), (now_ms() + 2000, -1021), ("x", -1100), ("", -1105)):
        assert error_of(api.send("POST", path, urlencode({**LIMIT, "timestamp": timestamp}))) == (400, code)
    window = urlencode({**LIMIT, "timestamp": now_ms(), "recvWindow": 60001})
    assert error_of(api.send("POST", path, window)) == (400, -1102)


def test_order_parameters(api: Api) -> None:
    for changes, code in (
        ({"symbol": "NOPE"}, -1121),
        ({"symbol": "b"}, -1100),
        ({"quantity": "-1"}, -1100),
        ({"quantity": "0"}, -1013),
        ({"quantity": "1e3"}, -1100),
        ({"quantity": "NaN"}, -1100),
        ({"quantity": "9" * 20}, -1013),
        ({"quantity": "9" * 30}, -1100),
        ({"price": "20000.001"}, -1013),
        ({"price": "0.0000000001"}, -1111),
        ({"price": "1" * 19}, -1013),
        ({"side": "HOLD"}, -1117),
        ({"type": "WISH"}, -1116),
        ({"foo": "bar"}, -1104),
        ({"newClientOrderId": "a b"}, -1100),
    ):
        query = urlencode({**LIMIT, **changes, "timestamp": now_ms()})
        assert error_of(api.send("POST", "/api/v3/order", query)) == (400, code), changes
    assert error_of(api.send("DELETE", "/api/v3/order", f"symbol=BTCUSDT&timestamp={now_ms()}")) == (
        400,
        -1102,
    )
    twice = f"symbol=BTCUSDT&symbol=ETHUSDT&timestamp={now_ms()}"
    assert error_of(api.send("GET", "/api/v3/order", twice)) == (400, -1101)


def test_paths_methods_and_bodies(url: str) -> None:
    with httpx.Client(base_url=url) as http:
        assert error_of(http.get("/nope")) == (404, -1020)
        assert error_of(http.get("/api/v3/order/nope")) == (404, -1020)
        assert error_of(http.put("/api/v3/order")) == (405, -1020)
        assert error_of(http.post("/api/v3/time")) == (405, -1020)
        assert error_of(http.get("/api/v3/ping?x=1")) == (400, -1101)
        assert error_of(http.get("/api/v3/time", headers={"X-MBX-TIME-UNIT": "HOUR"})) == (400, -1194)
        for body in (b"", b"{", b"[]", b"\xff\xfe", b'"x"', b"[" * 60_000, b'{"email": 1}', b"\x00"):
            status, code = error_of(http.post("/api/v1/signup", content=body))
            assert (status, code) in ((400, -1135), (400, -1102)), body
        for body in (b'{"a": 1}', b"\xff\xff=1", b"&&&===", b"a=%ff"):
            response = http.post("/api/v3/order", content=body, headers={"Content-Type": "application/json"})
            assert response.status_code in (400, 401), body
            assert response.json()["code"] < 0


def test_oversize_bodies(url: str) -> None:
    large = b"x" * 1_100_000

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(large), 65_536):
            yield large[start : start + 65_536]

    for path in ("/api/v3/order", "/api/v3/order/test", "/api/v1/signup"):
        for content in (large, chunks()):
            assert error_of(httpx.post(f"{url}{path}", content=content)) == (413, -1000)


def test_bytes_that_are_not_http(url: str) -> None:
    address = urlsplit(url)
    for garbage in (
        b"\x00\x01\x02\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"POST /api/v3/order HTTP/1.1\r\n" * 3,
    ):
        with socket.create_connection((str(address.hostname), address.port or 0), timeout=5) as connection:
            connection.sendall(garbage + b"\r\n")
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(4096)[9:10] in (b"4", b"")
    assert httpx.get(f"{url}/api/v3/ping").json() == {}


VALUES = st.one_of(
    st.text(max_size=40),
    st.integers(-10, 2**70).map(str),
    st.decimals(allow_nan=True).map(str),
    st.sampled_from(["BTCUSDT", '["BTCUSDT"]', "1m", "0", "1000", "BUY", "LIMIT", "true", "TRADING", ""]),
)


def parameters_of(function: Function) -> st.SearchStrategy[dict[str, str]]:
    named = {parameter.name: VALUES for parameter in function.parameters}
    likely = {"symbol": st.just("BTCUSDT")} if "symbol" in named else {}
    return st.fixed_dictionaries({}, optional={**named, **likely, "extra": VALUES})


def test_any_parameters_are_answered(processes: Processes) -> None:
    processes.shards()
    processes.pretend_ingested()
    api = new_account(processes.gateway(), USDT="1000")

    @settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
    @given(st.data())
    def answered(data: st.DataObject) -> None:
        function = data.draw(st.sampled_from(FUNCTIONS))
        values = data.draw(parameters_of(function))
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in values.items())
        query = f"{query}&timestamp={now_ms()}" if data.draw(st.booleans()) else query
        response = api.send(function.method, function.path, query)
        assert response.status_code < 500, (function.path, query, response.text)
        response.json()

    answered()


def test_any_json_body_is_answered(processes: Processes) -> None:
    url = processes.gateway()
    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    )
    body = st.fixed_dictionaries(
        {},
        optional={"email": json_values, "password": json_values, "label": json_values, "asset": json_values},
    )
    paths = sorted({function.path for function in FUNCTIONS if function.body})

    @settings(max_examples=150, deadline=None, database=None)
    @given(st.sampled_from(paths), body)
    def answered(path: str, value: dict[str, object]) -> None:
        response = httpx.post(f"{url}{path}", json=value) if _is_json(value) else httpx.post(f"{url}{path}")
        assert response.status_code < 500, (path, value, response.text)

    answered()


def _is_json(value: object) -> bool:
    return "nan" not in repr(value) and "inf" not in repr(value)
