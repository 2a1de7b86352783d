"""`exchange up` as a user meets it: what it says, what it survives, and that it leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from cli.local.state_file import read_state
from tests.support.api import Api
from tests.support.eventually import eventually
from tests.support.running_exchange import RunningExchange, running_exchange

TIMEOUT_S = 60
EXCHANGE = [sys.executable, "-m", "cli.main"]


def test_status_has_every_process_in_the_order_of_the_pipeline(exchange: RunningExchange) -> None:
    status = exchange.command("status")
    assert set(status) == {"ready", "urls", "processes", "halted", "metrics"}
    assert status["urls"]["rest"] == exchange.url
    engines = [f"engine-{shard}" for shard in range(exchange.settings.shard_count)]
    assert [process["name"] for process in status["processes"]] == [
        *("redis", "redis-cache", "postgres", "gateway", *engines),
        *("feeds", "ws-edge", "persist-nudger", "persist-worker", "mm", "frontend"),
    ]
    assert all(
        set(process) == {"name", "pid", "state", "restarts", "answers", "core"}
        for process in status["processes"]
    )
    assert all(psutil.pid_exists(process["pid"]) for process in status["processes"])


def test_status_can_be_watched(exchange: RunningExchange) -> None:
    watching = subprocess.Popen(
        [*EXCHANGE, "status", "--watch", "--json"],
        env=exchange.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    try:
        # The market maker trades, and quotes all markets, by itself.
        for line in watching.stdout:
            view = json.loads(line)
            if (
                view["orders_rate"]
                and view["trades_rate"]
                and view["stages"]["published"]
                and view["stages"]["stored"]
            ):
                break
        assert view["latency"]["p50_s"] <= view["latency"]["p99_s"]
        names = {"connections", "subscriptions", "messages_rate", "conflated_rate", "slow_closed"}
        assert set(view["edge"]) == names
        shards = view["shards"]
        assert [shard["leader"] for shard in shards] == [f"engine-{shard['shard']}" for shard in shards]
        assert all(shard["conserved"] and shard["epoch"] >= 1 and shard["resting"] > 0 for shard in shards)
        assert [market["market"] for market in view["markets"]] == ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
        silent = {each["name"] for each in view["processes"] if each["ready"] is None}
        assert silent == {"redis", "redis-cache", "postgres", "frontend"}
    finally:
        watching.send_signal(signal.SIGINT)
        assert watching.wait(TIMEOUT_S) == 0


def test_a_demo_account_has_money(exchange: RunningExchange) -> None:
    account = exchange.command("demo-account")
    assert set(account) == {"apiKey", "secret"}
    balances = Api(exchange.url, account["apiKey"], account["secret"]).balances()
    assert {asset: free for asset, (free, _) in balances.items()} == {
        "USDT": 100_000,
        "BTC": 2,
        "ETH": 20,
        "SOL": 500,
    }


def test_every_shard_answers_and_its_money_adds_up(exchange: RunningExchange) -> None:
    shards = exchange.command("shards")
    assert [shard["shard"] for shard in shards] == list(range(exchange.settings.shard_count))
    assert all(shard["answers"] and shard["conserved"] and shard["epoch"] >= 1 for shard in shards)
    assert sorted(symbol for shard in shards for symbol in shard["markets"]) == [
        "BTCUSDT",
        "ETHUSDT",
        "SOLUSDT",
    ]


def test_commands_in_another_terminal_use_the_settings_of_the_running_exchange(
    exchange: RunningExchange,
) -> None:
    name = "EXCHANGE_DATA_DIR"
    environment = {
        key: value for key, value in exchange.environment.items() if not key.startswith("EXCHANGE_")
    }
    result = subprocess.run(
        [*EXCHANGE, "status", "--json"],
        env={**environment, name: exchange.environment[name]},
        capture_output=True,
        check=True,
    )
    assert json.loads(result.stdout)["urls"]["rest"] == exchange.url


def test_a_second_up_is_refused(exchange: RunningExchange) -> None:
    result = subprocess.run(
        [*EXCHANGE, "up"], env=exchange.environment, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert result.returncode == 1
    assert "already running" in result.stderr
    assert exchange.command("status")["ready"]


# Takes long: an exchange is started and ends gracefully.
def test_ctrl_c_leaves_nothing_behind(data_dir: Path) -> None:
    with running_exchange(data_dir) as exchange:
        pids = [process.pid for process in exchange.processes()]
        processes = [
            each
            for pid in pids
            for each in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))
        ]
    assert not [process for process in processes if process.is_running()]
    assert not (data_dir / "state.json").exists()


LATE_EDGE = """
import sys, time
if "ws_edge.main" in sys.orig_argv:
    time.sleep(4)
"""


# Takes long: an exchange is started, its supervisor is killed, and it is started again beside what is left.
def test_up_recovers_from_a_killed_supervisor(data_dir: Path) -> None:
    with running_exchange(data_dir, mm_enabled="false") as exchange:
        state = read_state(exchange.settings)
        assert state is not None
        os.kill(state.pid, signal.SIGKILL)
        eventually("no supervisor", lambda: read_state(exchange.settings) is None)
        assert not exchange.command("status")["ready"]
        # What the processes that were killed have said of themselves is still there; it must not be taken for
        # the new ones'.
        late = data_dir / "late"
        late.mkdir()
        (late / "sitecustomize.py").write_text(LATE_EDGE)
        environment = {**exchange.environment, "PYTHONPATH": str(late)}
        up = subprocess.run(
            [*EXCHANGE, "up", "--detach"], env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
        )
        assert up.returncode == 0, up.stderr
        assert "`exchange down` stops it" in up.stdout
        assert "Ctrl-C" not in up.stdout
        assert exchange.command("status")["ready"]
        subprocess.run([*EXCHANGE, "down"], env=exchange.environment, check=True, timeout=TIMEOUT_S)
        assert not exchange.processes()
    assert not (data_dir / "state.json").exists()
