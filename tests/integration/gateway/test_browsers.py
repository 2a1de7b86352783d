"""Pages of other origins: those that the settings name may call, and read the answers.

The description that clients are made from.
"""

import json
import subprocess
import sys

import httpx

from tests.support.gateway_processes import Processes

OURS, FOREIGN = "http://127.0.0.1:3000", "http://evil.example"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-mbx-apikey"}
PATHS = ("/api/v3/order", "/api/v3/openOrders")


def test_pages_of_the_frontend_may_call(processes: Processes) -> None:
    url = processes.gateway()
    for path in PATHS:
        preflight = httpx.options(f"{url}{path}", headers={"Origin": OURS, **PREFLIGHT})
        assert preflight.is_success
        assert preflight.headers["access-control-allow-origin"] == OURS
        assert "x-mbx-apikey" in preflight.headers["access-control-allow-headers"].lower()
        refused = httpx.get(f"{url}{path}", headers={"Origin": OURS})
        assert (refused.status_code, refused.json()["code"]) == (401, -2014)
        assert refused.headers["access-control-allow-origin"] == OURS
        assert "retry-after" in refused.headers["access-control-expose-headers"].lower()


def test_pages_may_keep_a_listen_key(processes: Processes) -> None:
    """PUT as well: a method that no function has is still refused."""
    url = f"{processes.gateway()}/api/v3/userDataStream"
    for method, allowed in (("PUT", True), ("GET", True), ("DELETE", True), ("PATCH", False)):
        preflight = httpx.options(url, headers={"Origin": OURS, "Access-Control-Request-Method": method})
        assert preflight.is_success is allowed, method


def test_pages_from_elsewhere_may_not(processes: Processes) -> None:
    url = processes.gateway()
    for path in PATHS:
        preflight = httpx.options(f"{url}{path}", headers={"Origin": FOREIGN, **PREFLIGHT})
        assert "access-control-allow-origin" not in preflight.headers
        answer = httpx.get(f"{url}{path}", headers={"Origin": FOREIGN})
        assert "access-control-allow-origin" not in answer.headers


def test_the_settings_name_the_origins(processes: Processes) -> None:
    url = processes.gateway(CORS_ORIGINS=f"{FOREIGN}, https://other.example")
    for origin, allowed in (
        (FOREIGN, FOREIGN),
        ("https://other.example", "https://other.example"),
        (OURS, None),
    ):
        answer = httpx.get(f"{url}/api/v3/ping", headers={"Origin": origin})
        assert answer.headers.get("access-control-allow-origin") == allowed


def test_the_page_of_the_description_runs_nothing_and_asks_nobody_else(processes: Processes) -> None:
    url = processes.gateway()
    page = httpx.get(f"{url}/schema", follow_redirects=True)
    assert (page.status_code, page.headers["content-type"].partition(";")[0]) == (200, "text/html")
    assert "POST /api/v3/order<" in page.text
    assert "default-src 'none'" in page.text
    assert "<script" not in page.text
    assert "//" not in page.text.replace("<!doctype", "")
    assert httpx.get(f"{url}/schema/swagger").status_code == 404


def test_the_printed_description_is_the_served_one(processes: Processes) -> None:
    url = processes.gateway()
    printed = subprocess.run(
        [sys.executable, "-m", "gateway.openapi"], capture_output=True, check=True
    ).stdout
    served = httpx.get(f"{url}/schema/openapi.json").json()
    described = json.loads(printed)
    assert described["paths"] == served["paths"]
    assert described["components"] == served["components"]
    depth = served["paths"]["/api/v3/depth"]["get"]["responses"]["200"]["content"]["application/json"][
        "schema"
    ]
    assert set(served["components"]["schemas"][depth["$ref"].rpartition("/")[2]]["properties"]) == {
        "lastUpdateId",
        "bids",
        "asks",
    }
