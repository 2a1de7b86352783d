"""An order's story: the request, the decisions, its place in the queue, every fill, and its end.

It comes from a replay of the order's shards: the account's, and the market's if that is another one.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
import psycopg

from engine_worker.core.shard import Shard
from engine_worker.entries import NotUnderstoodError, Skipped, applicable_commands, apply_one_by_one, skipped
from engine_worker.replay import Replay
from history.past import Past, PastError, Progress, ShardPast, no_progress, steps, time_text
from protocol import streams
from protocol.codec import UnreadItem, decode_command_items, decode_message_items
from protocol.commands import CancelAllOrders, CancelOrder, LoggedCommand, MatchOrder, PlaceOrder
from protocol.events import Event, FundsReleased, OrderAccepted, OrderClosed, OrderFilled, TradeExecuted
from protocol.market import SHARD_COUNT_MAX, Market, MarketMap
from protocol.orders import Liquidity, OrderState, OrderType, Side
from protocol.replies import Refused
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import COMMANDS_FIELD, MESSAGES_FIELD
from protocol.units import AccountId, OrderId, QuantityLots
from stream_log.interface import Entry


class Step(msgspec.Struct, frozen=True):
    """One step of an order's story: what happened at one entry of a stream (`time` in ms)."""

    time: int
    stream: str
    stream_id: str
    what: str
    """command, refused, skipped, held, sent, reached, accepted, queued, filled, closed."""
    text: str
    facts: dict[str, Any]
    rows: list[str] = []
    """Where the database has it."""


class Story(msgspec.Struct, frozen=True):
    """One order's steps in the order of time; `order_id` is None when it was refused before it got one."""

    order_id: int | None
    account_id: int
    client_order_id: str
    market: str
    status: str
    steps: list[Step]


def order_story(
    past: Past, connection: psycopg.Connection[Any] | None, order_id: int, progress: Progress = no_progress
) -> Story:
    """Tell the story of an order that got a number.

    Raises:
        PastError: neither the archive nor the log reaches back to it, or there is no such order.
    """
    shard_past = _shard_of_order(past, order_id)
    replay = _before_order(shard_past, connection, order_id)
    number = order_id // SHARD_COUNT_MAX
    for entry in steps(replay, shard_past, shard_past.end(), progress):
        replay.shard.take()
        if replay.shard.state.order_count >= number:
            return _Teller(past, connection, progress).tell(shard_past, entry, order_id=order_id)
    raise PastError(
        f"there is no order {order_id}: shard {shard_past.shard} has given {replay.shard.state.order_count} "
        "numbers"
    )


def client_order_stories(
    past: Past,
    connection: psycopg.Connection[Any] | None,
    account_id: int,
    client_order_id: str,
    progress: Progress = no_progress,
) -> list[Story]:
    """Return the stories of an account's attempts to place an order with this id, oldest first.

    They include refused attempts.

    Raises:
        PastError: there is none in the archive or the log.
    """
    shard_past = past.of_account(account_id)
    entries: list[tuple[Entry, int | PlaceOrder]] = []
    name = client_order_id.encode()
    for entry in _all_entries(shard_past, progress):
        passed_over = _skipped(entry)
        frame = (entry if passed_over is None else passed_over).fields.get(COMMANDS_FIELD, b"")
        if name in frame:
            entries += [
                (entry, number if passed_over is None else command)
                for number, command in enumerate(_applied_commands(frame, shard_past, past.market_map))
                if isinstance(command, PlaceOrder)
                and (command.account_id, command.client_order_id) == (account_id, client_order_id)
            ]
    if not entries:
        raise PastError(
            f"account {account_id} has placed no order {client_order_id!r}, as far as archive and log reach "
            f"back (to {_oldest(shard_past)})"
        )
    teller = _Teller(past, connection, progress)
    return [
        teller.tell_skipped(shard_past, entry, which)
        if isinstance(which, PlaceOrder)
        else teller.tell(shard_past, entry, number=which)
        for entry, which in entries
    ]


def _shard_of_order(past: Past, order_id: int) -> ShardPast:
    shard = order_id % SHARD_COUNT_MAX
    if not 0 <= shard < len(past.shards) or order_id < SHARD_COUNT_MAX:
        raise PastError(f"there is no order {order_id}: its number names shard {shard}, which does not exist")
    return past.shards[shard]


