"""A request's id: the client's own or a new one, in the answer's header and in the log, beside the order's
own names."""

import json
import signal
from typing import Any

import httpx
import pytest

from tests.support.api import RefusedError, new_account
from tests.support.eventually import eventually
from tests.support.gateway_processes import Processes

PATHS = ("/api/v3/ping", "/api/v3/order", "/api/v3/klines")


@pytest.mark.parametrize("path", PATHS)
def test_the_clients_id_is_answered_also_to_what_is_refused(url: str, path: str) -> None:
    for own in ("x", "8b1f-4c/~", "a" * 128):
        assert httpx.get(f"{url}{path}", headers={"X-Request-Id": own}).headers["x-request-id"] == own


def test_what_is_no_id_gets_a_new_one(url: str) -> None:
    wrong = (b"", b"two words", b"a" * 129, b"caf\xe9")
    asked: list[dict[bytes, bytes]] = [{}, *({b"X-Request-Id": each} for each in wrong)]
    made = [httpx.get(f"{url}/api/v3/ping", headers=headers).headers["x-request-id"] for headers in asked]
    assert len(set(made)) == len(made)
    assert all(each.isascii() and each.isprintable() and 0 < len(each) <= 128 for each in made)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_the_log_ties_the_request_to_the_order(
    processes: Processes, capfd: pytest.CaptureFixture[str]
) -> None:
    engines = processes.shards()
    url = processes.gateway(REPLY_TIMEOUT_MS="300", LOG_FORMAT="json")
    api = eventually("an account", lambda: new_account(url, USDT="1000"))
    capfd.readouterr()
    for engine in engines:
        engine.send_signal(signal.SIGSTOP)
    with pytest.raises(RefusedError) as refusal:
        api.order("BTCUSDT", "BUY", "LIMIT", quantity="0.001", price="20000", newClientOrderId="mine-1")
    request_id = refusal.value.headers["x-request-id"]
    said = [line for line in lines(capfd.readouterr().err) if line.get("request_id") == request_id]
    assert [(line["event"], line["code"], line["newClientOrderId"]) for line in said] == [
        ("not answered", -1007, "mine-1")
    ]
    assert said[0]["account"] > 0
    assert said[0]["process"] == "gateway"


def test_with_debug_every_request_is_logged_and_otherwise_none(
    processes: Processes, capfd: pytest.CaptureFixture[str]
) -> None:
    for level, wanted in (("debug", 1), ("info", 0)):
        url = processes.gateway(LOG_LEVEL=level, LOG_FORMAT="json")
        httpx.get(f"{url}/api/v3/ping", headers={"X-Request-Id": f"at-{level}"})
        said = [line for line in lines(capfd.readouterr().err) if line.get("request_id") == f"at-{level}"]
        assert [line["function"] for line in said] == ["GET /api/v3/ping"] * wanted
