"""Every answer says when it was given, which request it answers, and what weight its address has used."""

from email.utils import parsedate_to_datetime

import httpx

from tests.support.api import now_ms
from tests.support.gateway_processes import Processes

MINE = {"X-Request-Id": "mine"}


def check(answer: httpx.Response, status: int) -> int:
    """Check the headers of an answer, and return the weight that it says."""
    assert answer.status_code == status, answer.text
    given = parsedate_to_datetime(answer.headers["date"]).timestamp()
    assert abs(given - now_ms() / 1000) < 60
    assert answer.headers["date"].endswith(" GMT")
    assert answer.headers["x-request-id"] == "mine"
    assert answer.headers["x-mbx-used-weight"] == answer.headers["x-mbx-used-weight-1m"]
    for name in ("date", "x-request-id", "x-mbx-used-weight", "x-mbx-used-weight-1m"):
        assert len(answer.headers.get_list(name)) == 1, name
    return int(answer.headers["x-mbx-used-weight-1m"])


def test_whatever_is_answered(processes: Processes) -> None:
    url = processes.gateway(RATE_LIMITS_ENABLED="true")
    with httpx.Client(base_url=url, headers=MINE) as client:
        assert check(client.get("/api/v3/ping"), 200) >= 1
        check(client.get("/api/v3/depth?symbol=BTCUSDT&limit=x"), 400)
        check(client.get("/api/v3/ping?a=1&a=2"), 400)
        check(client.get("/api/v3/account"), 401)
        check(client.get("/api/v3/order"), 401)
        check(client.get("/api/v3/nowhere"), 404)
        check(client.patch("/api/v3/ping"), 405)
        check(client.patch("/api/v3/order"), 405)
        check(client.post("/api/v3/order", content=b"x" * 10_000_000), 413)
        check(client.post("/api/v3/userDataStream", content=b"x" * 10_000_000), 413)
        preflight = {"Origin": "http://127.0.0.1:3000", "Access-Control-Request-Method": "PUT"}
        assert check(client.options("/api/v3/order", headers=preflight), 204) > 1


def test_what_a_limit_refuses(processes: Processes) -> None:
    url = processes.gateway(RATE_LIMITS_ENABLED="true", REQUEST_WEIGHT_PER_MINUTE="100")
    with httpx.Client(base_url=url, headers=MINE) as client:
        statuses = set()
        for _ in range(5_000):  # a minute may end in between
            answer = client.get("/api/v3/exchangeInfo")
            if answer.status_code in (418, 429):
                weight = check(answer, answer.status_code)
                assert weight >= 100 or answer.status_code == 418
                assert int(answer.headers["retry-after"]) >= 1
            statuses.add(answer.status_code)
            if answer.status_code == 418:
                break
    assert statuses >= {418, 429}


def test_the_headers_of_weight_are_those_of_limits(processes: Processes) -> None:
    """The control: where nothing is limited, nothing is counted."""
    answer = httpx.get(f"{processes.gateway()}/api/v3/nowhere", headers=MINE)
    assert answer.headers["x-request-id"] == "mine"
    assert "x-mbx-used-weight" not in answer.headers
