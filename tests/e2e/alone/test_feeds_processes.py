"""`exchange up` with several feeds processes: each has its part of the shards, and is restarted without the
others."""

import json
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

from tests.support.api import Api
from tests.support.eventually import eventually
from tests.support.running_exchange import running_exchange

SHARDS = 3
TIMEOUT_S = 60


# Takes long: a killed feeds process is noticed, started again and catches up, for each shard.
def test_two_feeds_processes_share_the_shards(data_dir: Path) -> None:
    with running_exchange(data_dir, shard_count=str(SHARDS), feeds_processes="2") as exchange:
        api = Api(exchange.url)
        symbols = list(exchange.settings.market_map().by_symbol)
        assert len(symbols) == SHARDS

        def depth_ids() -> dict[str, int]:
            return {symbol: api.get("/api/v3/depth", symbol=symbol)["lastUpdateId"] for symbol in symbols}

        def all_have_moved(before: dict[str, int]) -> bool:
            now = depth_ids()
            return all(now[symbol] > before[symbol] for symbol in symbols)

        # The market maker quotes all markets, so the depth of each moves.
        eventually("every market has depth", lambda: all(depth_ids().values()), TIMEOUT_S)
        before = {each.name: each for each in exchange.processes()}
        assert {"feeds", "feeds-2"} <= before.keys()
        names = "/".join(f"{symbol.lower()}@depth@100ms" for symbol in symbols)
        with connect(f"{exchange.settings.ws_url()}/stream?streams={names}") as client:
            last: dict[str, int] = {}
            for name in ("feeds-2", "feeds"):
                restarted = exchange.command("restart", name, timeout_s=TIMEOUT_S)
                assert [each["process"] for each in restarted] == [name]
                ids = depth_ids()
                eventually("every market goes on", lambda ids=ids: all_have_moved(ids), TIMEOUT_S)  # type: ignore[misc]
                hear(client, last, symbols)
        after = {each.name: each for each in exchange.processes()}
        assert {name for name in before if before[name].pid != after[name].pid} == {"feeds", "feeds-2"}
        # Had one taken a shard from the other, that would have ended, and been started anew.
        assert all(after[name].restarts == before[name].restarts for name in before)
        assert exchange.command("status")["ready"]


def hear(client: Any, last: dict[str, int], symbols: list[str]) -> None:
    """Hear each market's depth at least once more, without a gap."""
    heard: set[str] = set()
    while heard != set(symbols):
        update = json.loads(client.recv(TIMEOUT_S))["data"]
        symbol = update["s"]
        assert update["U"] == last.get(symbol, update["U"] - 1) + 1
        last[symbol] = update["u"]
        heard.add(symbol)
