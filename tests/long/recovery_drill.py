"""Database and Redis are lost together: the backup brings back what was acknowledged, but for the last
moment.

Run by `make test-long`; not part of `make test`, which does not collect files of such names.
"""

import contextlib
import json
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.long.backup_beside_trading import follows
from tests.support.api import Api, RefusedError, new_account
from tests.support.data_dirs import data_dir_of_its_own
from tests.support.eventually import eventually
from tests.support.lost_redis import SYMBOL, exchange_command, kill_everything, trade, what_is_seen
from tests.support.running_exchange import running_exchange

RPO_S = 2.0
"""As docs/reference/storage.md says: what was acknowledged longer than this before the loss comes back."""
OPEN_MAX = 100
SETTINGS = {"mm_enabled": "false", "snapshot_interval_s": "2", "rate_limits_enabled": "false"}


@pytest.fixture
def backup_dir() -> Iterator[Path]:
    with data_dir_of_its_own() as path:
        yield path / "with a space's" / "backup"


class Ordering(threading.Thread):
    """A client that places resting orders without a pause, and notes when which was acknowledged."""

    def __init__(self, account: Api) -> None:
        super().__init__(daemon=True)
        self.account = account
        self.acknowledged: list[tuple[float, int]] = []

    def run(self) -> None:
        """Until an order is not answered, since the exchange was killed."""
        with contextlib.suppress(httpx.HTTPError):
            while True:
                price = 80 + len(self.acknowledged) % 15
                order = self.account.order(SYMBOL, "BUY", "LIMIT", quantity="0.1", price=f"{price}")
                self.acknowledged.append((time.monotonic(), order["orderId"]))
                if len(self.acknowledged) % OPEN_MAX == 0:
                    self.account.signed("DELETE", "/api/v3/openOrders", symbol=SYMBOL)


def is_known(account: Api, order_id: int) -> bool:
    try:
        account.signed("GET", "/api/v3/order", symbol=SYMBOL, orderId=order_id)
    except RefusedError as error:
        if error.code == -2013:
            return False
        raise
    return True


def keep_keys_only(data_dir: Path) -> None:
    """Lose everything of a data folder but the keys, of which the operator has copies.

    The servers' password is lost, too.
    """
    for path in data_dir.iterdir():
        if path.suffix == ".key":
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def fails(environment: Any, *arguments: str) -> str:
    """Return what a command says that ends with 1, as one line."""
    result = exchange_command(environment, *arguments)
    assert result.returncode == 1, result.stdout
    return " ".join(result.stderr.replace("\u2502", " ").split())


def succeeds(environment: Any, *arguments: str) -> tuple[str, float]:
    began = time.monotonic()
    result = exchange_command(environment, *arguments)
    assert result.returncode == 0, result.stderr + result.stdout
    return result.stdout, time.monotonic() - began


