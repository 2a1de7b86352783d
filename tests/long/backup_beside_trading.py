"""`exchange backup` beside a running exchange: repeated, with its disk away, and begun elsewhere.

Run by `make test-long`; not part of `make test`, which does not collect files of such names.
"""

import json
from pathlib import Path

import psutil

from cli.local.own_exchange import own_exchange
from tests.support.api import new_account
from tests.support.eventually import eventually
from tests.support.lost_redis import SYMBOL, exchange_command, trade
from tests.support.running_exchange import RunningExchange, running_exchange


def receiver(exchange: RunningExchange) -> psutil.Process | None:
    (state,) = (each for each in exchange.processes() if each.name == "wal-receiver")
    return psutil.Process(state.pid) if state.pid else None


def follows(exchange: RunningExchange) -> bool:
    """Whether all of the database's log is in a backup with which all is well."""
    found = exchange_command(exchange.environment, "backup", "--status", "--json")
    return found.returncode == 0 and json.loads(found.stdout)["receiving"]["behind_bytes"] == 0


def test_a_backup_beside_a_running_exchange(data_dir: Path) -> None:
    backup_dir = data_dir / "of another disk"
    with running_exchange(data_dir, mm_enabled="false") as exchange:
        first = exchange.command("backup", str(backup_dir), timeout_s=120)
        assert first["ok"], first
        assert [len(first["bases"]), first["folder"]] == [1, str(backup_dir / "0001")]
        second = exchange.command("backup", str(backup_dir), "--keep", "1", timeout_s=120)
        assert second["folder"] == first["folder"], "the same log goes on"
        assert len(second["bases"]) == 1
        assert second["bases"] != first["bases"]
        eventually("it follows", lambda: follows(exchange))

        backup_dir.rename(data_dir / "unmounted")
        process = receiver(exchange)
        assert process is not None
        process.terminate()
        eventually("the receiver fails", lambda: receiver(exchange) is None)
        away = exchange_command(exchange.environment, "backup", "--status")
        assert away.returncode == 1
        assert "is its disk mounted?" in " ".join(away.stdout.split())
        # Trading depends on it no more than its readiness does.
        assert exchange.command("status")["ready"]
        trade(new_account(exchange.url, USDT="100000"), seller := new_account(exchange.url, SOL="1000"), 2)
        eventually("the trades in the history", lambda: len(seller.historical_trades(SYMBOL)) >= 2)
        assert exchange_command(exchange.environment, "restart", "feeds").returncode == 0

        (data_dir / "unmounted").rename(backup_dir)
        eventually("it follows again", lambda: follows(exchange))
        elsewhere = exchange.command("backup", str(data_dir / "elsewhere"), timeout_s=120)
        assert elsewhere["ok"], elsewhere
        assert elsewhere["folder"] == str(data_dir / "elsewhere" / "0001")
    stopped = exchange_command(exchange.environment, "backup", "--status")
    assert stopped.returncode == 1
    assert "the database does not run" in " ".join(stopped.stdout.split())
    # Started again, the exchange goes on with it.
    with own_exchange(exchange.environment) as again:
        eventually("it follows after a restart", lambda: follows(RunningExchange(*again)))
