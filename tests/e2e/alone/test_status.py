"""`exchange status` says of an edge that hangs that it does not answer, as its clients would."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from cli.local.free_ports import free_ports
from cli.local.own_exchange import EXCHANGE
from tests.support.eventually import eventually
from tests.support.running_exchange import RunningExchange, running_exchange

EDGE = "ws-edge"
METRICS_PORTS = 30


def of_edge(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return next(row for row in rows if row["name"] == EDGE)


def watched(exchange: RunningExchange) -> dict[str, Any]:
    """Return the first view of `exchange status --watch --json`."""
    with subprocess.Popen(
        [*EXCHANGE, "status", "--watch", "--json"], env=exchange.environment, stdout=subprocess.PIPE
    ) as watching:
        assert watching.stdout is not None
        view: dict[str, Any] = json.loads(watching.stdout.readline())
        watching.send_signal(signal.SIGINT)
    return view


def test_an_edge_that_answers_no_handshake_is_not_ready(data_dir: Path) -> None:
    with running_exchange(
        data_dir, mm_enabled="false", up_metrics_port=str(free_ports(METRICS_PORTS))
    ) as exchange:
        status = exchange.command("status")
        assert {row["name"]: row["answers"] for row in status["processes"] if row["answers"] is not None} == {
            "gateway": True,
            EDGE: True,
        }
        assert of_edge(watched(exchange)["processes"])["ready"] is True
        pid = of_edge(status["processes"])["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            status = exchange.command("status")
            assert status["ready"] is False
            assert (of_edge(status["processes"])["state"], of_edge(status["processes"])["answers"]) == (
                "running",
                False,
            )
            said = subprocess.run(
                [*EXCHANGE, "status"], env=exchange.environment, capture_output=True, text=True, check=True
            )
            assert "The exchange is not ready." in said.stdout
            assert "running, does not answer" in " ".join(said.stdout.split())
            assert of_edge(watched(exchange)["processes"])["ready"] is False
        finally:
            os.kill(pid, signal.SIGCONT)
        eventually("all is well again", lambda: exchange.command("status")["ready"])
