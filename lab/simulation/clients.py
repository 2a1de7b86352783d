"""Clients, and the gateway's way to the shards.

A gateway collects the commands of its clients into one frame per shard, as `adapters.command_queue` does,
sends again what may have lost its answer, and answers what it is told by its own reply channel. It refuses
commands while a log is larger than it may be, and those that Redis refuses when they are sent for the first
time: nothing of them has happened, and a client may place such an order again. When no reply comes, or the
gateway dies, a client does not know. It asks for the order by its client order id; one that has given the
order an idempotency key places it again with that.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec

from adapters.backlog import allowed, filled
from lab.simulation.faulty_log import FaultyLog, LosingLog
from lab.simulation.markets import MARKETS, PRICE
from lab.simulation.next_release import Program
from lab.simulation.operator import by_treasury, entry_ms
from lab.simulation.process import Process, Surroundings
from lab.simulation.schedule import CLIENTS, Action, Dice
from lab.simulation.shortage import LOOK_MS
from lab.simulation.witness import Books, Witness, require
from protocol import streams
from protocol.codec import OLDEST_FORMAT, decode_replies, encode_commands, encode_frame
from protocol.commands import (
    CancelAllOrders,
    CancelOrder,
    Command,
    Deposit,
    LoggedCommand,
    PlaceOrder,
    Withdraw,
)
from protocol.listing import Listing, decode_configuration
from protocol.market import MarketMap
from protocol.orders import (
    OrderState,
    OrderStatus,
    OrderType,
    RejectReason,
    SelfTradePrevention,
    Side,
    TimeInForce,
)
from protocol.replies import (
    BalancesQuery,
    OpenOrdersQuery,
    OrderQuery,
    OrderReply,
    OrdersReply,
    Query,
    Refused,
    Reply,
)
from protocol.streams import COMMANDS_FIELD, QUERIES_FIELD
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots
from protocol.windows import DEFAULT_WINDOWS
from runtime.redis_clients import FullError, NotNowError
from stream_log.redis_log import Unreachable

REPLY_TIMEOUT_MS = 5_000
BEHIND_MS = 2_000
"""A shard whose oldest entry waits for longer is behind."""
OUTSTANDING_MAX = 4
REPEATS_EVERY = 10
"""Steps of a gateway, about, between two resubscriptions to its reply channel."""
LOOKS_EVERY = 8
"""Steps of a gateway, about, between two in which it looks which format the shards write."""
_KINDS = (
    *[(OrderType.LIMIT, TimeInForce.GTC)] * 9,
    (OrderType.LIMIT, TimeInForce.IOC),
    (OrderType.LIMIT, TimeInForce.FOK),
    (OrderType.LIMIT_MAKER, TimeInForce.GTC),
    (OrderType.MARKET, TimeInForce.IOC),
    (OrderType.MARKET, TimeInForce.IOC),
)

Request = tuple[str, int]
"""(reply channel, request id)."""


class NotTaken(NamedTuple):
    """What a gateway answers by itself: nothing of the command has happened, or will."""


Answer = Callable[[Reply | NotTaken | None], None]
"""What is called with the reply; with None when it will never be known."""


class Gateway(Process):
    """A gateway process, which appends commands and queries in micro-batches."""

    kind = "gateway"

    def __init__(self, surroundings: Surroundings, log: LosingLog, witness: Witness, number: int) -> None:
        super().__init__(surroundings, f"gateway {number}")
        self._witness = witness
        self._log = FaultyLog(log, self, witness)
        self._shared = log
        self._starts = 1
        self._last_id = 0
        self._format = OLDEST_FORMAT
        """The format that it writes commands in: the lowest that any shard has been switched to."""
        self._commands: dict[int, list[Command]] = {}
        self._queries: dict[int, list[Query]] = {}
        self._to_retry: list[tuple[str, bytes, list[Command] | list[Query]]] = []
        self._waiting: dict[int, tuple[int, Answer]] = {}
        self._sent: dict[int, tuple[int, Command]] = {}
        """Request id -> (shard, command) of what was sent and is waited for."""
        self._filled: dict[int, float] = {}
        """Shard -> how full its log was when that was looked at."""
        self._looked_ms = -LOOK_MS

    @property
    def reply_to(self) -> str:
        """The name of the reply channel; each start has another one."""
        return f"{self.name}.{self._starts}"

    def next_request_id(self) -> int:
        """Return a request id that this gateway has not used."""
        self._last_id += 1
        return self._last_id

    def submit(self, shard: int, command: Command, answer: Answer) -> None:
        """Add a command to the micro-batch, unless the log of a shard that it concerns is full.

        Raises:
            Violation: it should have seen that it is.
        """
        is_cancel = isinstance(command, CancelOrder | CancelAllOrders)
        of_market = self._witness.market_map.shards.get(getattr(command, "market", ""), shard)
        self._look_how_full()
        for shard_index in {shard, of_market}:
            if self._filled.get(shard_index, 0.0) > allowed(is_cancel=is_cancel):
                self.surroundings.inject(
                    f"{'a cancel' if is_cancel else 'an order'} refused: the log is full"
                )
                self._witness.refuse(command.reply_to, command.request_id)
                answer(NotTaken())
                return
            since_ms = self.surroundings.shortage.over_since_ms.get((shard_index, is_cancel))
            require(
                since_ms is None or self.surroundings.now - since_ms <= LOOK_MS,
                f"{self.name} takes a command although the log of shard {shard_index} is larger than it may "
                "be",
            )
        self._commands.setdefault(shard, []).append(command)
        self._wait(command.request_id, answer)

    def _look_how_full(self) -> None:
        """See how full the logs are, as gateways do twice a second."""
        now = self.surroundings.now
        if now - self._looked_ms < LOOK_MS:
            return
        self._looked_ms = now
        shortage = self.surroundings.shortage
        limits = {shard: shortage.limit(shard, now) for shard in shortage.log_bytes_max}
        self._filled = {
            shard: filled(0, 0, self._shared.size(shard), limit) for shard, limit in limits.items() if limit
        }

    def query(self, shard: int, query: Query, answer: Answer) -> None:
        """Add a query to the micro-batch; `answer` gets the reply."""
        self._witness.queries.add((query.reply_to, query.request_id))
        self._queries.setdefault(shard, []).append(query)
        self._wait(query.request_id, answer)

    def _wait(self, request_id: int, answer: Answer) -> None:
        self._waiting[request_id] = (self.surroundings.now + REPLY_TIMEOUT_MS, answer)

    def step(self, action: Action) -> None:
        """Give up late requests, repeat those whose answer may be lost, and send the micro-batch."""
        now = self.surroundings.now
        if self.surroundings.program is Program.NEXT and Dice(action.dice).below(LOOKS_EVERY) == 2:
            self._look_for_the_format()
        for request_id, (deadline, _) in list(self._waiting.items()):
            if deadline <= now:
                self._answer(request_id, None)
        retries, self._to_retry = self._to_retry, []
        for stream, field, batch in retries:
            if any(request.request_id in self._waiting for request in batch):
                self._append(stream, field, batch, is_first=False)
        if Dice(action.dice).below(REPEATS_EVERY) == 1:
            self._repeat_unanswered()
        commands, self._commands = self._commands, {}
        for shard, batch in commands.items():
            self._sent |= {request.request_id: (shard, request) for request in batch}
            self._append(streams.commands(shard), COMMANDS_FIELD, batch)
        queries, self._queries = self._queries, {}
        for shard, asked in queries.items():
            self._append(streams.queries(shard), QUERIES_FIELD, asked)

    def _look_for_the_format(self) -> None:
        """Read how the shards are configured, as gateways do every second."""
        shard_count = self._witness.market_map.shard_count
        try:
            values = {shard: self._log.configuration(shard) for shard in range(shard_count)}
        except Unreachable:
            return
        configurations = {
            shard: decode_configuration(value) for shard, value in values.items() if value is not None
        }
        self._format = Listing.of(configurations, shard_count).format

    def _repeat_unanswered(self) -> None:
        """Send all again whose answers may have been published to nobody."""
        by_shard: dict[int, list[Command]] = {}
        behind = {shard for shard in {shard for shard, _ in self._sent.values()} if self._is_behind(shard)}
        for shard, command in self._sent.values():
            if shard not in behind:
                by_shard.setdefault(shard, []).append(command)
        for shard, batch in by_shard.items():
            self.surroundings.inject("unanswered commands repeated")
            self._append(streams.commands(shard), COMMANDS_FIELD, batch, is_first=False)

    def _is_behind(self, shard: int) -> bool:
        """Return whether a shard has so much to do that what is sent again would only keep it from that.

        So gateways do.
        """
        position = self._shared.position(shard).stream_id
        entries = (entry.stream_id for entry in self._shared.entries(streams.commands(shard)))
        oldest = next((stream_id for stream_id in entries if stream_id > position), None)
        return oldest is not None and self.surroundings.now - oldest.ms > BEHIND_MS

    def _append(
        self, stream: str, field: bytes, batch: list[Command] | list[Query], *, is_first: bool = True
    ) -> None:
        if field == COMMANDS_FIELD:
            sent = [self._as_sent(command) for command in batch]  # type: ignore[arg-type]  # they are commands
            frame = encode_commands(sent, self.surroundings.now * 1_000, self._format)
        else:
            frame = encode_frame(batch)
        try:
            self._log.append_new_work(stream, {field: frame})
        except (FullError, NotNowError):
            self._refused(stream, field, batch, is_first=is_first)
            self._check_told(batch)
        except Unreachable:
            self._to_retry.append((stream, field, batch))

    def _refused(
        self, stream: str, field: bytes, batch: list[Command] | list[Query], *, is_first: bool
    ) -> None:
        """Redis has not appended a batch: say so, unless it may have been appended before."""
        if not is_first:
            self._to_retry.append((stream, field, batch))
            return
        for request in batch:
            if field == COMMANDS_FIELD:
                self._witness.refuse(request.reply_to, request.request_id)
            self._answer(request.request_id, NotTaken())

    def _check_told(self, batch: list[Command] | list[Query]) -> None:
        """Refuse a gateway that lets clients wait for what is nowhere.

        Raises:
            Violation: it does.
        """
        repeated = {request.request_id for _, _, retried in self._to_retry for request in retried}
        for request in batch:
            require(
                request.request_id not in self._waiting or request.request_id in repeated,
                f"{self.name} waits for request {request.request_id}, which Redis has refused",
            )

    def _as_sent(self, command: Command) -> LoggedCommand:
        """Return a command as its shard accepts it: transfers with a new treasury signature each time."""
        if not isinstance(command, Deposit | Withdraw):
            return command
        shard = self._witness.market_map.shard_of_account(command.account_id)
        return by_treasury(shard, command, entry_ms(self._shared, shard))

    def hear(self, payload: bytes) -> None:
        """Pass the replies of one frame on to those who wait."""
        for reply in decode_replies(payload):
            self._answer(reply.request_id, reply)

    def _answer(self, request_id: int, reply: Reply | NotTaken | None) -> None:
        self._sent.pop(request_id, None)
        waiting = self._waiting.pop(request_id, None)
        if waiting is not None:
            waiting[1](reply)

    def end(self) -> None:
        """Drop all requests in memory: their clients learn that the outcome is unknown."""
        waiting, self._waiting = self._waiting, {}
        self._commands, self._queries, self._to_retry, self._sent = {}, {}, [], {}
        self._format = OLDEST_FORMAT
        self._starts += 1
        for _, answer in waiting.values():
            answer(None)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is to be sent, and no reply is awaited."""
        return not (self._commands or self._queries or self._to_retry or self._waiting)


