"""Clients, and the gateway's way to the shards.

A gateway collects the commands of its clients into one frame per shard, as `serving.command_queue` does, sends what was lost with
a connection once more, and answers what it is told by its own reply channel. When no reply comes, or the gateway dies, a client
does not know; it asks with the same client order id, and places the order again with that id when it is told that there is none.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import redis

from protocol import streams
from protocol.codec import decode_replies, encode_commands, encode_frame
from protocol.commands import CancelAllOrders, CancelOrder, Command, Deposit, PlaceOrder, Withdraw
from protocol.market import MarketMap
from protocol.orders import OrderStatus, OrderType, RejectReason, SelfTradePrevention, Side, TimeInForce
from protocol.replies import BalancesQuery, OpenOrdersQuery, OrderQuery, OrderReply, OrdersReply, Query, Refused, Reply
from protocol.streams import COMMANDS_FIELD, QUERIES_FIELD
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots
from runtime.memory_stream_log import MemoryStreamLog
from simulation.faulty_log import FaultyLog
from simulation.markets import MARKETS, PRICE
from simulation.process import Process, Surroundings
from simulation.schedule import CLIENTS, Action, Dice
from simulation.witness import Witness, require

REPLY_TIMEOUT_MS = 5_000
OUTSTANDING_MAX = 4
_KINDS = (
    *[(OrderType.LIMIT, TimeInForce.GTC)] * 9,
    (OrderType.LIMIT, TimeInForce.IOC),
    (OrderType.LIMIT, TimeInForce.FOK),
    (OrderType.LIMIT_MAKER, TimeInForce.GTC),
    (OrderType.MARKET, TimeInForce.IOC),
    (OrderType.MARKET, TimeInForce.IOC),
)

Answer = Callable[[Reply | None], None]
"""What is called with the reply; with None when it will never be known."""


class Gateway(Process):
    """One gateway process."""

    kind = "gateway"

    def __init__(self, surroundings: Surroundings, log: MemoryStreamLog, witness: Witness, number: int) -> None:
        super().__init__(surroundings, f"gateway {number}")
        self._witness = witness
        self._log = FaultyLog(log, self, witness)
        self._starts = 1
        self._last_id = 0
        self._commands: dict[int, list[Command]] = {}
        self._queries: dict[int, list[Query]] = {}
        self._to_retry: list[tuple[str, bytes, list[Command] | list[Query]]] = []
        self._waiting: dict[int, tuple[int, Answer]] = {}

    @property
    def reply_to(self) -> str:
        """The name of the reply channel; a new one after each start."""
        return f"{self.name}.{self._starts}"

    def next_request_id(self) -> int:
        """Return a request id that was not used before."""
        self._last_id += 1
        return self._last_id

    def submit(self, shard: int, command: Command, answer: Answer) -> None:
        """Add a command to the micro-batch."""
        self._commands.setdefault(shard, []).append(command)
        self._wait(command.request_id, answer)

    def query(self, shard: int, query: Query, answer: Answer) -> None:
        """Add a query to the micro-batch."""
        self._witness.queries.add((query.reply_to, query.request_id))
        self._queries.setdefault(shard, []).append(query)
        self._wait(query.request_id, answer)

    def _wait(self, request_id: int, answer: Answer) -> None:
        self._waiting[request_id] = (self.surroundings.now + REPLY_TIMEOUT_MS, answer)

    def step(self, action: Action) -> None:
        """Send again what was lost, send the micro-batch, and give up what has waited too long."""
        retries, self._to_retry = self._to_retry, []
        for stream, field, batch in retries:
            if any(each.request_id in self._waiting for each in batch):
                self._append(stream, field, batch, is_retry=True)
        commands, self._commands = self._commands, {}
        for shard, batch in commands.items():
            self._append(streams.commands(shard), COMMANDS_FIELD, batch, is_retry=False)
        queries, self._queries = self._queries, {}
        for shard, asked in queries.items():
            self._append(streams.queries(shard), QUERIES_FIELD, asked, is_retry=False)
        now = self.surroundings.now
        for request_id, (deadline, _) in list(self._waiting.items()):
            if deadline <= now:
                self._answer(request_id, None)

    def _append(self, stream: str, field: bytes, batch: list[Command] | list[Query], *, is_retry: bool) -> None:
        is_log = field == COMMANDS_FIELD
        frame = encode_commands(batch, self.surroundings.now * 1_000) if is_log else encode_frame(batch)  # type: ignore[arg-type]
        try:
            self._log.append(stream, {field: frame})
        except redis.ConnectionError:
            if is_retry:
                for each in batch:
                    self._answer(each.request_id, None)
            else:
                self._to_retry.append((stream, field, batch))

    def hear(self, payload: bytes) -> None:
        """Hand out one frame of replies."""
        for reply in decode_replies(payload):
            self._answer(reply.request_id, reply)

    def _answer(self, request_id: int, reply: Reply | None) -> None:
        waiting = self._waiting.pop(request_id, None)
        if waiting is not None:
            waiting[1](reply)

    def end(self) -> None:
        """Everyone who waited loses the connection, and does not know."""
        waiting, self._waiting = self._waiting, {}
        self._commands, self._queries, self._to_retry = {}, {}, []
        self._starts += 1
        for _, answer in waiting.values():
            answer(None)

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for it."""
        return not (self._commands or self._queries or self._to_retry or self._waiting)