def _oldest(past: ShardPast) -> str:
    moments = past.moments()
    return time_text(moments[-1].time) if moments else "nowhere"


def _before_order(past: ShardPast, connection: psycopg.Connection[Any] | None, order_id: int) -> Replay:
    """Return a replay that begins before the order got its number."""
    row = None
    if connection is not None:
        row = connection.execute(
            "SELECT (extract(epoch from accepted_time) * 1000)::bigint FROM orders WHERE order_id = %s",
            (order_id,),
        ).fetchone()
    bound: int | None = row[0] if row else None
    for moment in past.moments():
        if bound is not None and moment.time >= bound:
            continue
        replay = past.replay_from(lambda earlier, chosen=moment: earlier.stream_id == chosen.stream_id, "it")  # type: ignore[misc]
        if replay.shard.state.order_count < order_id // SHARD_COUNT_MAX:
            return replay
    raise PastError(f"the archive does not reach back to order {order_id}, only to {_oldest(past)}")


def _all_entries(past: ShardPast, progress: Progress) -> Iterator[Entry]:
    """Yield every remaining entry, without applying it."""
    moments = past.moments()
    position = moments[-1].stream_id if moments else STREAM_START
    total, done = past.count_after(position), 0
    while entries := past.entries(position, 1_000):
        yield from entries
        position = entries[-1].stream_id
        done += len(entries)
        progress(done, max(total, done))


def _skipped(entry: Entry) -> Skipped | None:
    try:
        return skipped(entry)
    except NotUnderstoodError:
        return None


def _applied_commands(frame: bytes, past: ShardPast, market_map: MarketMap) -> list[LoggedCommand]:
    try:
        return applicable_commands(frame, past.shard, market_map)
    except NotUnderstoodError:
        return []


def _commands(frame: bytes) -> list[LoggedCommand]:
    try:
        return [
            command for command in decode_command_items(frame).items if not isinstance(command, UnreadItem)
        ]
    except msgspec.MsgspecError:
        return []


def _is_over(story_steps: list[Step]) -> bool:
    """Return whether an order has ended with one of these steps."""
    return any(step.what == "closed" or step.facts.get("status") == "FILLED" for step in story_steps)


