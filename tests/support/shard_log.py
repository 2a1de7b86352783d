"""Event logs as the real core writes them: seeded random trading, on any number of shards."""

import random
from collections.abc import Iterator

from engine_worker.core.shard import Shard
from protocol.codec import encode_frame
from protocol.commands import CancelOrder, Command, Deposit, MessageFrame, PlaceOrder, Withdraw
from protocol.events import Event, OrderAccepted, OrderClosed
from protocol.market import MarketMap
from protocol.orders import OrderType, SelfTradePrevention, Side, TimeInForce
from protocol.stream_id import StreamId
from protocol.streams import EVENTS_FIELD, events
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots, TimeMs
from stream_log.interface import StreamLog
from tests.support.market_log import publish_markets

FIRST_ACCOUNT = 1001
DEPOSIT = AssetUnits(10**15)


class ShardLog:
    """Trades at random, and keeps what each shard's event stream would hold."""

    def __init__(self, seed: int, market_map: MarketMap, start_ms: int, accounts: int = 10) -> None:
        """Begin at `start_ms` with every account rich in every asset."""
        self.market_map = market_map
        self.entries: list[tuple[int, StreamId, list[Event]]] = []
        """(shard, stream id, events), in the order that they happened."""
        self._random = random.Random(seed)
        self._time = start_ms
        self._number = 0
        self._shards = [Shard(index, market_map) for index in range(market_map.shard_count)]
        self._accounts = [AccountId(FIRST_ACCOUNT + number) for number in range(accounts)]
        self._open: dict[OrderId, tuple[AccountId, str]] = {}
        for account in self._accounts:
            for asset in market_map.assets:
                self._apply([Deposit(0, "test", account, asset, DEPOSIT, f"first-{asset}")])

    def trade(self, commands: int, batch: int = 1, gap_ms: int = 1) -> None:
        """Give random commands, in batches of one entry each, with up to `gap_ms` between them."""
        for _ in range(0, commands, batch):
            self._time += self._random.randint(0, gap_ms)
            self._apply([self._command() for _ in range(batch)])

    def events(self) -> Iterator[Event]:
        for _, _, found in self.entries:
            yield from found

    def frames(self, shard: int) -> Iterator[bytes]:
        for owner, _, found in self.entries:
            if owner == shard:
                yield self.frame(found)

    @staticmethod
    def frame(found: list[Event]) -> bytes:
        return encode_frame(found)

    def append_to(self, log: StreamLog) -> None:
        """Append everything to the shards' event streams, and say which markets they have."""
        publish_markets(log, self.market_map)
        for shard in range(self.market_map.shard_count):
            for frame in self.frames(shard):
                log.append(events(shard), {EVENTS_FIELD: frame})

    def _command(self) -> Command:
        dice, account = self._random.random(), self._random.choice(self._accounts)
        self._number += 1
        if dice < 0.25 and self._open:
            order_id = self._random.choice(list(self._open)[-200:])
            owner, symbol = self._open[order_id]
            return CancelOrder(0, "test", owner, symbol, order_id, cancel_id=f"x{self._number}")
        if dice < 0.27:
            asset = self._random.choice(self.market_map.assets)
            transfer = Withdraw if dice < 0.26 else Deposit
            return transfer(
                0, "test", account, asset, AssetUnits(self._random.randint(1, 10**9)), f"t{self._number}"
            )
        market, side = self._random.choice(self.market_map.markets), self._random.choice(list(Side))
        by_market = dice > 0.9
        price = 50_000 + self._random.randint(-30, 30)
        return PlaceOrder(
            self._number,
            "test",
            account,
            f"c{self._number}",
            market.symbol,
            side,
            OrderType.MARKET if by_market else OrderType.LIMIT,
            TimeInForce.IOC if by_market else TimeInForce.GTC,
            PriceTicks(60_000 if side is Side.BUY else 40_000) if by_market else PriceTicks(price),
            QuantityLots(self._random.randint(2_000, 20_000)),
            self_trade_prevention=self._random.choice(list(SelfTradePrevention)),
        )

    def _apply(self, commands: list[Command]) -> None:
        mail: list[MessageFrame] = []
        touched = dict[int, list[Event]]()
        for command in commands:
            shard = self.market_map.shard_of_account(command.account_id)
            self._shards[shard].apply(command, TimeMs(self._time))
            mail += self._take(shard, touched)
            while mail:
                frame = mail.pop(0)
                target = self._shards[frame.target]
                for message in target.messages.new_messages(frame):
                    target.apply(message, TimeMs(self._time))
                mail += self._take(frame.target, touched)
        stream_id = StreamId(self._time, len(self.entries))
        self.entries += [(shard, stream_id, found) for shard, found in touched.items() if found]

    def note(self, happened: list[Event]) -> None:
        """Note which orders are open."""
        for event in happened:
            if isinstance(event, OrderAccepted):
                self._open[event.order.order_id] = (event.order.account_id, event.order.market)
            elif isinstance(event, OrderClosed):
                self._open.pop(event.order.order_id, None)

    def _take(self, shard: int, touched: dict[int, list[Event]]) -> list[MessageFrame]:
        output = self._shards[shard].take()
        touched.setdefault(shard, []).extend(output.events)
        self.note(output.events)
        return [
            MessageFrame(shard, target, sequence, (message,)) for target, sequence, message in output.outbox
        ]