class Intent:
    """An order that a client wants once, and what it has been told of it."""

    def __init__(self, command: PlaceOrder) -> None:
        self.command = command
        self.order_id = OrderId(0)
        self.refused: RejectReason | None = None
        self.attempts = 0
        """Requests under way."""
        self.is_unknown = False

    @property
    def is_settled(self) -> bool:
        """Whether the client knows what became of it."""
        return bool(self.order_id) or self.refused is not None


class Client:
    """One account's owner."""

    def __init__(self, number: int, gateways: Sequence[Gateway], witness: Witness) -> None:
        self.account_id = AccountId(number + 1)
        self.intents: list[Intent] = []
        self.transfers: Counter[str] = Counter()
        """Transfer id -> what the client was told has moved."""
        self.told: Counter[str] = Counter()
        """What it heard, in words -> how often."""
        self._gateways = gateways
        self._market_map: MarketMap = witness.market_map
        self._shard = witness.market_map.shard_of_account(self.account_id)
        self._outstanding = 0
        self._count = 0

    def act(self, dice: Dice) -> None:
        """Do one thing."""
        unknown = [intent for intent in self.intents if intent.is_unknown and not intent.attempts]
        if unknown and dice.below(2):
            self._ask(unknown[0], dice)
        elif self._outstanding < OUTSTANDING_MAX:
            self._act(dice)

    def resolve(self, dice: Dice) -> bool:
        """Ask for whatever is not known; return whether there was any."""
        unknown = [intent for intent in self.intents if not intent.is_settled and not intent.attempts]
        for intent in unknown:
            self._ask(intent, dice)
        return bool(unknown) or self._outstanding > 0

    def _act(self, dice: Dice) -> None:
        gateway = self._gateways[dice.below(len(self._gateways))]
        choice = dice.below(100)
        recent = self.intents[-1 - dice.below(min(8, len(self.intents)))] if self.intents else None
        if choice < 62 or recent is None:
            self._place(Intent(self._order(dice)), gateway)
        elif choice < 80:
            placed = recent.command
            by_id = recent.order_id and dice.below(2)
            order_id, name = (recent.order_id, "") if by_id else (OrderId(0), placed.client_order_id)
            request = (gateway.next_request_id(), gateway.reply_to, self.account_id)
            self._submit(gateway, CancelOrder(*request, placed.market, order_id, name), self._canceled)
        elif choice < 84:
            request = (gateway.next_request_id(), gateway.reply_to, self.account_id)
            market = MARKETS[dice.below(len(MARKETS))].symbol
            self._submit(gateway, CancelAllOrders(*request, market), self._canceled)
        elif choice < 89 and recent.refused is None:
            self._place(recent, gateway)  # a double click
        elif choice < 93:
            self._transfer(dice, gateway)
        else:
            self._look(dice, gateway, recent)

    def _order(self, dice: Dice) -> PlaceOrder:
        self._count += 1
        market = MARKETS[dice.below(len(MARKETS))]
        side = Side.SELL if dice.below(2) else Side.BUY
        order_type, time_in_force = _KINDS[dice.below(len(_KINDS))]
        price = PRICE - 2 + dice.below(5)
        quantity, quote_quantity = 1 + dice.below(40), 0
        if order_type is OrderType.MARKET:
            price = PRICE + 8 if side is Side.BUY else PRICE - 8
            if dice.below(2):
                quantity, quote_quantity = (
                    0,
                    market.notional(PriceTicks(PRICE), QuantityLots(quantity)) + dice.below(50),
                )
        if dice.below(16) == 0:
            price += 60 * dice.below(2)
            quantity *= 500 * dice.below(2)  # garbage, or more than the account has
        return PlaceOrder(
            0,
            "",
            self.account_id,
            f"c{self._count}",
            market.symbol,
            side,
            order_type,
            time_in_force,
            PriceTicks(price),
            QuantityLots(quantity),
            AssetUnits(quote_quantity),
            SelfTradePrevention(dice.below(4)),
        )

    def _place(self, intent: Intent, gateway: Gateway) -> None:
        command = msgspec.structs.replace(
            intent.command, request_id=gateway.next_request_id(), reply_to=gateway.reply_to
        )
        if not intent.attempts and not intent.is_settled and intent not in self.intents:
            self.intents.append(intent)
        intent.attempts += 1
        self._submit(gateway, command, lambda reply: self._placed(intent, reply))

    def _placed(self, intent: Intent, reply: Reply | None) -> None:
        intent.attempts -= 1
        match reply:
            case OrderReply():
                self._is_order(intent, reply)
            case Refused(reason=RejectReason.DUPLICATE_CLIENT_ORDER_ID):
                self.told["duplicate"] += 1
                intent.is_unknown = not intent.is_settled
            case Refused() if not intent.order_id and not intent.attempts:
                intent.refused, intent.is_unknown = reply.reason, False
                self.told["refused"] += 1
            case Refused():
                intent.is_unknown = not intent.is_settled
            case _:
                self.told["status unknown"] += 1
                intent.is_unknown = not intent.is_settled

    def _is_order(self, intent: Intent, reply: OrderReply) -> None:
        order = reply.order
        require(
            order.client_order_id == intent.command.client_order_id and intent.order_id in (0, order.order_id),
            f"account {self.account_id}: {intent.command.client_order_id} is order {order.order_id}, was {intent.order_id}",
        )
        intent.order_id, intent.is_unknown = order.order_id, False
        self.told["accepted"] += 1

    def _ask(self, intent: Intent, dice: Dice) -> None:
        gateway = self._gateways[dice.below(len(self._gateways))]
        placed = intent.command
        request = (gateway.next_request_id(), gateway.reply_to, self.account_id)
        intent.attempts += 1
        self._query(
            gateway,
            OrderQuery(*request, placed.market, OrderId(0), placed.client_order_id),
            lambda reply: self._asked(intent, reply, gateway),
        )

    def _asked(self, intent: Intent, reply: Reply | None, gateway: Gateway) -> None:
        intent.attempts -= 1
        match reply:
            case OrderReply() if reply.order.status is not OrderStatus.PENDING_NEW:
                self._is_order(intent, reply)
            case Refused() if not intent.is_settled:
                self.told["no such order, placed again"] += 1
                self._place(intent, gateway)
            case _:
                intent.is_unknown = not intent.is_settled

    def _transfer(self, dice: Dice, gateway: Gateway) -> None:
        self._count += 1
        asset = self._market_map.assets[dice.below(len(self._market_map.assets))]
        kind = Withdraw if dice.below(2) else Deposit
        request = (gateway.next_request_id(), gateway.reply_to, self.account_id)
        transfer_id = f"t{self._count}"
        command = kind(*request, asset, AssetUnits(1 + dice.below(3_000)), transfer_id)

        def moved(reply: Reply | None) -> None:
            if reply is not None and not isinstance(reply, Refused):
                self.transfers[transfer_id] = command.amount if kind is Deposit else -command.amount

        self._submit(gateway, command, moved)

    def _look(self, dice: Dice, gateway: Gateway, intent: Intent) -> None:
        request = (gateway.next_request_id(), gateway.reply_to, self.account_id)
        match dice.below(3):
            case 0:
                self._query(gateway, BalancesQuery(*request), self._looked)
            case 1:
                self._query(gateway, OpenOrdersQuery(*request), self._looked)
            case _:
                name = intent.command.client_order_id
                self._query(gateway, OrderQuery(*request, intent.command.market, OrderId(0), name), self._looked)

    def _canceled(self, reply: Reply | None) -> None:
        if isinstance(reply, OrderReply | OrdersReply):
            self.told["canceled"] += 1

    def _looked(self, reply: Reply | None) -> None:
        if reply is not None:
            self.told["answered"] += 1

    def _submit(self, gateway: Gateway, command: Command, answer: Answer) -> None:
        self._outstanding += 1
        gateway.submit(self._shard, command, self._counted(answer))

    def _query(self, gateway: Gateway, query: Query, answer: Answer) -> None:
        self._outstanding += 1
        gateway.query(self._shard, query, self._counted(answer))

    def _counted(self, answer: Answer) -> Answer:
        def counted(reply: Reply | None) -> None:
            self._outstanding -= 1
            answer(reply)

        return counted

    def check(self, witness: Witness) -> None:
        """Compare what the client was told with what happened.

        Raises:
            Violation: they differ.
        """
        books, account_id = witness.books, self.account_id
        for intent in self.intents:
            name = intent.command.client_order_id
            order_id = books.order_ids.get((account_id, name))
            require(
                not intent.order_id or intent.order_id == order_id,
                f"account {account_id}: {name} was acknowledged as order {intent.order_id}, the log has {order_id}",
            )
            require(
                intent.refused is None or order_id is None,
                f"account {account_id}: {name} was refused ({intent.refused}), the log has it as order {order_id}",
            )
            if order_id is not None:
                placed, order = intent.command, books.histories[order_id][0]
                same = (placed.market, placed.side, placed.price, placed.quote_quantity)
                require(
                    same == (order.market, order.side, order.price, order.quote_quantity),
                    f"account {account_id}: {name} is not the order that was placed",
                )
        names = {intent.command.client_order_id for intent in self.intents}
        for owner, name in books.order_ids:
            require(owner != account_id or name in names, f"account {account_id} never placed {name}")
        for transfer_id, amount in self.transfers.items():
            require(
                books.transfers.get((account_id, transfer_id)) == amount,
                f"account {account_id}: transfer {transfer_id} was acknowledged, but did not happen",
            )


def endowment(market_map: MarketMap) -> list[tuple[int, list[Deposit]]]:
    """Return (shard, deposits) that a run begins with."""
    return [
        (
            market_map.shard_of_account(AccountId(number + 1)),
            [
                Deposit(
                    0, "start", AccountId(number + 1), asset, AssetUnits(120_000 if number else 4_000), f"start-{asset}"
                )
                for asset in market_map.assets
            ],
        )
        for number in range(CLIENTS)
    ]
