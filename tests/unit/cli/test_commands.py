"""The commands while nothing runs: what they print, and what they say when they cannot."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.console import short_decimal
from cli.local.free_ports import free_port
from cli.local.state_file import write_state
from cli.main import main
from runtime.settings import PREFIX, load_settings

COMMANDS = (
    "up",
    "down",
    "restart",
    "status",
    "logs",
    "demo-account",
    "shards",
    "replay",
    "audit",
    "dead",
    "skip",
    "markets",
    "migrate",
    "bench",
    "load",
)


@pytest.fixture(autouse=True)
def _own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.setenv(f"{PREFIX}DATA_DIR", str(tmp_path / "run"))
    for port in ("REST_PORT", "WS_PORT", "FRONTEND_PORT", "REDIS_PORT", "POSTGRES_PORT"):
        monkeypatch.setenv(f"{PREFIX}{port}", str(free_port()))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def words(result: Result) -> str:
    """Return what was printed, without the frame that breaks it into lines."""
    return " ".join(result.output.replace("│", " ").split())


def test_the_overview_lists_every_command() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert all(command in result.output for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Usage: main {command}" in result.output
    assert len(words(result)) > 100


def test_an_unknown_command_is_an_error() -> None:
    assert run("fly").exit_code == 2


def test_status_in_json_says_that_nothing_runs() -> None:
    result = run("status", "--json")
    assert result.exit_code == 0
    status = json.loads(result.output)
    assert (status["ready"], status["processes"]) == (False, [])
    assert status["urls"]["rest"].startswith("http://127.0.0.1:")


@pytest.mark.parametrize("command", ["demo-account", "shards", "migrate", "load", "restart"])
def test_what_needs_a_running_exchange_says_how_to_start_one(command: str) -> None:
    result = run(command)
    assert result.exit_code == 1
    assert "exchange up" in words(result)
    assert "Traceback" not in result.output


def test_load_without_the_development_tools_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "locust", None)
    result = run("load")
    assert result.exit_code == 1
    assert "make setup" in words(result)


def test_markets_are_known_without_a_running_exchange() -> None:
    markets = json.loads(run("markets", "--json").output)
    assert [market["symbol"] for market in markets] == ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
    assert (markets[0]["tickSize"], markets[0]["makerFee"], markets[0]["bestBid"]) == ("0.01", "0.001", None)


def test_down_without_an_exchange_is_no_error() -> None:
    result = run("down")
    assert result.exit_code == 0
    assert "was not running" in result.output


def test_a_log_that_is_not_there_is_an_error_that_names_those_that_are(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "logs"
    folder.mkdir(parents=True)
    (folder / "gateway.log").write_text("one\ntwo\nthree\n")
    assert "there are: gateway" in words(run("logs", "gatway"))
    assert run("logs", "gateway", "-n", "2").output == "two\nthree\n"
    assert run("logs", "-n", "1").output == "       gateway | three\n"


def test_all_mistakes_in_the_settings_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}REST_PORT", "http")
    monkeypatch.setenv(f"{PREFIX}NO_SUCH", "1")
    result = run("status")
    assert result.exit_code == 1
    assert f"{PREFIX}REST_PORT" in words(result)
    assert f"{PREFIX}NO_SUCH: no such setting" in words(result)


def test_watching_needs_something_to_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "The exchange is not running; `exchange up` starts it." in words(run("status", "--watch"))
    monkeypatch.setenv(f"{PREFIX}UP_METRICS_PORT", "0")
    settings = load_settings()
    (tmp_path / "run").mkdir()
    write_state(settings, [])
    result = run("status", "--watch")
    assert result.exit_code == 1
    assert f"it was started with {PREFIX}UP_METRICS_PORT=0" in words(result)


def test_up_names_the_taken_port_and_its_setting_and_starts_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = subprocess.run(
            [sys.executable, "-m", "cli.main", "up"],
            env={**os.environ, f"{PREFIX}REST_PORT": str(port)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert result.returncode == 1
    assert f"port {port} is taken; set {PREFIX}REST_PORT" in result.stderr
    assert not (tmp_path / "run" / "logs").exists()


def test_logs_are_shown_as_on_a_terminal_or_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "logs"
    folder.mkdir(parents=True)
    line = (
        '{"url": "http://x", "event": "serving", "process": "gateway", "level": "info", "timestamp": '
        '"2026-01-02T03:04:05.678901Z"}'
    )
    (folder / "gateway.log").write_text(f"{line}\n{{}}\n[1]\nplain\n")
    shown, *others = run("logs", "gateway").output.splitlines()
    assert others == ["{}", "[1]", "plain"]
    assert "serving" in shown
    assert "url=http://x" in shown
    assert ":04:05.678" in shown
    assert run("logs", "gateway", "--raw").output.splitlines() == [line, "{}", "[1]", "plain"]


def test_short_decimals_are_the_same_numbers() -> None:
    assert [short_decimal(text) for text in ("0.00000000", "100.00", "-0.10", "100", "0.00000001")] == [
        *("0", "100", "-0.1", "100", "0.00000001")
    ]
