"""The control of tests/e2e/alone/test_redis_failover.py: a master that waits for no replica loses what it has
acknowledged."""

from pathlib import Path

from tests.support.api import new_account
from tests.support.redis_failover import (
    Cut,
    buyer_with_a_resting_order,
    exchange_on,
    sell,
    until_available,
)
from tests.support.redis_servers import redis_servers


def test_without_wait_an_acknowledged_order_is_lost(data_dir: Path) -> None:
    with (
        redis_servers(data_dir, "sentinel") as servers,
        # The database's word would keep the shard closed.
        exchange_on(servers, data_dir, 0, lost_tail_check_enabled="false") as exchange,
    ):
        buyer_with_a_resting_order(exchange)
        seller = new_account(exchange.url, ETH="10")
        sell(seller, "replicated", "1")
        cut = Cut(servers)
        assert sell(seller, "lost", "1")["status"] == "FILLED"
        cut.promote()
        # Its account has sold twice, and only once; the database, which was told of both, is no help.
        assert until_available(seller.balances)["ETH"] == (9, 0)
