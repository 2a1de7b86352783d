"""An exchange on a Redis with replica and sentinels, cut off from either."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.api import Api, RefusedError, new_account
from tests.support.eventually import eventually
from tests.support.redis_servers import RedisServers
from tests.support.running_exchange import RunningExchange, running_exchange

RETRY_S = 60


PATIENCE_MS = 300_000
"""Longer than any test."""


SYMBOL = "ETHUSDT"


PRICE = "3000"


def exchange_on(servers: RedisServers, data_dir: Path, replicas_min: int, **settings: str) -> Any:
    return running_exchange(
        data_dir / "exchange",
        redis_url=servers.url,
        redis_replicas_min=str(replicas_min),
        mm_enabled="false",
        **settings,
    )


def promote_the_replica(servers: RedisServers) -> str:
    """Kill the master, wait until the replica has its place, and return the name of the dead one."""
    dead = servers.master()
    servers.kill(dead)
    eventually("a promotion", lambda: "master" in servers.roles().values(), timeout_s=RETRY_S)
    return dead


class Cut:
    """A master whose replica hears nothing of it any more, while both go on.

    Nobody but `promote` replaces it.
    """

    def __init__(self, servers: RedisServers) -> None:
        self.servers = servers
        servers.let_sentinels_wait(PATIENCE_MS)
        self.master = servers.master()
        (self.replica,) = {"redis-1", "redis-2"} - {self.master}
        with servers.client(self.replica) as replica:
            self._password = replica.config_get("masterauth")["masterauth"]
            replica.config_set("masterauth", "wrong")
            replica.client_kill_filter(_type="master")
            eventually("a cut replica", lambda: replica.info("replication")["master_link_status"] == "down")
        with servers.client(self.master) as master:
            eventually("a lonely master", lambda: master.info("replication")["connected_slaves"] == 0)

    def state(self) -> dict[str, Any]:
        """Return what each server says of itself and of the shard."""
        found = {}
        for name in (self.master, self.replica):
            with self.servers.client(name) as client:
                found[name] = (
                    client.get("pos:{0}"),
                    client.xrevrange("ev:{0}", count=2),
                    client.info("replication"),
                )
        return found

    def promote(self) -> None:
        """Kill the master, let the replica take its place, and the old master follow it."""
        self.servers.let_sentinels_wait()
        dead = promote_the_replica(self.servers)
        self.servers.let_sentinels_wait(PATIENCE_MS)
        assert dead == self.master
        with self.servers.client(self.replica) as replica:
            replica.config_set("masterauth", self._password)
        self.servers.start_replica(dead)
        eventually("a replica again", self.servers.is_ready, timeout_s=RETRY_S)


def sell(api: Api, client_order_id: str, quantity: str) -> Any:
    return api.order(
        SYMBOL, "SELL", "LIMIT", price=PRICE, quantity=quantity, newClientOrderId=client_order_id
    )


def buyer_with_a_resting_order(exchange: RunningExchange) -> Api:
    buyer = new_account(exchange.url, USDT="100000")
    buyer.order(SYMBOL, "BUY", "LIMIT", price=PRICE, quantity="5")
    return buyer


def until_available(question: Callable[[], Any]) -> Any:
    """Ask until the answer is not that the exchange cannot say."""

    def ask() -> Any:
        try:
            return question()
        except RefusedError as refusal:
            if refusal.status == 503:
                return None
            raise

    return eventually("an answer", ask, timeout_s=RETRY_S)
