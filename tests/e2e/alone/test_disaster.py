"""Redis's data are gone, or have lost their end: the exchange does not open, is restored from the database,
and trades on."""

import shutil
from pathlib import Path

import pytest

from cli.commands.restore import GO_ON
from protocol.stream_id import StreamId
from tests.support.api import Api, new_account
from tests.support.eventually import eventually
from tests.support.lost_redis import SYMBOL, exchange_command, kill_everything, trade, traded, what_is_seen
from tests.support.running_exchange import RunningExchange, running_exchange


# Takes long: an exchange is started, killed, restored from its archive, and started again.
@pytest.mark.timeout(600)
@pytest.mark.parametrize("shard_count", ["3"])
def test_a_wiped_redis_is_restored_and_trading_goes_on(data_dir: Path, shard_count: str) -> None:
    settings = {"mm_enabled": "false", "shard_count": shard_count, "snapshot_interval_s": "2"}
    with running_exchange(data_dir, **settings) as exchange:
        buyer = new_account(exchange.url, USDT="100000")
        seller = new_account(exchange.url, SOL="1000")
        trade(buyer, seller, 10)
        buyer.order(SYMBOL, "BUY", "LIMIT", quantity="2", price="90", newClientOrderId="rests")
        eventually("all trades in the history", lambda: traded(seller) == 6)
        # The shards go on to say that time passes.
        reached = [report["position"] for report in exchange.command("shards")]
        eventually("everything archived", lambda: all_archived(exchange, reached))
        before = [what_is_seen(account) for account in (buyer, seller)]
        sequence = buyer.get("/api/v3/depth", symbol=SYMBOL)["lastUpdateId"]
        kill_everything(exchange)
    environment = exchange.environment
    shutil.rmtree(data_dir / "redis")

    refused = exchange_command(environment, "up")
    assert refused.returncode == 1
    assert "has lost the end of its log" in refused.stderr
    assert "exchange restore" in refused.stderr

    dry = exchange_command(environment, "restore", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "Nothing was written." in dry.stdout
    restored = exchange_command(environment, "restore")
    assert restored.returncode == 0, restored.stderr + restored.stdout
    assert GO_ON in " ".join(restored.stdout.split())

    with running_exchange(data_dir, **settings) as exchange:
        buyer, seller = (Api(exchange.url, each.key, each.secret) for each in (buyer, seller))
        eventually("the book", lambda: buyer.get("/api/v3/depth", symbol=SYMBOL)["bids"])
        assert [what_is_seen(account) for account in (buyer, seller)] == before
        book = exchange.command("book", "--market", SYMBOL, "--sequence", str(sequence))
        assert (book["bids"], book["asks"]) == tuple(map(pairs, before[0]["book"]))
        trade(buyer, seller, 5)
        eventually("the new trades in the history", lambda: traded(seller) == 9)
        tape = buyer.historical_trades(SYMBOL)
        assert [each["id"] for each in tape] == list(range(1, len(tape) + 1))
        orders = buyer.signed("GET", "/api/v3/allOrders", symbol=SYMBOL)
        assert len({each["orderId"] for each in orders}) == len(orders)
        buyer.signed("DELETE", "/api/v3/order", symbol=SYMBOL, origClientOrderId="rests")
        eventually("money adds up on all shards", lambda: conserved(exchange))


def pairs(levels: list[list[str]]) -> list[list[str]]:
    return [list(level) for level in levels]


def all_archived(exchange: RunningExchange, positions: list[str]) -> bool:
    archived = [
        StreamId.parse(report["passed"].get("archive", "0-0")) for report in exchange.command("shards")
    ]
    pairs = zip(archived, positions, strict=True)
    return all(done >= StreamId.parse(position) for done, position in pairs)


def conserved(exchange: RunningExchange) -> bool:
    reports = exchange.command("shards")
    settled: dict[str, int] = {}
    for report in reports:
        assert report["conserved"]
        for asset, *_, amount in report["rows"]:
            settled[asset] = settled.get(asset, 0) + amount
    return not any(settled.values())