@pytest.mark.timeout(600)
@pytest.mark.parametrize("shard_count", ["1", "3"])
def test_a_lost_database_comes_back(data_dir: Path, backup_dir: Path, shard_count: str) -> None:
    settings = {**SETTINGS, "shard_count": shard_count}
    with running_exchange(data_dir, **settings) as exchange:
        assert "`exchange backup DIR` makes one" in fails(exchange.environment, "backup", "--status")
        buyer = new_account(exchange.url, USDT="100000")
        seller = new_account(exchange.url, SOL="1000")
        trade(buyer, seller, 5)
        first = exchange.command("backup", str(backup_dir), timeout_s=120)
        assert first["ok"], first
        trade(buyer, seller, 5)
        eventually("the log in the backup", lambda: follows(exchange))
        eventually("ten trades in the history", lambda: len(seller.historical_trades(SYMBOL)) >= 10)
        eventually("the log in the backup", lambda: follows(exchange))
        before = [what_is_seen(account) for account in (buyer, seller)]
        time.sleep(2)
        midway = datetime.now(UTC)
        time.sleep(2)
        ordering = Ordering(buyer)
        ordering.start()
        time.sleep(5)
        lost_s = time.monotonic()
        kill_everything(exchange)
    environment = exchange.environment
    ordering.join(30)
    assert len(ordering.acknowledged) > 100

    assert "Move the folder away" in fails(environment, "recover", str(backup_dir))
    keep_keys_only(data_dir)
    _, recover_s = succeeds(environment, "recover", str(backup_dir))
    _, restore_s = succeeds(environment, "restore")
    began = time.monotonic()
    with running_exchange(data_dir, **settings) as exchange:
        up_s = time.monotonic() - began
        buyer, seller = (Api(exchange.url, each.key, each.secret) for each in (buyer, seller))
        eventually("the book", lambda: buyer.get("/api/v3/depth", symbol=SYMBOL)["bids"])
        missing = [at for at, order_id in ordering.acknowledged if not is_known(buyer, order_id)]
        rpo_s = (
            max(0.0, lost_s - min(missing)) if missing else 0.0
        )  # the last ones while the processes are killed
        sys.stdout.write(
            f"\n{shard_count} shards, {len(ordering.acknowledged):,} orders acknowledged in 5 s: "
            f"{len(missing)} lost, the oldest {rpo_s * 1000:.0f} ms before the loss; recover {recover_s:.1f} "
            f"s, restore {restore_s:.1f} s, up {up_s:.1f} s\n"
        )
        assert rpo_s < RPO_S
        assert [what_is_seen(account)["trades"] for account in (buyer, seller)] == [
            each["trades"] for each in before
        ]
        assert buyer.historical_trades(SYMBOL) == before[0]["tape"]
        eventually("the audit is clean", lambda: exchange.command("audit")["ok"])
        trade(buyer, seller, 3)
        eventually("the new trades are stored", lambda: len(seller.historical_trades(SYMBOL)) >= 13)
        eventually("the audit is clean", lambda: exchange.command("audit")["ok"])
        # This database's log is another one: the same folder gets a second line.
        again = exchange.command("backup", str(backup_dir), timeout_s=120)
        assert again["ok"], again
        assert again["folder"] == str(backup_dir / "0002")

    # As of a time between, in another data folder that has nothing but the keys.
    keep_keys_only(data_dir)
    assert "The oldest base backup in" in fails(environment, "recover", str(backup_dir), "--to", "2020-01-01")
    late = f"{datetime.fromtimestamp(time.time() + 3600, UTC):%Y-%m-%dT%H:%M:%S}"
    assert "ends before that time" in fails(environment, "recover", str(backup_dir), "--to", late)
    assert not (data_dir / "postgres").exists()
    said, _ = succeeds(environment, "recover", str(backup_dir), "--to", midway.isoformat(), "--json")
    assert datetime.fromisoformat(json.loads(said)["lastCommit"]) <= midway
    succeeds(environment, "restore")
    with running_exchange(data_dir, **settings) as exchange:
        buyer, seller = (Api(exchange.url, each.key, each.secret) for each in (buyer, seller))
        eventually("the book", lambda: buyer.get("/api/v3/depth", symbol=SYMBOL)["asks"])
        seen = [what_is_seen(account) for account in (buyer, seller)]
        assert seen == before
        eventually("the audit is clean", lambda: exchange.command("audit")["ok"])


@pytest.mark.timeout(600)
def test_a_database_that_is_lost_alone_catches_up_from_redis(data_dir: Path, backup_dir: Path) -> None:
    """Redis still has its data, so nothing is restored, and nothing that was acknowledged is lost."""
    with running_exchange(data_dir, **SETTINGS) as exchange:
        buyer = new_account(exchange.url, USDT="100000")
        seller = new_account(exchange.url, SOL="1000")
        trade(buyer, seller, 5)
        assert exchange.command("backup", str(backup_dir), timeout_s=120)["ok"]
        trade(buyer, seller, 5)
        ordering = Ordering(buyer)
        ordering.start()
        time.sleep(5)
        kill_everything(exchange)
    environment = exchange.environment
    ordering.join(30)
    shutil.rmtree(data_dir / "postgres")
    succeeds(environment, "recover", str(backup_dir))
    with running_exchange(data_dir, **SETTINGS) as exchange:
        buyer, seller = (Api(exchange.url, each.key, each.secret) for each in (buyer, seller))
        eventually("ten trades in the history", lambda: len(seller.historical_trades(SYMBOL)) >= 10)
        missing = [at for at, order_id in ordering.acknowledged if not is_known(buyer, order_id)]
        assert (len(missing), len(ordering.acknowledged) > 100) == (0, True)
        orders = eventually(
            "the last orders in the history",
            lambda: (
                found
                if (found := buyer.signed("GET", "/api/v3/allOrders", symbol=SYMBOL))[-1]["orderId"]
                >= ordering.acknowledged[-1][1]
                else None
            ),
        )
        assert orders
        trade(buyer, seller, 3)
        eventually("the new trades are stored", lambda: len(seller.historical_trades(SYMBOL)) >= 13)
        eventually("the audit is clean", lambda: exchange.command("audit")["ok"])
        assert "There is no backup of this database" in fails(environment, "backup", "--status")
        assert exchange.command("backup", str(backup_dir), timeout_s=120)["folder"] == str(
            backup_dir / "0002"
        )
