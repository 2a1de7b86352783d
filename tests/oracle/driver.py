"""Drives the real engine as one exchange: n shards, and the messages between them carried until all is quiet.

The only place in these tests that knows the engine's interface (but for the planted bugs, which know its
text).
"""

from collections import deque
from dataclasses import dataclass, field

from engine_worker.core.shard import Shard
from engine_worker.core.snapshot import decode_snapshot, encode_snapshot, state_hash
from protocol.commands import Command, MessageFrame, OperatorCommand, WithdrawFees
from protocol.configuration import ShardConfig
from protocol.events import Event, OrderClosed, OrderFilled
from protocol.market import MarketMap
from protocol.orders import OrderState, Side
from protocol.replies import (
    AuditQuery,
    AuditReply,
    BalancesQuery,
    FundsReply,
    OpenOrdersQuery,
    OrderQuery,
    OrderReply,
    OrdersReply,
    Refused,
    Reply,
)
from protocol.stream_id import STREAM_START
from protocol.units import AccountId, OrderId, TimeMs
from protocol.windows import DEFAULT_WINDOWS, Windows


@dataclass
class Produced:
    """What one command made the engine say."""

    replies: list[tuple[str, Reply]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)


class Engine:
    """The shards of one exchange, with nothing between them but numbered mail."""

    def __init__(
        self, market_map: MarketMap, windows: Windows = DEFAULT_WINDOWS, open_orders_max: int = 0
    ) -> None:
        """Start `market_map.shard_count` empty shards."""
        self.market_map = market_map
        self.windows = windows
        self.closed: dict[int, OrderState] = {}
        """Closed orders as the events tell them; the shards forget them."""
        self.shards = [Shard(index, market_map, windows) for index in range(market_map.shard_count)]
        for shard in self.shards:
            shard.configuration.set_config(ShardConfig(windows=windows, open_orders_max=open_orders_max))
        self.mail: dict[tuple[int, int], deque[MessageFrame]] = {}
        """(source, target) -> what is on its way, in order; no entry where there is nothing."""

    def apply(self, command: Command | OperatorCommand, time: int) -> Produced:
        """Apply a command at its account's shard, and carry messages until there are none."""
        produced = Produced()
        self.submit(command, time, produced)
        while self.mail:
            self.deliver(min(self.mail), time, produced)
        return produced

    def submit(self, command: Command | OperatorCommand, time: int, produced: Produced) -> None:
        """Apply a command at its account's shard; what it sends to other shards stays on its way."""
        shard_of = self.market_map.shard_of_account
        source = command.shard if isinstance(command, WithdrawFees) else shard_of(command.account_id)
        self.shards[source].apply(command, TimeMs(time))
        self._take(source, produced)

    def deliver(self, way: tuple[int, int], time: int, produced: Produced, *, times: int = 1) -> None:
        """Deliver what is longest on its way from one shard to another, once or (as after a crash) more
        often."""
        frame = self.mail[way].popleft()
        if not self.mail[way]:
            del self.mail[way]
        target = self.shards[frame.target]
        for _ in range(times):
            for message in target.messages.new_messages(frame):
                target.apply(message, TimeMs(time))
        self._take(frame.target, produced)

    def restart(self) -> None:
        """Replace every shard by what its snapshot restores. What is on its way stays there."""
        snapshots = [encode_snapshot(shard, STREAM_START) for shard in self.shards]
        self.shards = [decode_snapshot(snapshot)[0] for snapshot in snapshots]

    def state_hashes(self) -> list[str]:
        """Return a hash of every shard's whole state."""
        return [state_hash(shard) for shard in self.shards]

    def _take(self, source: int, produced: Produced) -> None:
        output = self.shards[source].take()
        produced.replies += output.replies
        produced.events += output.events
        for event in output.events:
            if isinstance(event, OrderClosed | OrderFilled) and not event.order.status.is_open:
                self.closed[event.order.order_id] = event.order
        for target, sequence, message in output.outbox:
            frame = MessageFrame(source, target, sequence, (message,))
            self.mail.setdefault((source, target), deque()).append(frame)

    def levels(self, symbol: str, side: Side) -> list[tuple[int, int]]:
        """Return one half of a book as (price, lots), best price first."""
        depth = self.shards[self.market_map.shard_of_market(symbol)].depth(symbol)
        return [(price, lots) for price, lots in (depth.bids if side is Side.BUY else depth.asks)]

    def balances(self, account_id: int) -> dict[str, tuple[int, int]]:
        """Return asset -> (available, held), without assets of which there is nothing."""
        reply = self._ask(BalancesQuery(1, "test", AccountId(account_id)), account_id)
        assert isinstance(reply, FundsReply)
        funds = {balance.asset: (balance.available, balance.held) for balance in reply.balances}
        return {asset: amounts for asset, amounts in funds.items() if any(amounts)}

    def order(self, account_id: int, symbol: str, order_id: int) -> OrderState:
        """Return the state of an order, open or closed."""
        reply = self._ask(OrderQuery(1, "test", AccountId(account_id), symbol, OrderId(order_id)), account_id)
        if isinstance(reply, Refused):
            return self.closed[order_id]
        assert isinstance(reply, OrderReply), reply
        return reply.order

    def open_orders(self, account_id: int, symbol: str = "") -> list[OrderState]:
        """Return the account's open orders, oldest first, in one market or all."""
        reply = self._ask(OpenOrdersQuery(1, "test", AccountId(account_id), symbol), account_id)
        assert isinstance(reply, OrdersReply)
        return list(reply.orders)

    def audit(self) -> list[AuditReply]:
        """Return every shard's books of money."""
        replies = [shard.answer(AuditQuery(1, "test"), TimeMs(0))[1] for shard in self.shards]
        assert all(isinstance(reply, AuditReply) for reply in replies)
        return [reply for reply in replies if isinstance(reply, AuditReply)]

    def check_invariants(self) -> None:
        """Let every shard check itself."""
        for shard in self.shards:
            shard.check_invariants()

    def _ask(self, query: BalancesQuery | OrderQuery | OpenOrdersQuery, account_id: int) -> Reply:
        shard = self.shards[self.market_map.shard_of_account(AccountId(account_id))]
        return shard.answer(query, TimeMs(0))[1]