class Intent:
    """An order that a client wants once, and what it has been told of it."""

    def __init__(self, command: PlaceOrder) -> None:
        self.command = command
        self.order_ids: list[OrderId] = []
        """The orders that it was told of; more than one is too many."""
        self.refusals: set[RejectReason] = set()
        self.attempts = 0
        """Requests under way."""
        self.requests: list[Request] = []
        """Those of which something may have come."""
        self.is_unknown = False
        self.is_closed = False
        """Whether the order was closed at once, so that its client order id is free."""
        self.is_given_up = False

    @property
    def is_settled(self) -> bool:
        """Whether the client knows what became of it, or will never ask again."""
        return bool(self.order_ids or self.refusals) or self.is_given_up

    @property
    def has_key(self) -> bool:
        """Whether it has an idempotency key, so that placing it again makes no second order."""
        return bool(self.command.idempotency_key)


class Client:
    """The owner of one account, who places and cancels orders and moves funds."""

    def __init__(
        self,
        number: int,
        gateways: Sequence[Gateway],
        witness: Witness,
        stored: Callable[[], Iterable[OrderState]],
    ) -> None:
        """`stored` returns the orders that the database has."""
        self.account_id = AccountId(number + 1)
        self.intents: list[Intent] = []
        self.refused_cancels: set[str] = set()
        """Cancels that found nothing to cancel."""
        self.transfers: Counter[str] = Counter()
        """Transfer id -> what the client was told has moved."""
        self.told: Counter[str] = Counter()
        """What it heard, in words -> how often."""
        self._gateways = gateways
        self._stored = stored
        self._market_map: MarketMap = witness.market_map
        self._shard = witness.market_map.shard_of_account(self.account_id)
        self._outstanding = 0
        self._count = 0

    def act(self, dice: Dice) -> None:
        """Ask for an unknown outcome, or send a new request."""
        unknown = [intent for intent in self.intents if intent.is_unknown and not intent.attempts]
        if unknown and dice.below(2):
            self._find_out(unknown[0], dice)
        elif self._outstanding < OUTSTANDING_MAX:
            self._act(dice)

    def resolve(self, dice: Dice) -> bool:
        """Ask for all unknown outcomes; return whether there were any, or requests in flight."""
        unknown = [intent for intent in self.intents if not intent.is_settled and not intent.attempts]
        for intent in unknown:
            self._find_out(intent, dice)
        return bool(unknown) or self._outstanding > 0

    def _act(self, dice: Dice) -> None:
        gateway = self._gateways[dice.below(len(self._gateways))]
        choice = dice.below(100)
        recent = self.intents[-1 - dice.below(min(8, len(self.intents)))] if self.intents else None
        if choice < 62 or recent is None:
            self._place(Intent(self._order(dice)), gateway)
        elif choice < 80:
            command = recent.command
            by_id = recent.order_ids and dice.below(2)
            order_id, name = (recent.order_ids[0], "") if by_id else (OrderId(0), command.client_order_id)
            request = (gateway.next_request_id(), gateway.reply_to, self.account_id)
            self._count += 1
            cancel = CancelOrder(*request, command.market, order_id, name, f"x{self._count}")
            self._submit(gateway, cancel, lambda reply: self._canceled(reply, cancel.cancel_id))
        elif choice < 84:
            request = (gateway.next_request_id(), gateway.reply_to, self.account_id)
            market = MARKETS[dice.below(len(MARKETS))].symbol
            self._count += 1
            cancel_all = CancelAllOrders(*request, market, f"x{self._count}")
            self._submit(gateway, cancel_all, lambda reply: self._canceled(reply, cancel_all.cancel_id))
        elif choice < 89 and recent.has_key:
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
        # Now and then far away, where it rests for long and only those trade that must not pay as much.
        price = PRICE - 2 + dice.below(5) if dice.below(5) else PRICE - 7 + dice.below(15)
        quantity, quote_quantity = 1 + dice.below(40), 0
        by_book = False
        if order_type is OrderType.MARKET:
            price = PRICE + 8 if side is Side.BUY else PRICE - 8
            by_book = dice.below(4) > 0  # the others are as the release before wrote them
            if dice.below(2):
                quantity, quote_quantity = (
                    0,
                    market.notional(PriceTicks(PRICE), QuantityLots(quantity)) + dice.below(50),
                )
            if by_book:
                # What its gateway expects, which may be too little.
                price = PRICE - 4 + dice.below(12) if side is Side.BUY and quantity else 0
        if dice.below(16) == 0:
            price += 60 * dice.below(2)
            quantity *= 500 * dice.below(2)  # garbage, or more than the account has
        key = f"k{self._count}" if dice.below(2) else ""
        return PlaceOrder(
            0,
            "",
            self.account_id,
            self._free_name(dice) or f"c{self._count}",
            market.symbol,
            side,
            order_type,
            time_in_force,
            PriceTicks(price),
            QuantityLots(quantity),
            AssetUnits(quote_quantity),
            SelfTradePrevention(dice.below(4)),
            idempotency_key=key,
            bound_by_book=by_book,
        )

    def _free_name(self, dice: Dice) -> str:
        """Return, now and then, a client order id that was used before and is free."""
        if dice.below(4) or not self.intents:
            return ""
        chosen = self.intents[dice.below(len(self.intents))].command.client_order_id
        newest = next(intent for intent in reversed(self.intents) if intent.command.client_order_id == chosen)
        return chosen if not newest.attempts and (newest.is_closed or newest.refusals) else ""

    def _place(self, intent: Intent, gateway: Gateway) -> None:
        command = msgspec.structs.replace(
            intent.command, request_id=gateway.next_request_id(), reply_to=gateway.reply_to
        )
        if not intent.attempts and not intent.is_settled and intent not in self.intents:
            self.intents.append(intent)
        intent.attempts += 1
        request = (command.reply_to, command.request_id)
        intent.requests.append(request)
        self._submit(gateway, command, lambda reply: self._placed(intent, request, reply))

    def _placed(self, intent: Intent, request: Request, reply: Reply | NotTaken | None) -> None:
        intent.attempts -= 1
        match reply:
            case NotTaken():
                intent.requests.remove(request)
                self.told["not taken"] += 1
            case OrderReply():
                self._is_order(intent, reply.order)
            case Refused():
                intent.refusals.add(reply.reason)
                self.told["refused"] += 1
            case _:
                self.told["status unknown"] += 1
        intent.is_unknown = not intent.is_settled

    def _is_order(self, intent: Intent, order: OrderState) -> None:
        require(
            order.client_order_id == intent.command.client_order_id,
            f"account {self.account_id}: {intent.command.client_order_id} is answered with "
            f"{order.client_order_id}",
        )
        if order.order_id not in intent.order_ids:
            intent.order_ids.append(order.order_id)
        intent.is_closed = not order.status.is_open
        intent.is_unknown = False
        self.told["accepted"] += 1

    def _find_out(self, intent: Intent, dice: Dice) -> None:
        gateway = self._gateways[dice.below(len(self._gateways))]
        if intent.has_key and dice.below(2):
            self.told["placed again"] += 1
            self._place(intent, gateway)
            return
        if not intent.requests:
            # No gateway has taken it: without a key, too, it cannot become two orders.
            if dice.below(3):
                self._place(intent, gateway)
            else:
                intent.is_given_up, intent.is_unknown = True, False
            return
        command = intent.command
        request = (gateway.next_request_id(), gateway.reply_to, self.account_id)
        intent.attempts += 1
        self._query(
            gateway,
            OrderQuery(*request, command.market, OrderId(0), command.client_order_id),
            lambda reply: self._asked(intent, reply, gateway),
        )

    def _asked(self, intent: Intent, reply: Reply | NotTaken | None, gateway: Gateway) -> None:
        intent.attempts -= 1
        order = reply.order if isinstance(reply, OrderReply) else None
        if isinstance(reply, Refused) and reply.reason is RejectReason.UNKNOWN_ORDER:
            order = self._newest_stored(intent)
        order_ids = {
            order_id for sibling in self.intents if sibling is not intent for order_id in sibling.order_ids
        }
        if order is not None and order.order_id not in order_ids:
            if order.status is not OrderStatus.IN_FLIGHT:
                self._is_order(intent, order)
        elif isinstance(reply, Refused | OrderReply) and not intent.is_settled:
            if intent.has_key:
                self.told["no such order, placed again"] += 1
                self._place(intent, gateway)
            else:
                # It may be on its way still. Without a key to place it again could make two of it.
                intent.is_given_up = reply is not None
        intent.is_unknown = not intent.is_settled

    def _newest_stored(self, intent: Intent) -> OrderState | None:
        command = intent.command
        of_name = [
            order
            for order in self._stored()
            if (order.account_id, order.market, order.client_order_id)
            == (self.account_id, command.market, command.client_order_id)
        ]
        return max(of_name, key=lambda order: order.order_id, default=None)

    def _transfer(self, dice: Dice, gateway: Gateway) -> None:
        self._count += 1
        asset = self._market_map.assets[dice.below(len(self._market_map.assets))]
        kind = Withdraw if dice.below(2) else Deposit
        request = (gateway.next_request_id(), gateway.reply_to, self.account_id)
        transfer_id = f"t{self._count}"
        command = kind(*request, asset, AssetUnits(1 + dice.below(3_000)), transfer_id)

        def moved(reply: Reply | NotTaken | None) -> None:
            if reply is not None and not isinstance(reply, Refused | NotTaken):
                self.told["transferred"] += 1
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
                order_id = intent.order_ids[0] if intent.order_ids and dice.below(2) else OrderId(0)
                name = "" if order_id else intent.command.client_order_id
                query = OrderQuery(*request, intent.command.market, order_id, name)
                self._query(gateway, query, lambda reply: self._looked_for(intent, reply))

    def _looked_for(self, intent: Intent, reply: Reply | NotTaken | None) -> None:
        self._looked(reply)
        if intent.order_ids and isinstance(reply, Refused) and reply.reason is RejectReason.UNKNOWN_ORDER:
            require(
                any(order.order_id in intent.order_ids for order in self._stored()),
                f"account {self.account_id}: order {intent.order_ids[0]} was acknowledged, and does not "
                "exist",
            )

    def _canceled(self, reply: Reply | NotTaken | None, cancel_id: str) -> None:
        if isinstance(reply, OrderReply | OrdersReply):
            self.told["canceled"] += 1
        elif isinstance(reply, Refused):
            self.refused_cancels.add(cancel_id)

    def _looked(self, reply: Reply | NotTaken | None) -> None:
        if reply is not None and not isinstance(reply, NotTaken):
            self.told["answered"] += 1

    def _submit(self, gateway: Gateway, command: Command, answer: Answer) -> None:
        self._outstanding += 1
        gateway.submit(self._shard, command, self._counted(answer))

    def _query(self, gateway: Gateway, query: Query, answer: Answer) -> None:
        self._outstanding += 1
        gateway.query(self._shard, query, self._counted(answer))

    def _counted(self, answer: Answer) -> Answer:
        def counted(reply: Reply | NotTaken | None) -> None:
            self._outstanding -= 1
            answer(reply)

        return counted

    def check(self, witness: Witness) -> None:
        """Compare what the client was told with what happened.

        Raises:
            Violation: they differ.
        """
        books, account_id = witness.books, self.account_id
        sent = SentCommands(account_id, witness)
        by_name: dict[str, list[Intent]] = {}
        for intent in self.intents:
            by_name.setdefault(intent.command.client_order_id, []).append(intent)
        for name, intents in by_name.items():
            self._check_name(name, intents, books, sent)
        for owner, name in books.order_ids:
            require(owner != account_id or name in by_name, f"account {account_id} never placed {name}")
        for cancel_id in self.refused_cancels:
            require(
                (account_id, cancel_id) not in books.cancel_ids
                or outcomes_max(sent.cancels[cancel_id], DEFAULT_WINDOWS.request_ms) > 1,
                f"account {account_id}: cancel {cancel_id} was refused, but it did cancel",
            )
        for transfer_id, amount in self.transfers.items():
            require(
                books.transfers.get((account_id, transfer_id)) == amount,
                f"account {account_id}: transfer {transfer_id} was acknowledged, but did not happen",
            )

    def _check_name(self, name: str, intents: list[Intent], books: Books, sent: "SentCommands") -> None:
        """Compare the orders with a client order id with the client's intents of that id, in order."""
        account_id = self.account_id
        orders = [books.histories[order_id][0] for order_id in books.order_ids.get((account_id, name), [])]
        if any(sent.outcomes(intent) > 1 for intent in intents):
            return  # something was repeated so late that it was another request
        wanted = sum(not intent.refusals and bool(intent.requests) for intent in intents)
        require(
            len(orders) <= wanted,
            f"account {account_id}: {name} was wanted {wanted} times, and became {len(orders)} orders",
        )
        for intent in intents:
            require(
                len(intent.order_ids) + len(intent.refusals) <= 1,
                f"account {account_id}: {name} has the outcomes {intent.order_ids} {sorted(intent.refusals)}",
            )
            require(
                RejectReason.DUPLICATE_CLIENT_ORDER_ID not in intent.refusals,
                f"account {account_id}: {name} was refused as a duplicate, but was free",
            )
            for order_id in intent.order_ids:
                order = next((order for order in orders if order.order_id == order_id), None)
                require(
                    order is not None, f"account {account_id}: {name} was acknowledged as order {order_id}"
                )
                command = intent.command
                same = (command.market, command.side, command.price, command.quote_quantity)
                require(
                    order is None or same == (order.market, order.side, order.price, order.quote_quantity),
                    f"account {account_id}: {name} is not the order that was placed",
                )


