"""A gateway needs no more memory for 200,000 refused requests than for one."""

import http.client
import itertools
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from urllib.parse import urlencode, urlsplit

import pytest

from tests.support.api import new_account, now_ms, signature_of
from tests.support.gateway_processes import Processes
from tests.support.memory import growth_of

REQUESTS: Final = int(os.environ.get("TEST_REFUSED_REQUESTS", "10000"))
CONNECTIONS: Final = 4
GROWTH_BYTES_MAX: Final = 8_000_000
"""Exceptions that were built once took 2.9 kB a request: 29 MB for 10,000."""
PUBLIC: Final = {
    "/api/v3/klines?symbol=BTCUSDT&interval=9x": -1120,
    "/api/v3/ticker/24hr?symbol=BTCUSDT&type=HUGE": -1139,
    "/api/v3/ticker/price?symbol=BTCUSDT&symbolStatus=GONE": -1122,
    "/api/v3/depth?symbol=NOSUCH": -1121,
    "/api/v3/depth": -1102,
    "/api/v3/nothing": -1020,
}
ORDER: Final = {
    "symbol": "BTCUSDT",
    "side": "BUY",
    "type": "LIMIT",
    "timeInForce": "GTC",
    "quantity": 1,
    "price": 20_000,
}
ORDERS: Final = {
    ("side", "HOLD"): -1117,
    ("type", "WISH"): -1116,
    ("timeInForce", "SOON"): -1115,
    ("newOrderRespType", "SONG"): -1130,
    ("selfTradePreventionMode", "HOPE"): -1130,
}


@pytest.mark.timeout(3_600)
def test_refusals_leave_nothing_behind(processes: Processes) -> None:
    processes.shards()
    url = processes.gateway()
    account = new_account(url, USDT="1000")
    host = urlsplit(url).netloc

    def refused(number: int) -> None:
        connection = http.client.HTTPConnection(host)
        kinds = itertools.cycle([*PUBLIC.items(), *ORDERS.items()])
        for _, (what, code) in zip(range(number), kinds, strict=False):
            if isinstance(what, str):
                connection.request("GET", what)
            else:
                query = urlencode({**ORDER, what[0]: what[1], "timestamp": now_ms()})
                signed = f"{query}&signature={signature_of(account.secret, query)}"
                connection.request("POST", f"/api/v3/order?{signed}", headers={"X-MBX-APIKEY": account.key})
            answer = json.loads(connection.getresponse().read())
            assert answer["code"] == code, answer
        connection.close()

    def refuse(count: int) -> None:
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(refused, [count // CONNECTIONS] * CONNECTIONS))

    growth = growth_of(processes.started[-1].pid, REQUESTS, refuse)
    assert growth < GROWTH_BYTES_MAX