class _Teller:
    """Puts one story together."""

    def __init__(self, past: Past, connection: psycopg.Connection[Any] | None, progress: Progress) -> None:
        self._past = past
        self._markets: MarketMap = past.market_map
        self._connection = connection
        self._progress = progress

    def tell(self, past: ShardPast, entry: Entry, *, order_id: int = 0, number: int | None = None) -> Story:
        """Return the story of order `order_id`, or of the `number`th order, which `entry` has created.

        The number counts the commands that are applied.
        """
        replay = self._replay_before(past, entry.stream_id)
        shard = replay.shard
        order, command, story_steps = self._placement(past, entry, shard, order_id, number)
        if order is None:
            return Story(
                None, command.account_id, command.client_order_id, command.market, "REFUSED", story_steps
            )
        market_past = self._past.of_market(order.market)
        if market_past is not past:
            story_steps += self._sent(past, market_past, entry, order)
            story_steps += self._at_market(market_past, entry, order)
        replay.position = entry.stream_id
        status = order.status.name
        if _is_over(story_steps):
            return self._story(order, story_steps, status)
        for later in steps(replay, past, past.end(), self._progress):
            output = shard.take()
            later_steps = self._events(past.shard, later.stream_id, output.events, order, shard, later)
            if past is not market_past and not later_steps and self._is_gone(shard, order):
                # No event says that a market has refused an order: it is gone, and the reply has the reason.
                reply = next((reply for _, reply in output.replies if isinstance(reply, Refused)), None)
                reason = reply.reason if reply is not None else ""
                later_steps = [
                    self._step(
                        past.shard,
                        later.stream_id,
                        "refused",
                        f"refused by its market: {_words(reason)}",
                        {"reason": reason},
                    )
                ]
                return self._story(order, story_steps + later_steps, "REFUSED")
            story_steps += later_steps
            if _is_over(later_steps):
                break
        last = next(
            (step.facts["status"] for step in reversed(story_steps) if "status" in step.facts), status
        )
        return self._story(order, story_steps, last)

    def _placement(
        self, past: ShardPast, entry: Entry, shard: Shard, order_id: int, number: int | None
    ) -> tuple[OrderState | None, PlaceOrder, list[Step]]:
        """Apply `entry`; return the order that the command made (None: refused), the command, and its steps.

        The parameters are those of `tell`.
        """
        placed: tuple[OrderState | None, PlaceOrder, list[Step]] | None = None
        for index, command in enumerate(apply_one_by_one(shard, entry)):
            output = shard.take()
            if placed is not None:
                # What else is in the entry has to be applied, too, and may be about the order.
                order, _, placement = placed
                if order is not None:
                    placement += self._events(past.shard, entry.stream_id, output.events, order, shard, entry)
                continue
            if not isinstance(command, PlaceOrder):
                continue
            order, refusal = None, None
            if number is not None:
                if index != number:
                    continue
                order = self._placed(shard, command, output.events)
                refusal = next((reply for _, reply in output.replies if isinstance(reply, Refused)), None)
            else:
                order = self._placed(shard, command, output.events)
                if order is None or order.order_id != order_id:
                    continue
            placement = [self._command_step(past, entry, command)]
            if order is None:
                reason = refusal.reason if refusal is not None else "answered like the first attempt"
                text = f"refused: {_words(reason)}"
                placement.append(self._step(past.shard, entry.stream_id, "refused", text, {"reason": reason}))
            else:
                placement += self._events(past.shard, entry.stream_id, output.events, order, shard)
            placed = (order, command, placement)
        assert placed is not None, "the entry was chosen for this command"
        return placed

    def _story(self, order: OrderState, story_steps: list[Step], status: str) -> Story:
        story_steps.sort(key=lambda step: step.time)
        last = next(
            (step.facts["status"] for step in reversed(story_steps) if "status" in step.facts), status
        )
        return Story(
            order.order_id,
            order.account_id,
            order.client_order_id,
            order.market,
            status if status == "REFUSED" else last,
            story_steps,
        )

    def _replay_before(self, past: ShardPast, stream_id: StreamId) -> Replay:
        replay = past.replay_from(lambda moment: moment.stream_id < stream_id, time_text(stream_id.ms))
        for _ in steps(replay, past, stream_id.preceding(), self._progress):
            replay.shard.take()
        return replay

    def _placed(self, shard: Shard, command: PlaceOrder, events: list[Event]) -> OrderState | None:
        """Return the order that the command made, as it was at first."""
        for event in events:
            if (
                isinstance(event, OrderAccepted)
                and event.order.client_order_id == command.client_order_id
                and (event.order.account_id == command.account_id)
            ):
                return event.order
        account = shard.state.accounts.get(AccountId(command.account_id))
        placed = account.client_order_ids.get(command.client_order_id) if account is not None else None
        if account is None or placed is None or placed.request_id != command.request_id:
            return None
        order = account.open_orders.get(command.market, {}).get(placed.order_id)
        return order if order is not None and order.order_id == placed.order_id else None

    def _is_gone(self, shard: Shard, order: OrderState) -> bool:
        account = shard.state.accounts[AccountId(order.account_id)]
        is_open = OrderId(order.order_id) in account.open_orders.get(order.market, {})
        return not is_open

    def tell_skipped(self, past: ShardPast, entry: Entry, command: PlaceOrder) -> Story:
        """Tell of a command in an entry that an operator has had skipped."""
        story_steps = [self._command_step(past, entry, command), *self._skip_steps(past, entry)]
        return Story(
            None, command.account_id, command.client_order_id, command.market, "SKIPPED", story_steps
        )

    def _skip_steps(self, past: ShardPast, entry: Entry) -> list[Step]:
        passed_over = _skipped(entry)
        if passed_over is None:
            return []
        operator, reason = passed_over.instruction.operator, passed_over.instruction.reason
        text = f"its entry was skipped by {operator}: {reason}"
        facts = {"operator": operator, "reason": reason}
        return [self._step(past.shard, entry.stream_id, "skipped", text, facts)]

    def _command_step(self, past: ShardPast, entry: Entry, command: PlaceOrder) -> Step:
        market = self._markets.by_symbol.get(command.market)
        facts = {
            "account": command.account_id, "clientOrderId": command.client_order_id, "market": command.market,
            "side": command.side.name, "type": command.order_type.name,
            "timeInForce": command.time_in_force.name,
            "selfTradePrevention": command.self_trade_prevention.name, "requestId": command.request_id,
            "replyTo": command.reply_to,
        }  # fmt: skip
        text = (
            f"account {command.account_id} asks: {command.side.name} {command.order_type.name} "
            f"{command.time_in_force.name}"
        )
        if market is not None:
            facts["price"] = market.format_price(command.price)
            if command.quantity:
                facts["quantity"] = market.format_quantity(command.quantity)
                text += f" {facts['quantity']} {market.base}"
            else:
                facts["quoteQuantity"] = market.format_quote(command.quote_quantity)
                text += f" for {facts['quoteQuantity']} {market.quote}"
            if not command.bound_by_book:
                limit = "protected at" if command.order_type is OrderType.MARKET else "at"
                text += f" {limit} {facts['price']}"
            elif command.price:
                text += f", estimated at {facts['price']} at most"
        text += f", as {command.client_order_id!r}, through {command.reply_to}"
        return self._step(past.shard, entry.stream_id, "command", text, facts)

    def _sent(self, past: ShardPast, market_past: ShardPast, entry: Entry, order: OrderState) -> list[Step]:
        (asset, amount), target = _held(self._market(order), order), market_past.shard
        facts = {"asset": asset, "amount": amount}
        return [
            self._step(past.shard, entry.stream_id, "held", f"{amount} {asset} held", facts),
            self._step(
                past.shard, entry.stream_id, "sent", f"sent to the market's shard {target}", {"shard": target}
            ),
        ]

    def _at_market(self, past: ShardPast, entry: Entry, order: OrderState) -> list[Step]:
        """Tell what happened on the market's shard, when that is another one than the account's."""
        since = entry.stream_id.ms
        position = past.replay_from(lambda moment: moment.time < since, time_text(since))
        arrival: Entry | None = None
        for later_entry in steps(position, past, past.end(), self._progress):
            position.shard.take()
            if later_entry.stream_id.ms >= since and _has_match(later_entry, order.order_id):
                arrival = later_entry
                break
        if arrival is None:
            return []
        replay = self._replay_before(past, arrival.stream_id)
        market_steps = [
            self._step(
                past.shard, arrival.stream_id, "reached", f"reached shard {past.shard}", {"shard": past.shard}
            )
        ]
        market_steps += self._skip_steps(past, arrival)
        for message in apply_one_by_one(replay.shard, arrival):
            events = replay.shard.take().events
            if isinstance(message, MatchOrder) and message.order_id == order.order_id:
                market_steps += self._trades(past.shard, arrival.stream_id, events, order)
                market_steps += self._queue(past.shard, arrival.stream_id, order, replay.shard)
        return market_steps

    def _events(
        self,
        shard: int,
        stream_id: StreamId,
        events: list[Event],
        order: OrderState,
        state: Shard,
        entry: Entry | None = None,
    ) -> list[Step]:
        event_steps: list[Step] = []
        trades = {
            event.trade_id: event
            for event in events
            if isinstance(event, TradeExecuted) and event.market == order.market
        }
        market = self._market(order)
        for event in events:
            if isinstance(event, TradeExecuted | FundsReleased) or not isinstance(
                event, OrderAccepted | OrderFilled | OrderClosed
            ):
                continue
            if event.order.order_id != order.order_id:
                continue
            if isinstance(event, OrderAccepted):
                event_steps += self._accepted(shard, stream_id, event)
                event_steps += self._queue(shard, stream_id, order, state)
            elif isinstance(event, OrderFilled):
                event_steps.append(self._filled(shard, stream_id, event, trades.get(event.trade_id), market))
            else:
                event_steps.append(self._closed(shard, stream_id, event, entry))
        return event_steps

    def _accepted(self, shard: int, stream_id: StreamId, event: OrderAccepted) -> list[Step]:
        order = event.order
        market = self._market(order)
        asset, held = _held(market, order)
        (balance,) = event.balances
        facts = {
            "asset": asset, "amount": held, "available": market.format_amount(balance.available, asset),
            "held": market.format_amount(balance.held, asset),
        }  # fmt: skip
        left = f"{held} {asset} held, {facts['available']} stay available"
        return [
            self._step(shard, stream_id, "held", left, facts),
            self._step(
                shard, stream_id, "accepted", f"accepted as order {order.order_id}",
                {"orderId": order.order_id, "status": order.status.name},
                self._rows(f"orders(order_id={order.order_id})", "SELECT 1 FROM orders WHERE order_id = "
                                                                 "%s", order.order_id),
            ),
        ]  # fmt: skip

    def _queue(self, shard: int, stream_id: StreamId, order: OrderState, state: Shard) -> list[Step]:
        """Return the orders before it at its price, if it rests."""
        book = state.state.markets[order.market].book if order.market in state.state.markets else None
        resting = book.orders.get(OrderId(order.order_id)) if book is not None else None
        if book is None or resting is None:
            return []
        market, ahead, quantity = self._market(order), list[int](), 0
        for resting_order in resting.level.orders():
            if resting_order.order_id == order.order_id:
                break
            ahead.append(resting_order.order_id)
            quantity += resting_order.quantity
        better = sum(1 for level in book.side(order.side).in_priority() if level.rank < resting.level.rank)
        amount, price = (
            market.format_quantity(QuantityLots(quantity)),
            market.format_price(resting.level.price),
        )
        text = (
            f"rests at {price}, behind {len(ahead)} orders with {amount} {market.base} and {better} better "
            "prices"
        )
        facts = {"price": price, "ordersAhead": ahead, "quantityAhead": amount, "betterPrices": better}
        return [self._step(shard, stream_id, "queued", text, facts)]

    def _trades(self, shard: int, stream_id: StreamId, events: list[Event], order: OrderState) -> list[Step]:
        market = self._market(order)
        return [
            self._step(
                shard, stream_id, "traded",
                f"trade {event.trade_id}: {market.format_quantity(event.quantity)} at "
                f"{market.format_price(event.price)} with order {event.maker_order_id}",
                {"tradeId": event.trade_id, "counterparty": event.maker_order_id},
            )
            for event in events
            if isinstance(event, TradeExecuted) and event.taker_order_id == order.order_id
        ]  # fmt: skip

    def _filled(
        self, shard: int, stream_id: StreamId, event: OrderFilled, trade: TradeExecuted | None, market: Market
    ) -> Step:
        order, trade_id = event.order, event.trade_id
        counter_order_id = self._counterparty(event, trade)
        # What a better price than the limit saves is no longer held.
        saved = (order.price - event.price) * event.quantity * market.quote_per_tick_lot
        improves = order.side is Side.BUY and order.order_type is not OrderType.MARKET
        facts: dict[str, Any] = {
            "tradeId": trade_id, "price": market.format_price(event.price),
            "quantity": market.format_quantity(event.quantity),
            "quote": market.format_quote(event.quote), "liquidity": event.liquidity.name,
            "fee": market.format_amount(event.fee, event.fee_asset),
            "feeAsset": event.fee_asset, "counterpartyOrderId": counter_order_id,
            "released": market.format_quote(saved if improves else 0),
            "status": order.status.name, "filledSoFar": market.format_quantity(order.cum_quantity),
        }  # fmt: skip
        text = (
            f"{event.liquidity.name.lower()} fill, trade {trade_id}: {facts['quantity']} at {facts['price']}"
        )
        text += f", fee {facts['fee']} {event.fee_asset}"
        text += f", against order {counter_order_id}" if counter_order_id else ""
        text += (
            f"; {facts['released']} {market.quote} released by the better price" if improves and saved else ""
        )
        reference = f"{order.market}:{trade_id}"
        rows = [
            *self._rows(f"trades({order.market}, {trade_id})",
                        "SELECT 1 FROM trades WHERE market = %s AND trade_id = %s", order.market, trade_id),
            *self._rows(f"fills(order_id={order.order_id}, trade_id={trade_id})",
                        "SELECT 1 FROM fills WHERE account_id = %s AND order_id = %s AND trade_id = %s",
                        order.account_id, order.order_id, trade_id),
            *self._rows(f"ledger_entries(reference={reference})",
                        "SELECT 1 FROM ledger_entries WHERE time = to_timestamp(%s / 1000.0) AND account_id "
                        "= %s AND reference = %s",
                        event.time, order.account_id, reference),
        ]  # fmt: skip
        return self._step(shard, stream_id, "filled", text, facts, rows)

    def _counterparty(self, event: OrderFilled, trade: TradeExecuted | None) -> int:
        is_maker = event.liquidity is Liquidity.MAKER
        if trade is not None:
            return trade.taker_order_id if is_maker else trade.maker_order_id
        if self._connection is None:
            return 0
        row = self._connection.execute(
            "SELECT maker_order_id, taker_order_id FROM trades WHERE market = %s AND trade_id = %s",
            (event.order.market, event.trade_id),
        ).fetchone()
        return int(row[is_maker]) if row else 0

    def _closed(self, shard: int, stream_id: StreamId, event: OrderClosed, entry: Entry | None) -> Step:
        order, market = event.order, self._market(event.order)
        (balance,) = event.balances
        reason = event.reason.name.lower()
        asked = _cancel_in(entry, order) if entry is not None else ""
        facts = {
            "status": order.status.name, "reason": reason,
            "filled": market.format_quantity(order.cum_quantity),
            "asset": balance.asset, "available": market.format_amount(balance.available, balance.asset),
            "by": asked,
        }  # fmt: skip
        text = f"{order.status.name.lower()} ({_words(reason)}{f', by {asked}' if asked else ''})"
        text += f" with {facts['filled']} {market.base} filled"
        return self._step(
            shard, stream_id, "closed", text, facts,
            self._rows(f"orders(order_id={order.order_id}, status={order.status.value})",
                       "SELECT 1 FROM orders WHERE order_id = %s AND status = %s", order.order_id,
                       order.status.value),
        )  # fmt: skip

    def _step(
        self,
        shard: int,
        stream_id: StreamId,
        what: str,
        text: str,
        facts: dict[str, Any],
        rows: list[str] | None = None,
    ) -> Step:
        return Step(stream_id.ms, streams.commands(shard), str(stream_id), what, text, facts, rows or [])

    def _rows(self, name: str, statement: str, *values: Any) -> list[str]:
        """Return the row's name when the database has it."""
        if self._connection is None:
            return []
        return [name] if self._connection.execute(statement.encode(), values).fetchone() else []

    def _market(self, order: OrderState) -> Market:
        return self._markets.by_symbol[order.market]