class SentCommands:
    """When the commands of an account came to its shard, with repetitions."""

    def __init__(self, account_id: AccountId, witness: Witness) -> None:
        self.requests: defaultdict[Request, list[int]] = defaultdict(list)
        self.keys: defaultdict[str, list[int]] = defaultdict(list)
        self.cancels: defaultdict[str, list[int]] = defaultdict(list)
        """By cancel id."""
        for _, time, command in witness.commands:
            if command.account_id == account_id:
                self.requests[command.reply_to, command.request_id].append(time)
                if isinstance(command, PlaceOrder):
                    self.keys[command.idempotency_key].append(time)
                elif isinstance(command, CancelOrder | CancelAllOrders):
                    self.cancels[command.cancel_id].append(time)

    def outcomes(self, intent: Intent) -> int:
        """Return the maximum of outcomes of an intent: more than one if it was repeated after its window."""
        if intent.has_key:
            return outcomes_max(self.keys[intent.command.idempotency_key], DEFAULT_WINDOWS.key_ms)
        return sum(
            outcomes_max(self.requests[request_id], DEFAULT_WINDOWS.request_ms)
            for request_id in intent.requests
        )


def outcomes_max(times: Sequence[int], window_ms: int) -> int:
    """Return how many of equal requests that came at these times may have had an outcome of their own."""
    most, first = 0, 0
    for time in times:
        if not most or time - first > window_ms:
            most, first = most + 1, time
    return most


def endowment(market_map: MarketMap) -> list[tuple[int, list[Deposit]]]:
    """Return (shard, deposits) that a run begins with."""
    return [
        (
            market_map.shard_of_account(AccountId(number + 1)),
            [
                Deposit(
                    *(100 * number + place, "start", AccountId(number + 1), asset),
                    *(AssetUnits(120_000 if number else 4_000), f"start-{asset}"),
                )
                for place, asset in enumerate(market_map.assets, start=1)
            ],
        )
        for number in range(CLIENTS)
    ]
