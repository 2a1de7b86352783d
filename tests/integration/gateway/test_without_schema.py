"""A database that answers and lacks its tables, as before the first migration: 503 with Retry-After, never a
500, no traceback."""

import json
from typing import Final

import httpx
import psycopg
import pytest
from websockets.sync.client import connect

from functions.catalog import FUNCTIONS
from tests.support.api import Api, now_ms
from tests.support.gateway_processes import Processes
from tests.support.public_calls import called

CREDENTIALS: Final = {"email": "someone@example.com", "password": "a long password"}
NEED_THE_DATABASE: Final = {
    ("POST", "/api/v1/signup"),
    ("POST", "/api/v1/signin"),
    ("GET", "/api/v1/me"),
    ("GET", "/api/v1/sessions"),
    ("GET", "/api/v1/activity"),
    ("GET", "/api/v1/statement"),
    ("POST", "/api/v1/password/forgotten"),
    ("GET", "/api/v1/api-keys"),
    ("POST", "/api/v1/api-keys"),
    ("GET", "/api/v3/klines"),
    ("GET", "/api/v3/ticker"),
    ("GET", "/api/v3/ticker/tradingDay"),
    ("GET", "/api/v3/avgPrice"),
    ("GET", "/api/v3/aggTrades"),
    ("GET", "/api/v3/historicalTrades"),
    ("GET", "/api/v3/myTrades"),
    ("GET", "/api/v3/allOrders"),
    ("GET", "/api/v3/order"),
    ("GET", "/sapi/v1/capital/deposit/hisrec"),
    ("GET", "/sapi/v1/capital/withdraw/history"),
    ("GET", "/sapi/v1/account/apiRestrictions"),
}


def take_the_schema_away(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("ALTER SCHEMA public RENAME TO away")
        connection.execute("CREATE SCHEMA public")


def test_every_function_says_that_it_is_not_available(
    processes: Processes, capfd: pytest.CaptureFixture[str]
) -> None:
    processes.shards()
    url = processes.gateway()
    with httpx.Client(base_url=url) as http:
        http.post("/api/v1/signup", json=CREDENTIALS).raise_for_status()
        token = http.post("/api/v1/signin", json=CREDENTIALS).json()["token"]
        keys = http.post(
            "/api/v1/api-keys",
            json={"label": "x", "password": CREDENTIALS["password"]},
            headers={"Authorization": f"Bearer {token}"},
        ).json()
    api = Api(url, keys["apiKey"], keys["secret"])
    api.signed("GET", "/api/v3/account")  # Redis has the key from now on
    take_the_schema_away(processes.database_url)
    refused = set()
    for function in sorted(FUNCTIONS, key=lambda each: each.path == "/api/v1/signout"):
        response = called(api, token, function)
        assert response.status_code in (200, 400, 401, 404, 409, 503), (function.path, response.text)
        if response.status_code == 503:
            assert response.json()["code"] == -1001, function.path
            assert int(response.headers["retry-after"]) >= 1, function.path
            refused.add((function.method, function.path))
    assert refused >= NEED_THE_DATABASE
    assert "Traceback" not in "".join(capfd.readouterr())


def test_the_websocket_api_says_so_too(processes: Processes, capfd: pytest.CaptureFixture[str]) -> None:
    edge = processes.edge()
    take_the_schema_away(processes.database_url)
    requests = {
        "klines": {"symbol": "BTCUSDT", "interval": "1m"},
        "avgPrice": {"symbol": "BTCUSDT"},
        "trades.aggregate": {"symbol": "BTCUSDT"},
        "trades.historical": {"symbol": "BTCUSDT", "apiKey": "k" * 64},
        "account.status": {"apiKey": "k" * 64, "timestamp": now_ms(), "signature": "0" * 64},
    }
    with connect(f"{edge}/ws-api/v3") as client:
        for method, parameters in requests.items():
            client.send(json.dumps({"id": method, "method": method, "params": parameters}))
            answer = json.loads(client.recv(timeout=60))
            assert (answer["id"], answer["status"], answer["error"]["code"]) == (method, 503, -1001), answer
    assert "Traceback" not in "".join(capfd.readouterr())