def _held(market: Market, order: OrderState) -> tuple[str, str]:
    """Return the asset that an order holds, and how much of it as a decimal."""
    asset = market.quote if order.side is Side.BUY else market.base
    return asset, market.format_amount(order.held, asset)


def _has_match(entry: Entry, order_id: int) -> bool:
    passed_over = _skipped(entry)
    frame = (entry if passed_over is None else passed_over).fields.get(MESSAGES_FIELD)
    if frame is None:
        return False
    try:
        messages = decode_message_items(frame).items
    except msgspec.MsgspecError:
        return False
    return any(isinstance(message, MatchOrder) and message.order_id == order_id for message in messages)


def _cancel_in(entry: Entry, order: OrderState) -> str:
    """Return the name of the command in the entry that asked for the order's end."""
    for command in _commands(entry.fields.get(COMMANDS_FIELD, b"")):
        if isinstance(command, CancelAllOrders) and (command.account_id, command.market) == (
            order.account_id,
            order.market,
        ):
            return f"CancelAllOrders through {command.reply_to}"
        if (
            isinstance(command, CancelOrder)
            and command.account_id == order.account_id
            and (
                command.order_id == order.order_id
                or (command.client_order_id and command.client_order_id == order.client_order_id)
            )
        ):
            return f"CancelOrder through {command.reply_to}"
    return ""


def _words(reason: str) -> str:
    return str(reason).replace("_", " ")
