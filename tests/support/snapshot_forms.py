"""A state with one of everything, and the snapshot forms that hold it."""

from pathlib import Path
from typing import Any

import msgspec

from engine_worker.core.shard import Shard
from runtime.settings import Settings

GOLDEN = Path(__file__).parents[1] / "golden"


MARKETS = Settings(shard_count=2).market_map()


SAID: dict[str, Any] = msgspec.json.decode((GOLDEN / "snapshot_2.json").read_bytes())


WRITTEN = [(GOLDEN / f"snapshot_2_shard_{shard}.bin").read_bytes() for shard in range(2)]


def state_of(shard: Shard) -> dict[str, Any]:
    """What tests/golden/snapshot_2.json says of a shard."""
    accounts = shard.state.accounts.values()
    orders = [order for each in accounts for found in each.open_orders.values() for order in found.values()]
    state = {
        "order_count": shard.state.order_count,
        "command_count": shard.state.command_count,
        "checksum": shard.state.checksum,
        "received": sorted(shard.state.received.items()),
        "sent": sorted(shard.state.sent.items()),
        "totals": sorted((a, t.fees, t.deposited, t.withdrawn, t.settled) for a,
            t in shard.state.totals.items()),
        "balances": sorted((e.account_id, a, f.available, f.held) for e in accounts for a,
            f in e.funds.items()),
        "open_orders": sorted(
            (o.order_id, o.client_order_id, o.market, o.side, o.price, o.quantity, o.cum_quantity, o.held,
             o.status.name.replace("IN_FLIGHT", "PENDING_NEW"))  # as that version called it
            for o in orders
        ),
        "books": {
            symbol: {
                "sequence": each.sequence, "trade_id": each.trade_id, "last_price": each.last_price,
                "bids": shard.depth(symbol).bids, "asks": shard.depth(symbol).asks,
            }
            for symbol, each in sorted(shard.state.markets.items())
        },
    }  # fmt: skip
    return msgspec.json.decode(msgspec.json.encode(state))  # type: ignore[no-any-return]
