from typing import Any

import msgspec
import pytest

from ws_edge.subscriptions import Door, RequestError, Target, failure, parse_request, parse_target


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/ws", Target(Door.RAW)),
        ("/ws/", Target(Door.RAW)),
        ("/ws/17", Target(Door.RAW)),
        ("/ws/btcusdt@trade", Target(Door.RAW, ("btcusdt@trade",))),
        ("/ws/a@b/c@d", Target(Door.RAW, ("a@b", "c@d"))),
        ("/stream?streams=a@b/c@d/a@b", Target(Door.COMBINED, ("a@b", "c@d"))),
        ("/stream?streams=a@b&timeUnit=microsecond", Target(Door.COMBINED, ("a@b",), 1000)),
        ("/stream", Target(Door.COMBINED)),
        ("/ws?timeUnit=millisecond", Target(Door.RAW)),
        ("/ws?timeUnit=foo", Target(Door.RAW, is_time_unit_known=False)),
        ("/ws-api/v3?timeUnit=foo", Target(Door.API, is_time_unit_known=False)),
        ("/ws/btcusdt%40bookTicker", Target(Door.RAW, ("btcusdt@bookTicker",))),
        ("/ws/btcusdt%40kline_1d%40%2B08%3A00", Target(Door.RAW, ("btcusdt@kline_1d@+08:00",))),
        ("/ws/btcusdt@kline_1d@+08:00", Target(Door.RAW, ("btcusdt@kline_1d@+08:00",))),
        ("/stream?streams=a%40b%2Fc%40d", Target(Door.COMBINED, ("a@b", "c@d"))),
        ("/stream?streams=a@kline_1d@+08:00/c@d", Target(Door.COMBINED, ("a@kline_1d@+08:00", "c@d"))),
        ("/stream?streams=a@kline_1d@%2B08:00", Target(Door.COMBINED, ("a@kline_1d@+08:00",))),
        ("/ws-api/v3", Target(Door.API)),
        ("/ws-api/v3?returnRateLimits=false", Target(Door.API, (), 1, False)),
    ],
)
def test_paths(path: str, target: Target) -> None:
    assert parse_target(path) == target


@pytest.mark.parametrize(
    "path", ["/", "", "/wsx", "/api/v3/ping", "/ws-api/v4", "/streams?streams=a", "//[/ws"]
)
def test_unknown_paths(path: str) -> None:
    assert parse_target(path) is None


def test_a_request() -> None:
    request = parse_request('{"method":"SUBSCRIBE","params":["btcusdt@trade"],"id":3}')
    assert request == ("SUBSCRIBE", ("btcusdt@trade",), 3)


@pytest.mark.parametrize("params", ["null", "[]"])
def test_no_params_may_be_said_so(params: str) -> None:
    request = parse_request(f'{{"method":"LIST_SUBSCRIPTIONS","params":{params},"id":3}}')
    assert request == ("LIST_SUBSCRIPTIONS", (), 3)


@pytest.mark.parametrize(
    ("frame", "code", "message"),
    [
        ("{", 3, "Invalid JSON"),
        ("[" * 5000, 3, "Invalid JSON"),
        ("[]", 2, "expected an object"),
        ({"id": 1}, 2, "missing field `method`"),
        ({"id": 1, "method": "SUBSCRIBED"}, 2, "unknown variant `SUBSCRIBED`, expected one of `SUBSCRIBE`"),
        ({"id": 1.5, "method": "LIST_SUBSCRIPTIONS"}, 2, "request ID must be an unsigned integer"),
        ({"id": "x" * 37, "method": "LIST_SUBSCRIPTIONS"}, 2, "request ID must be an unsigned integer"),
        ({"id": 1, "method": "LIST_SUBSCRIPTIONS", "params": ["a"]}, 2, "too many parameters"),
        ({"id": 1, "method": "SUBSCRIBE", "params": [1]}, 2, "stream name must be a string"),
        ({"id": 1, "method": "SUBSCRIBE", "params": ["x" * 201]}, 2, "stream name is too long"),
        ({"id": 1, "method": "SUBSCRIBE", "params": "a"}, 2, "params must be an array"),
        ({"id": 1, "method": "SET_PROPERTY", "params": [True]}, 2, "property name must be a string"),
        ({"id": 1, "method": "SET_PROPERTY", "params": ["speed", True]}, 0, "Unknown property"),
        (
            {"id": 1, "method": "SET_PROPERTY", "params": ["combined", 1]},
            1,
            "Invalid value type: expected Boolean",
        ),
    ],
)
def test_wrong_requests_are_refused_in_binance_s_words(frame: Any, code: int, message: str) -> None:
    with pytest.raises(RequestError) as refusal:
        parse_request(frame if isinstance(frame, str) else msgspec.json.encode(frame))
    assert refusal.value.code == code
    assert message in refusal.value.message
    answer = msgspec.json.decode(failure(refusal.value))
    assert answer["error"] == {"code": answer["code"], "msg": answer["msg"]}
