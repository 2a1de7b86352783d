"""An exchange of pure shards and the mail between them, with one market, for tests of what operators
may say.
"""

import msgspec

from engine_worker.core.shard import Shard
from protocol.commands import Command, ConfigCommand, ConfigureMarket, OperatorCommand, PlaceOrder
from protocol.configuration import MarketConfig, MarketStatus
from protocol.market import Market, MarketMap
from protocol.orders import OrderType, RejectReason, Side, TimeInForce
from protocol.replies import ConfigQuery, ConfigReply, Refused, Reply
from protocol.units import AccountId, AssetUnits, PriceTicks, QuantityLots, TimeMs

BTC = Market(
    symbol="BTCUSDT", base="BTC", quote="USDT", tick_size=AssetUnits(10**6), lot_size=AssetUnits(10**3),
    price_max=PriceTicks(10**6), quantity_min=QuantityLots(1), quantity_max=QuantityLots(10**9),
    notional_min=AssetUnits(1), band_up_ppm=5_000_000, band_down_ppm=200_000, maker_fee_ppm=1_000,
    taker_fee_ppm=2_000,
)  # fmt: skip
LISTED = MarketConfig(BTC, 0)
BUYER, SELLER = AccountId(2), AccountId(4)


AnyCommand = Command | ConfigCommand | OperatorCommand


class Exchange:
    """Two shards, and the mail between them.

    BTCUSDT is on the first, and so are accounts with an even number.
    """

    def __init__(self, shard_count: int = 2) -> None:
        self.shards = [Shard(index, MarketMap.placed([], shard_count)) for index in range(shard_count)]
        self.time = 0
        self.requests = 0
        self.events: list[object] = []

    def tell(self, shard: int, command: AnyCommand) -> Reply:
        """Give a shard a command, deliver all mail, and return the reply."""
        self.time += 1
        self.requests += 1
        command = msgspec.structs.replace(command, request_id=self.requests, reply_to="r")
        self.shards[shard].apply(command, TimeMs(self.time))
        replies: list[Reply] = []
        while any(self._deliver(each, replies) for each in self.shards):
            pass
        (reply,) = [reply for reply in replies if reply.request_id == self.requests]
        return reply

    def _deliver(self, shard: Shard, replies: list[Reply]) -> bool:
        output = shard.take()
        replies += [reply for _, reply in output.replies]
        self.events += output.events
        for target, _, message in output.outbox:
            self.shards[target].apply(message, TimeMs(self.time))
        return bool(output.outbox)

    def configure(self, config: MarketConfig = LISTED) -> Reply:
        return self.tell(config.shard, ConfigureMarket(0, "", config))

    def refusal(self, shard: int, command: AnyCommand) -> RejectReason:
        reply = self.tell(shard, command)
        assert isinstance(reply, Refused), reply
        return reply.reason

    def knows(self, shard: int) -> ConfigReply:
        _, reply = self.shards[shard].answer(ConfigQuery(1, "r"), TimeMs(self.time))
        assert isinstance(reply, ConfigReply)
        return reply


def order(
    account: AccountId, side: Side, price: int = 100, time_in_force: TimeInForce = TimeInForce.GTC
) -> PlaceOrder:
    return PlaceOrder(
        0, "", account, f"{account} {side} {price}", "BTCUSDT", side, OrderType.LIMIT, time_in_force,
        PriceTicks(price), QuantityLots(1_000_000),
    )  # fmt: skip


def changed(
    config: MarketConfig = LISTED, *, version: int = 2, status: MarketStatus | None = None, **market: object
) -> MarketConfig:
    return MarketConfig(
        msgspec.structs.replace(config.market, **market), config.shard, status or config.status, version
    )
