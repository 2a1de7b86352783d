"""The witness: sees every commit, reply and message at the moment it happens, and refuses what cannot be.

It keeps a twin of every shard that never crashes, never restores, and applies each entry once, when it is
committed. Whatever the real workers go through, their events, messages, replies and state must be the twin's,
byte for byte. That shows that replay is exact, not that the engine is right: so the witness also follows the
events with books of its own, which know nothing of shards. There every trade moves the same money out of one
account and into another, no order lives twice, and nothing is skipped.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from typing_extensions import override

from engine_worker.core.conservation import recount
from engine_worker.core.shard import Shard
from engine_worker.core.snapshot import state_hash
from engine_worker.entries import NotUnderstoodError, apply_one_by_one
from lab.simulation.faulty_log import Watch
from lab.simulation.markets import OPEN_ORDERS_MAX
from lab.simulation.next_release import NEXT, Program, Running, as_run_by
from lab.simulation.process import Process, Violation
from protocol import streams
from protocol.codec import LaterFormatError, decode_messages, decode_replies, format_of
from protocol.commands import Command, MessageFrame, PlaceOrder, ShardMessage, Signed, SignedBody
from protocol.events import (
    DepthChanged,
    Event,
    FeesWithdrawn,
    FundsDeposited,
    FundsReleased,
    FundsWithdrawn,
    OrderAccepted,
    OrderClosed,
    OrderFilled,
    TradeExecuted,
)
from protocol.market import MarketMap
from protocol.orders import Balance, Liquidity, OrderState, OrderStatus, OrderType, Side
from protocol.positions import ShardPosition
from protocol.replies import OrderReply, OrdersReply, Reply
from protocol.signing import decode_signed_body
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import COMMANDS_FIELD, MESSAGES_FIELD
from protocol.units import TimeMs
from stream_log.interface import Commit, Entry
from stream_log.memory_log import MemoryStreamLog

FLOOD = "flood"
"""Where the replies to floods go: to nobody. They are no commands of clients."""


def require(holds: bool, rule: str) -> None:
    """Refuse what breaks a rule.

    Raises:
        Violation: it does.
    """
    if not holds:
        raise Violation(rule)


class Leg(NamedTuple):
    """One order's share of a trade that has happened, until its account's shard has settled it."""

    side: Side
    price: int
    quantity: int
    liquidity: Liquidity


class Taker(NamedTuple):
    """An order on its way through the book, until its last match."""

    order_id: int
    best: int
    """The best price on the other side of the book when it came."""
    trades: int
    worst: int
    """The price that is furthest from the best one of those at which it has traded."""


class Books:
    """What the events tell, followed without knowing how they come about."""

    def __init__(self, market_map: MarketMap) -> None:
        self._market_map = market_map
        self.trades: dict[str, list[TradeExecuted]] = {market.symbol: [] for market in market_map.markets}
        self.levels: dict[str, dict[Side, dict[int, int]]] = {
            market.symbol: {Side.BUY: {}, Side.SELL: {}} for market in market_map.markets
        }
        self.sequences: Counter[str] = Counter()
        self.histories: dict[int, list[OrderState]] = {}
        """Order id -> its states, in their order."""
        self.order_ids: defaultdict[tuple[int, str], list[int]] = defaultdict(list)
        """(account, client order id) -> the orders that it became, one after the other."""
        self.cancel_ids: set[tuple[int, str]] = set()
        """(account, id of a cancel that closed an order)."""
        self.transfers: dict[tuple[int, str], int] = {}
        self.fills: list[OrderFilled] = []
        self.balances: dict[tuple[int, str], Balance] = {}
        """(account, asset) -> the last balance that was told."""
        self.totals: Counter[tuple[int, str]] = Counter()
        """(account, asset) -> available and held, worked out from what came in and went out."""
        self.fees: Counter[str] = Counter()
        self.outside: Counter[str] = Counter()
        """Asset -> deposited less withdrawn."""
        self.owned: Counter[str] = Counter()
        self._by_book: defaultdict[tuple[int, str], set[bool]] = defaultdict(set)
        """(account, client order id) -> whether what was placed under it is bounded by the market's own book.
        """
        self._open: Counter[tuple[int, str]] = Counter()
        """(account, market; "" for all markets) -> its open orders."""
        self._takers: dict[str, Taker] = {}
        """Market -> who traded last."""
        self._paid: dict[int, Taker] = {}
        """Order -> what it has met, until its account hears of it."""
        self.legs: dict[tuple[str, int, int], Leg] = {}
        """(market, trade, order) -> a share that is not settled yet."""

    def follow(self, event: Event) -> None:
        """Take one event in.

        Raises:
            Violation: it cannot be true after those before.
        """
        match event:
            case TradeExecuted():
                self._count(event.market, event.sequence)
                self._trade(event)
            case DepthChanged():
                self._count(event.market, event.sequence)
                self._depth(event)
            case OrderAccepted():
                self._accept(event)
            case OrderFilled():
                self._fill(event)
            case OrderClosed():
                self._close(event)
            case FundsDeposited() | FundsWithdrawn():
                self._transfer(event)
            case FeesWithdrawn():
                self.fees[event.asset] -= event.amount
                self.outside[event.asset] -= event.amount
            case FundsReleased():
                self._told(event.account_id, event.balances)

    def check_money(self) -> None:
        """Compare the money of all accounts and the house, and in transit, with deposits and withdrawals."""
        on_the_way: Counter[str] = Counter()
        for (symbol, _, _), leg in self.legs.items():
            market = self._market_map.by_symbol[symbol]
            sign = 1 if leg.side is Side.BUY else -1
            on_the_way[market.base] += sign * market.base_units(leg.quantity)  # type: ignore[arg-type]
            on_the_way[market.quote] -= sign * market.notional(leg.price, leg.quantity)  # type: ignore[arg-type]
        for asset in self._market_map.assets:
            owned, outside = self.owned[asset] + self.fees[asset] + on_the_way[asset], self.outside[asset]
            require(
                owned == outside, f"money is not conserved: {owned} units of {asset}, but {outside} came in"
            )

    def _count(self, market: str, sequence: int) -> None:
        self.sequences[market] += 1
        expected = self.sequences[market]
        require(sequence == expected, f"{market}: sequence {expected} should come next, {sequence} does")

    def place(self, command: PlaceOrder) -> None:
        """Record a command that a client has placed, before any outcome of it."""
        by_book = command.order_type is OrderType.MARKET and command.bound_by_book
        self._by_book[command.account_id, command.client_order_id].add(by_book)

    def _check_taker(self, trade: TradeExecuted) -> None:
        """Check how many resting orders a taker meets, and note what it pays."""
        taker = self._takers.get(trade.market)
        if taker is None or taker.order_id != trade.taker_order_id:
            # What the events tell of the book comes after the trades, so this is the book that the order has
            # met.
            opposite = self.levels[trade.market][trade.taker_side.opposite]
            best = (max if trade.taker_side is Side.SELL else min)(opposite, default=trade.price)
            taker = Taker(trade.taker_order_id, best, 0, trade.price)
        is_worse = abs(trade.price - taker.best) > abs(taker.worst - taker.best)
        worst = trade.price if is_worse else taker.worst
        taker = self._takers[trade.market] = taker._replace(trades=taker.trades + 1, worst=worst)
        self._paid[taker.order_id] = taker
        market = self._market_map.by_symbol[trade.market]
        require(
            taker.trades <= market.matches_max,
            f"{trade.market}: order {taker.order_id} meets more than {market.matches_max} orders",
        )

    def _check_price(self, order: OrderState) -> None:
        """Check that a MARKET order has not paid more than its market's own book allows.

        Its account hears of it once it has traded.
        """
        taker = self._paid.pop(order.order_id, None)
        if taker is not None and self._by_book[order.account_id, order.client_order_id] == {True}:
            slippage_ppm = self._market_map.by_symbol[order.market].market_slippage_ppm
            require(
                abs(taker.worst - taker.best) * 1_000_000 <= taker.best * slippage_ppm,
                f"{order.market}: MARKET order {order.order_id} trades at {taker.worst}, the best price was "
                f"{taker.best}",
            )

    def _trade(self, trade: TradeExecuted) -> None:
        self._check_taker(trade)
        trades = self.trades[trade.market]
        trades.append(trade)
        require(
            trade.trade_id == len(trades),
            f"{trade.market}: trade {len(trades)} should come next, {trade.trade_id} does",
        )
        for order_id, side, liquidity in (
            (trade.taker_order_id, trade.taker_side, Liquidity.TAKER),
            (trade.maker_order_id, trade.taker_side.opposite, Liquidity.MAKER),
        ):
            self.legs[trade.market, trade.trade_id, order_id] = Leg(
                side, trade.price, trade.quantity, liquidity
            )

    def _depth(self, event: DepthChanged) -> None:
        levels = self.levels[event.market]
        for change in event.changes:
            if change.quantity:
                levels[change.side][change.price] = change.quantity
            else:
                levels[change.side].pop(change.price, None)
        bids, asks = levels[Side.BUY], levels[Side.SELL]
        require(not (bids and asks) or max(bids) < min(asks), f"{event.market}: the book is crossed")

    def _accept(self, event: OrderAccepted) -> None:
        order = event.order
        of_name = self.order_ids[order.account_id, order.client_order_id]
        require(
            order.order_id not in self.histories
            and not any(self.histories[order_id][-1].status.is_open for order_id in of_name),
            f"account {order.account_id}: {order.client_order_id} is order {order.order_id}, and {of_name} "
            "are not closed",
        )
        of_name.append(order.order_id)
        require(order.status is OrderStatus.NEW, f"order {order.order_id} is accepted as {order.status.name}")
        self.histories[order.order_id] = [order]
        self._check_price(order)
        in_market = self._market_map.by_symbol[order.market].open_orders_max
        for symbol, most in ((order.market, in_market), ("", OPEN_ORDERS_MAX)):
            self._open[order.account_id, symbol] += 1
            require(
                self._open[order.account_id, symbol] <= most,
                f"account {order.account_id} has more than {most} open orders "
                f"{f'on {symbol}' if symbol else 'in all'}",
            )
        self._told(order.account_id, event.balances)

    def _fill(self, event: OrderFilled) -> None:
        order, asset = event.order, event.fee_asset
        market = self._market_map.by_symbol[order.market]
        leg = self.legs.pop((order.market, event.trade_id, order.order_id), None)
        shown = Leg(order.side, event.price, event.quantity, event.liquidity)
        require(
            leg == shown,
            f"order {order.order_id}: trade {event.trade_id} of {order.market} is {leg}, settled is {shown}",
        )
        before = self._known(order, "filled")
        require(
            order.cum_quantity == before.cum_quantity + event.quantity
            and order.cum_quote == before.cum_quote + event.quote
            and event.quote == market.notional(event.price, event.quantity),
            f"order {order.order_id}: trade {event.trade_id} does not add up",
        )
        base = market.base_units(event.quantity)
        paid_asset, paid, received = (
            (market.quote, event.quote, base) if order.side is Side.BUY else (market.base, base, event.quote)
        )
        self._move(order.account_id, paid_asset, -paid)
        self._move(order.account_id, asset, received - event.fee)
        self.fees[asset] += event.fee
        self.histories[order.order_id].append(order)
        self.fills.append(event)
        if not order.status.is_open:
            self._ended(order)
        self._told(order.account_id, event.balances)

    def _close(self, event: OrderClosed) -> None:
        self._known(event.order, "closed")
        self._ended(event.order)
        if event.cancel_id:
            self.cancel_ids.add((event.order.account_id, event.cancel_id))
        self.histories[event.order.order_id].append(event.order)
        self._told(event.order.account_id, event.balances)

    def _ended(self, order: OrderState) -> None:
        for symbol in (order.market, ""):
            self._open[order.account_id, symbol] -= 1

    def _known(self, order: OrderState, change: str) -> OrderState:
        history = self.histories.get(order.order_id)
        require(
            history is not None and history[-1].status.is_open,
            f"order {order.order_id} is {change}, but is not open",
        )
        assert history is not None
        return history[-1]

    def _transfer(self, event: FundsDeposited | FundsWithdrawn) -> None:
        amount = event.amount if isinstance(event, FundsDeposited) else -event.amount
        key = (event.account_id, event.transfer_id)
        require(key not in self.transfers, f"account {key[0]}: transfer {key[1]} happens twice")
        self.transfers[key] = amount
        self.outside[event.asset] += amount
        self._move(event.account_id, event.asset, amount)
        self._told(event.account_id, event.balances)

    def _move(self, account_id: int, asset: str, amount: int) -> None:
        self.totals[account_id, asset] += amount
        self.owned[asset] += amount

    def _told(self, account_id: int, balances: Sequence[Balance]) -> None:
        for balance in balances:
            self.balances[account_id, balance.asset] = balance
            told, is_so = balance.available + balance.held, self.totals[account_id, balance.asset]
            require(
                told == is_so, f"account {account_id}: told of {told} units of {balance.asset}, has {is_so}"
            )


def _is_later(entry: Entry) -> bool:
    """Return whether an entry is a frame that the next release wrote in its own format."""
    return any(
        format_of(entry.fields[field]) == NEXT.format
        for field in (COMMANDS_FIELD, MESSAGES_FIELD)
        if field in entry.fields
    )


class Witness(Watch):
    """Sees every write of every process, applies the input to twins of the shards, and compares."""

    def __init__(self, market_map: MarketMap, log: MemoryStreamLog, program: Program = Program.THIS) -> None:
        """See what is done on `log`; the twins run `program`.

        When that is the next release, the input is kept for replays.
        """
        self.market_map = market_map
        self.program = program
        self.books = Books(market_map)
        self.happened: list[tuple[int, StreamId, list[Event]]] = []
        """(shard, id of the entry in the event log, its events), as they were committed."""
        self.commands: list[tuple[int, TimeMs, Command]] = []
        """(shard, time, command), as they were committed."""
        self.requests: set[tuple[str, int]] = set()
        """(reply_to, request id) of the committed commands of clients, operators and forgers."""
        self.refused: set[tuple[str, int]] = set()
        """(reply_to, request id) of commands of which a gateway has said that nothing of them has happened.
        """
        self.queries: set[tuple[str, int]] = set()
        """(reply_to, request id) of what was asked, as opposed to commanded."""
        self.garbage: list[tuple[str, StreamId]] = []
        """(stream, id) of entries that nobody can read."""
        self._log = log
        self._leaders: dict[int, Process] = {}
        shards = range(market_map.shard_count)
        self._twins = [self._new_shard(shard, program) for shard in shards]
        self._inputs: list[list[Entry]] = [[] for _ in shards]
        """What each shard has applied, when it is kept."""
        self._later_from: dict[int, StreamId] = {}
        """Shard -> the first entry that only the next release reads: a switch or its messages."""
        self.positions = [STREAM_START for _ in shards]
        """Up to where each twin is."""
        self._hashes: dict[int, tuple[StreamId, str]] = {}
        self._replies: defaultdict[tuple[str, int], list[Reply]] = defaultdict(list)

    def _new_shard(self, index: int, program: Program) -> Shard:
        return as_run_by(program, Shard(index, MarketMap.placed([], self.market_map.shard_count)))

    def twin(self, shard: int) -> Shard:
        """Return the twin of a shard at its last commit; callers must not change it."""
        return self._twins[shard]

    def knows_all_markets(self) -> bool:
        """Return whether every shard knows every market by now."""
        return all(
            twin.state.market_map.by_symbol.keys() == self.market_map.by_symbol.keys() for twin in self._twins
        )

    def leader(self, shard: int) -> Process | None:
        """Return the process that took the shard over last, or None."""
        return self._leaders.get(shard)

    def refuse(self, reply_to: str, request_id: int) -> None:
        """Note that a gateway says of a command that nothing of it has happened, or will.

        Raises:
            Violation: it has happened.
        """
        self.refused.add((reply_to, request_id))
        self._check_refused(reply_to, request_id)

    def _check_refused(self, reply_to: str, request_id: int) -> None:
        request = (reply_to, request_id)
        require(
            request not in self.refused or request not in self.requests,
            f"{reply_to} has said that nothing happened of request {request_id}, and it was committed",
        )

    @override
    def took_over(self, process: Process, shard: int, position: ShardPosition) -> None:
        self._leaders[shard] = process

    @override
    def committed(self, process: Process, commit: Commit) -> None:
        shard = commit.shard
        leader = self._leaders.get(shard)
        require(
            process is leader,
            f"{process.name} commits, but {leader and leader.name} has taken over shard {shard}",
        )
        require(
            commit.expected.stream_id == self.positions[shard],
            f"shard {shard}: a commit follows on {commit.expected.stream_id}, done is "
            f"{self.positions[shard]}",
        )
        inputs = streams.commands(shard)
        entries = self._log.read({inputs: commit.expected.stream_id}, 1_000_000, 0)
        twin = self._twins[shard]
        for entry in entries:
            if entry.stream_id > commit.stream_id:
                break
            self._apply(twin, entry)
            if self.program is Program.NEXT:
                self._inputs[shard].append(entry)
                if shard not in self._later_from and (twin.state.format == NEXT.format or _is_later(entry)):
                    self._later_from[shard] = entry.stream_id
        output = twin.take()
        self.positions[shard] = commit.stream_id
        require(
            commit.events == output.frame,
            f"shard {shard}: the events up to {commit.stream_id} are not those of a replay",
        )
        self._check_outbox(commit, output.outbox)
        for reply_to, reply in output.replies:
            self._replies[reply_to, reply.request_id].append(reply)
        if output.events:
            self.happened.append((shard, self._log.last_id(streams.events(shard)), output.events))
            for event in output.events:
                self.books.follow(event)
            self.books.check_money()

    def _apply(self, twin: Shard, entry: Entry) -> None:
        try:
            for command in apply_one_by_one(twin, entry):
                instruction = decode_signed_body(command.command) if isinstance(command, Signed) else command
                if isinstance(instruction, SignedBody | Command) and instruction.reply_to != FLOOD:
                    self.requests.add((instruction.reply_to, instruction.request_id))
                    self._check_refused(instruction.reply_to, instruction.request_id)
                if isinstance(instruction, PlaceOrder):
                    self.books.place(instruction)
                if isinstance(instruction, Command):
                    self.commands.append((twin.state.index, twin.state.time, instruction))
        except NotUnderstoodError:
            return

    def _check_outbox(self, commit: Commit, outbox: Sequence[tuple[int, int, ShardMessage]]) -> None:
        sent: dict[int, MessageFrame] = {
            target: decode_messages(frame) for target, frame in commit.outbox.items()
        }
        told = [
            (target, frame.first_sequence + number, message)
            for target, frame in sent.items()
            for number, message in enumerate(frame.messages)
        ]
        require(
            sorted(told, key=lambda message: message[:2]) == sorted(outbox, key=lambda message: message[:2]),
            f"shard {commit.shard}: the messages of {commit.stream_id} are not those of a replay",
        )

    @override
    def published(self, process: Process, messages: Sequence[tuple[str, bytes]]) -> None:
        """Check that a reply says only what is committed."""
        for channel, payload in messages:
            reply_to = channel.removeprefix("reply:")
            for reply in decode_replies(payload):
                if (reply_to, reply.request_id) in self.queries:
                    self._check_answer(reply)
                else:
                    require(
                        reply in self._replies[reply_to, reply.request_id],
                        f"{process.name} replies to {reply_to} what is not committed: {reply}",
                    )

    def _check_answer(self, reply: Reply) -> None:
        orders: Sequence[OrderState] = ()
        if isinstance(reply, OrderReply):
            orders = (reply.order,)
        elif isinstance(reply, OrdersReply):
            orders = reply.orders
        for order in orders:
            if order.status is not OrderStatus.IN_FLIGHT:
                history = self.books.histories.get(order.order_id, [])
                require(order in history, f"an answer tells of an order as it never was: {order}")

    def compare_state(self, shard: Shard, stream_id: StreamId) -> None:
        """Compare a worker's state with the twin's, when both are at the same place."""
        index = shard.state.index
        if stream_id != self.positions[index]:
            return
        with Running(self.program):
            self._compare_state(shard, stream_id)

    def _compare_state(self, shard: Shard, stream_id: StreamId) -> None:
        index = shard.state.index
        newest_hash = self._hashes.get(index)
        if newest_hash is None or newest_hash[0] != stream_id:
            newest_hash = self._hashes[index] = (stream_id, state_hash(self._twins[index]))
        require(
            state_hash(shard) == newest_hash[1],
            f"shard {index}: the state at {stream_id} is not that of a replay from the beginning",
        )

    def check_twins(self) -> None:
        """Let the twins check themselves, and compare their books with those that the events tell."""
        books = self.books
        settled: Counter[str] = Counter()
        for twin in self._twins:
            twin.check_invariants()
            for asset, *_, amount in recount(twin.state):
                settled[asset] += amount
            for account_id, account in twin.state.accounts.items():
                for balance in account.balances():
                    told = books.balances.get((account_id, balance.asset))
                    require(
                        told == balance or (told is None and not balance.available + balance.held),
                        f"account {account_id} has {balance}, the events tell {told}",
                    )
            for symbol in twin.state.markets:
                depth, levels = twin.depth(symbol), books.levels[symbol]
                require(
                    (dict(depth.bids), dict(depth.asks)) == (levels[Side.BUY], levels[Side.SELL]),
                    f"{symbol}: the book is not what the events tell",
                )
        require(
            not any(settled.values()),
            f"settlements do not sum to zero although all is quiet: {dict(settled)}",
        )
        require(not books.legs, f"never settled: {list(books.legs)[:3]}")

    def check_replays(self) -> None:
        """Let both releases replay all that each shard has applied, if both had a part in it.

        The next one comes to the same state. So does this one when the shard was not switched; otherwise it
        stops at the very entry that switches it, or that a switched shard has sent.
        """
        for index, entries in enumerate(self._inputs if self.program is Program.NEXT else ()):
            self._replay(index, entries, Program.NEXT, None)
            self._replay(index, entries, Program.THIS, self._later_from.get(index))

    def _replay(
        self, index: int, entries: Sequence[Entry], program: Program, stops_at: StreamId | None
    ) -> None:
        shard, stopped_at = self._new_shard(index, program), None
        with Running(program):
            for entry in entries:
                try:
                    for _ in apply_one_by_one(shard, entry):
                        pass
                except NotUnderstoodError:
                    continue
                except LaterFormatError:
                    stopped_at = entry.stream_id
                    break
            shard.take()
        require(
            stopped_at == stops_at,
            f"shard {index}: a replay by {program.value} stops at {stopped_at}, it should at {stops_at}",
        )
        twin = self._twins[index]
        with Running(self.program):
            is_same = (shard.state.checksum, state_hash(shard)) == (twin.state.checksum, state_hash(twin))
        require(
            is_same or stops_at is not None,
            f"shard {index}: a replay by {program.value} comes to another state",
        )

    def events_of(self, shard: int) -> list[tuple[StreamId, list[Event]]]:
        """Return all (id, events) that a shard's event log has ever held."""
        return [(stream_id, events) for owner, stream_id, events in self.happened if owner == shard]
