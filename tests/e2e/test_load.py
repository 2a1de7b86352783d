"""The load test itself: traders trade, watchers measure, nothing fails, and the summary says so."""

import json
from pathlib import Path

from tests.support.running_exchange import RunningExchange

REQUESTS = {
    *("POST order LIMIT", "POST order MARKET", "DELETE order"),
    *("GET openOrders", "GET account", "GET depth", "GET klines"),
    *("GET exchangeInfo", "GET price", "POST signup", "POST signin", "POST faucet", "POST api-keys"),
}
MESSAGES = {"WS trade -> client", "WS order -> own stream"}
TRADERS = 10


def test_traders_trade_and_watchers_measure_without_a_failure(
    exchange: RunningExchange, tmp_path: Path
) -> None:
    folder = tmp_path / "reports"
    options = {"seconds": 8, "users": TRADERS, "watchers": 4, "report-dir": folder}
    summary = exchange.command(
        "load", *(part for name, value in options.items() for part in (f"--{name}", str(value)))
    )
    kinds = {kind["kind"]: kind for kind in summary["kinds"]}
    assert set(kinds) >= REQUESTS | MESSAGES
    assert (summary["finished"], summary["failures"], summary["errors"]) == (True, 0, [])
    assert kinds["POST signup"]["count"] == TRADERS
    assert (
        kinds["WS order -> own stream"]["count"]
        <= kinds["POST order LIMIT"]["count"] + kinds["POST order MARKET"]["count"]
    )
    for kind in REQUESTS | MESSAGES:
        assert 0 < kinds[kind]["p50"] <= kinds[kind]["p95"] <= kinds[kind]["p99"]
    assert [step["traders"] for step in summary["steps"]] == [3, 5, 8, 10]
    assert sum(step["requests"] for step in summary["steps"]) <= summary["requests"]

    (page,) = folder.glob("*.md")
    assert all(f"| {kind} |" in page.read_text() for kind in kinds)
    assert json.loads(page.with_suffix(".json").read_text()) == summary
