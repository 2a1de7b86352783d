"""The account's half of an order: checking, holding, numbering, settling, releasing.

The market's half reports by messages (docs/decisions/0001-two-halves-of-an-order.md). Money is held and
released by docs/decisions/0004-money.md.

What an order is, is said in two places only: `_open` makes one of a command, `_advance` makes the next state
of one. Invariants: see invariants.py.
"""

from typing import Final

from engine_worker.core.accounts import Account, PlacedOrder
from engine_worker.core.enums import (
    BUY,
    CANCELED,
    EXPIRED,
    EXPIRED_IN_MATCH,
    FILLED,
    FOK,
    IN_FLIGHT,
    MAKER,
    MARKET,
    NEW,
    PARTIALLY_FILLED,
    TAKER,
    make_balance,
    make_fill_report,
    make_order,
    make_order_filled,
)
from engine_worker.core.fees import fee_of
from engine_worker.core.invariants import InvariantBroken
from engine_worker.core.messages import Messages
from engine_worker.core.order_checks import hold_for, reason_to_refuse
from engine_worker.core.replies import Replies
from engine_worker.core.shard_state import CancelAllRequest, ShardState
from protocol.commands import (
    CancelAllOrders,
    CancelMissed,
    CancelOrder,
    CancelResting,
    MakerFill,
    MatchOrder,
    PlaceOrder,
    RestingClosed,
    TakerOutcome,
)
from protocol.configuration import MarketStatus
from protocol.events import FundsReleased, MatchPrevented, OrderAccepted, OrderClosed, OrderFilled
from protocol.market import SHARD_COUNT_MAX, Market
from protocol.orders import (
    Balance,
    CloseReason,
    FillReport,
    Liquidity,
    OrderCourse,
    OrderState,
    OrderStatus,
    Prevented,
    RejectReason,
)
from protocol.replies import OrderReply, OrdersReply, Refused
from protocol.units import (
    AMOUNT_UNITS_MAX,
    AccountId,
    AssetUnits,
    OrderId,
    PriceTicks,
    QuantityLots,
    TradeId,
)

BALANCE_UNITS_MAX: Final = 2 * AMOUNT_UNITS_MAX
"""Of one asset; what an account may have for a moment, and what every writer of 64 bits holds."""
_NO_ORDER: Final = OrderId(0)
_NO_PRICE: Final = PriceTicks(1)
"""In a message about an order that has none."""


class AccountHalf:
    """Handles clients' orders and cancellations, and the messages of the markets' halves."""

    __slots__ = ("_messages", "_replies", "_state")

    def __init__(self, state: ShardState, messages: Messages, replies: Replies) -> None:
        self._state = state
        self._messages = messages
        self._replies = replies

    def place_order(self, command: PlaceOrder) -> None:
        """Check an order, hold its funds, number it, and hand it to its market's half."""
        # First of all: a repetition gets the first outcome, whatever has become of account and market since
        # (docs/decisions/0005-client-order-ids.md).
        if command.idempotency_key and not self._replies.is_first_of_its_key(command):
            return
        state = self._state
        account = state.accounts.get(command.account_id)
        market = state.market_map.by_symbol.get(command.market)
        # The first reason counts: clients see it, and so does every replay. What is asked further down costs
        # more, or depends on what is asked before it.
        if market is None:
            self._replies.refuse_keyed(command, RejectReason.UNKNOWN_MARKET)
            return
        if command.market in state.not_trading:
            self._replies.refuse_keyed(command, RejectReason.MARKET_CLOSED)
            return
        if state.time >= state.closed_from:
            self._replies.refuse_keyed(command, RejectReason.UNDER_MAINTENANCE)
            return
        reason = reason_to_refuse(command, market, account, state.open_orders_max)
        if reason is None and account is not None and account.limits is not None:
            reason = account.reason_of_limits(state.time)
        hold = hold_for(command, market, account) if reason is None and account is not None else 0
        if account is None or not hold:
            self._replies.refuse_keyed(command, reason or RejectReason.INSUFFICIENT_BALANCE)
            return
        market_shard = state.market_map.shards[command.market]
        is_local = market_shard == state.index
        if not is_local:
            # Last of all: it is the only refusal that is not remembered under the idempotency key, since the
            # same order may be placed a moment later.
            if state.in_flight[market_shard] >= state.in_flight_max:
                self._replies.refuse_for_now(command, account, RejectReason.MARKET_BEHIND)
                return
            state.in_flight[market_shard] += 1
        order_id = self._open(command, market, account, hold, NEW if is_local else IN_FLIGHT)
        # Behind everything else: on this very shard the market's half answers before `send` returns, and the
        # order must be there for that (docs/decisions/0001-two-halves-of-an-order.md).
        quantity, budget = command.quantity, command.quote_quantity
        if command.order_type is MARKET:
            quantity, budget = _lots_and_budget(command, market, hold)
        self._messages.send(
            market_shard,
            MatchOrder(
                order_id,
                command.account_id,
                market.symbol,
                command.side,
                command.order_type,
                command.time_in_force,
                command.price or _NO_PRICE,
                quantity,
                budget,
                command.quote_quantity > 0,
                command.self_trade_prevention,
                None,
                command.bound_by_book,
            ),
        )

    def _open(
        self, command: PlaceOrder, market: Market, account: Account, hold: int, status: OrderStatus
    ) -> OrderId:
        """Hold an order's funds and put it into the state; return the number that it gets.

        It is NEW at once when this very shard matches it: nobody can look before. Otherwise it is IN_FLIGHT.
        """
        state, now = self._state, self._state.time
        is_new = status is NEW
        asset = market.quote if command.side is BUY else market.base
        account.funds[asset].hold(hold)
        state.totals[asset].held += hold
        account.changed_time = now
        if account.limits is not None:
            account.count_order(now)
        state.open_order_count += 1
        order_count = state.order_count = state.order_count + 1
        order_id: OrderId = order_count * SHARD_COUNT_MAX + state.index  # type: ignore[assignment]  # to name the unit is a call
        orders = account.open_orders.get(market.symbol)
        if orders is None:
            orders = account.open_orders[market.symbol] = {}
        orders[order_id] = make_order(
            order_id,
            command.account_id,
            command.client_order_id,
            market.symbol,
            command.side,
            command.order_type,
            command.time_in_force,
            command.price,
            command.quantity,
            command.quote_quantity,
            command.self_trade_prevention,
            status,
            0,
            0,
            hold,
            now,
            now,
            # Counted once the order is accepted: one that is refused takes no number.
            (state.execution_count + 1) * SHARD_COUNT_MAX + state.index if is_new else 0,
            1 if is_new else 0,
            None,
            command.terms,
        )
        account.client_order_ids[command.client_order_id] = PlacedOrder(
            order_id, command.request_id, command.reply_to, command.idempotency_key
        )
        return order_id

    def count_in_flight(self, account: Account) -> None:
        """Count the orders of an account that comes from a snapshot."""
        state = self._state
        for symbol, orders in account.open_orders.items():
            if under_way := sum(order.status is IN_FLIGHT for order in orders.values()):
                state.in_flight[state.market_map.shards[symbol]] += under_way

    def taker_outcome(self, outcome: TakerOutcome) -> None:
        """Settle what came of an order that was matched, and answer whoever placed it."""
        state = self._state
        account, order = self._open_order(outcome.account_id, outcome.market, outcome.order_id)
        market = state.market_map.by_symbol[order.market]
        if order.status is IN_FLIGHT:
            self._count_answered(state.market_map.shards[order.market])
        if outcome.reject_reason is not None:
            self._refuse_matched(account, order, market, outcome.reject_reason)
            return
        # Closing the order forgets who placed it.
        placed = account.client_order_ids[order.client_order_id]
        if order.status is IN_FLIGHT:
            order = self._advance(order, NEW, order.quantity, order.cum_quantity, order.cum_quote, order.held)
            account.open_orders[order.market][order.order_id] = order
        else:
            state.execution_count += 1  # the number that it has been given in `_open`
        asset = market.quote if order.side is BUY else market.base
        funds = account.funds[asset]
        balance = make_balance(asset, funds.available, funds.held)
        # Accepted before filled, and with the balance before the first fill: readers apply events in their
        # order.
        state.events.append(OrderAccepted(state.time, order, (balance,)))
        reports: tuple[FillReport, ...] = ()
        if outcome.fills:
            last = outcome.fills[-1].trade_id if not outcome.rests else None
            collected = []
            for fill in outcome.fills:
                filled = self._settle(
                    account,
                    order,
                    market,
                    fill.trade_id,
                    fill.price,
                    fill.quantity,
                    TAKER,
                    is_last=fill.trade_id == last,
                    is_spent=outcome.budget_spent,
                )
                order = filled.order
                collected.append(
                    make_fill_report(fill.trade_id, fill.price, fill.quantity, filled.fee, filled.fee_asset)
                )
            reports = tuple(collected)
        if outcome.prevented:
            self._tell_prevented(order, outcome.prevented)
        if outcome.rests:
            if order.status is FILLED:
                raise InvariantBroken(f"order {order.order_id} is filled, and rests in the book")
        # After all fills: closing releases what they have left of the hold.
        elif order.status is not FILLED:
            if outcome.expired_in_match:
                order = self._close_prevented(
                    account, order, outcome.prevented[-1] if outcome.prevented else None
                )
            else:
                order = self._close(account, order, EXPIRED, _reason_to_expire(order, outcome))
        # Last: the reply, and what is remembered of it, has the order as it is now.
        reply = OrderReply(placed.request_id, state.time, order, reports, outcome.prevented)
        self._replies.reply(placed.reply_to, reply)
        if placed.idempotency_key:
            self._replies.keep_outcome(account.account_id, placed.idempotency_key, reply)

    def _count_answered(self, market_shard: int) -> None:
        """Count that a shard has answered an order."""
        in_flight = self._state.in_flight
        in_flight[market_shard] -= 1
        if in_flight[market_shard] < 0:
            raise InvariantBroken(f"shard {market_shard} has answered more orders than it was sent")

    def _refuse_matched(
        self, account: Account, order: OrderState, market: Market, reason: RejectReason
    ) -> None:
        """Forget an order that its market's half refuses: a refusal leaves no trace."""
        state = self._state
        placed = account.client_order_ids[order.client_order_id]
        asset = market.quote if order.side is BUY else market.base
        self._release(account, asset, order.held)
        # Only events of orders in flight may have shown the hold; on one shard nobody has seen it, so nobody
        # is told of its release (docs/decisions/0001-two-halves-of-an-order.md).
        if order.status is IN_FLIGHT:
            state.events.append(FundsReleased(state.time, account.account_id, (account.balance(asset),)))
        self._forget_open(account, order, market)
        refused = Refused(placed.request_id, state.time, reason)
        self._replies.reply_keyed(account.account_id, placed.idempotency_key, placed.reply_to, refused)

    def _tell_prevented(self, taker: OrderState, prevented: tuple[Prevented, ...]) -> None:
        state = self._state
        state.events += [
            MatchPrevented(
                state.time,
                taker.market,
                taker.account_id,
                each.match_id,
                each.maker_order_id,
                taker.order_id,
                each.price,
                each.maker_quantity,
                each.taker_quantity,
                taker.execution_id,
                taker.self_trade_prevention,
            )
            for each in prevented
        ]

    def maker_fill(self, fill: MakerFill) -> None:
        """Settle a resting order's share of a trade."""
        account, order = self._open_order(fill.account_id, fill.market, fill.order_id)
        market = self._state.market_map.by_symbol[fill.market]
        self._settle(account, order, market, fill.trade_id, fill.price, fill.quantity, MAKER)

    def _settle(
        self,
        account: Account,
        order: OrderState,
        market: Market,
        trade_id: TradeId,
        price: PriceTicks,
        quantity: QuantityLots,
        liquidity: Liquidity,
        *,
        is_last: bool = False,
        is_spent: bool = False,
    ) -> OrderFilled:
        """Move the money of one fill; return what is told of it, with the order after it.

        Nothing of an order by quote quantity follows on its last fill (`is_last`). `is_spent` says that what
        is left of it pays no lot of the next order.

        The fee is taken from what is received and rounded up to a whole unit, in the house's favour; it never
        exceeds what is received, so no money is made. What a better price than the limit saves is released at
        once (docs/decisions/0004-money.md).
        """
        state = self._state
        k = market.quote_per_tick_lot
        quote, base = price * quantity * k, quantity * market.base_per_lot
        cum_quantity, cum_quote = order.cum_quantity + quantity, order.cum_quote + quote
        is_buy = order.side is BUY
        if is_buy:
            paid_asset, received_asset = market.quote, market.base
            paid, received = quote, base
        else:
            paid_asset, received_asset = market.base, market.quote
            paid, received = base, quote
        fee = fee_of(market, liquidity, received)

        if order.quote_quantity:
            # What is left pays no lot of the next order, or none at this price, and no later one is better:
            # it is used up.
            filled = is_last and (is_spent or order.quote_quantity - cum_quote < price * k)
            is_too_much = cum_quote > order.quote_quantity
        else:
            filled = cum_quantity == order.quantity
            is_too_much = cum_quantity > order.quantity
        if is_too_much or fee > received:
            raise InvariantBroken(
                f"order {order.order_id}: trade {trade_id} brings {received} with a fee of {fee}; it fills "
                f"{quantity} lots for {quote}, {cum_quantity} of {order.quantity} for {cum_quote} of "
                f"{order.quote_quantity}"
            )
        if filled:
            held = 0
        elif is_buy and order.order_type is not MARKET:
            held = order.price * (order.quantity - cum_quantity) * k
        else:
            held = order.held - paid

        balances = self._exchange(account, paid_asset, paid, order.held - held, received_asset, received, fee)
        order = self._advance(
            order,
            FILLED if filled else PARTIALLY_FILLED,
            cum_quantity if filled else order.quantity,
            cum_quantity,
            cum_quote,
            held,
        )
        event = make_order_filled(
            state.time, order, trade_id, price, quantity, quote, liquidity, fee, received_asset, balances
        )
        state.events.append(event)
        if filled:
            state.closed.append(order)
            # After the balances have been read: what is empty is forgotten.
            self._forget_open(account, order, market)
        else:
            account.open_orders[order.market][order.order_id] = order
        return event

    def _exchange(
        self,
        account: Account,
        paid_asset: str,
        paid: int,
        unheld: int,
        received_asset: str,
        received: int,
        fee: int,
    ) -> tuple[Balance, Balance]:
        """Move what an account pays and receives; return its balances in both assets.

        Of what it holds, `unheld` is not held any more: `paid` of that is gone, the rest is available.

        What the account has is measured before and after, and not computed from the amounts: so a mistake
        here makes the shard's books differ from its accounts, which `audit.check_money` finds before anything
        is published (docs/decisions/0013-state-hash-and-halt.md).
        """
        totals = self._state.totals
        paid_totals, received_totals = totals[paid_asset], totals[received_asset]
        paid_funds = account.funds[paid_asset]  # something is held
        received_funds = account.funds.get(received_asset) or account.funds_in(received_asset)
        paid_before = paid_funds.available + paid_funds.held
        received_before = received_funds.available + received_funds.held
        paid_funds.pay(paid, unheld - paid)
        received_funds.available += received - fee
        account.changed_time = self._state.time
        received_after = received_funds.available + received_funds.held
        if received_after > BALANCE_UNITS_MAX:
            # No more than the supply is there. For a moment an account may have twice what it trades with
            # itself: it receives as the taker before it pays as the maker. So does one of which its shard
            # hears late what it gave.
            raise InvariantBroken(
                f"account {account.account_id}: {received_asset} exceeds what a balance can hold"
            )
        paid_totals.funds += paid_funds.available + paid_funds.held - paid_before
        received_totals.funds += received_after - received_before
        paid_totals.held -= unheld
        paid_totals.settled -= paid
        received_totals.settled += received
        received_totals.fees += fee
        return (
            make_balance(paid_asset, paid_funds.available, paid_funds.held),
            make_balance(received_asset, received_funds.available, received_funds.held),
        )

    def resting_closed(self, closed: RestingClosed) -> None:
        """Close an order that its market has taken out of the book."""
        account, order = self._open_order(closed.account_id, closed.market, closed.order_id)
        if closed.expired_in_match:
            self._close_prevented(account, order, closed.prevented, closed.taker_order_id)
            return
        if closed.reason is not CloseReason.CANCELED_BY_OWNER:
            self._close(account, order, EXPIRED, closed.reason)
            return
        order = self._close(account, order, CANCELED, CloseReason.CANCELED_BY_OWNER, closed.cancel_id)
        self._cancel_answered(closed, order)

    def cancel_missed(self, missed: CancelMissed) -> None:
        """Tell whoever wanted to cancel an order that it does not rest any more."""
        if missed.reply_to:  # nobody waits for what an operator cancels
            self._cancel_answered(missed, None)

    def _close(
        self,
        account: Account,
        order: OrderState,
        status: OrderStatus,
        reason: CloseReason,
        cancel_id: str = "",
        course: OrderCourse | None = None,
        prevented: Prevented | None = None,
        counter_order_id: OrderId = _NO_ORDER,
    ) -> OrderState:
        """Release what the order still holds and close it."""
        state = self._state
        market = state.market_map.by_symbol[order.market]
        asset = market.quote if order.side is BUY else market.base
        # Before the balance is told.
        self._release(account, asset, order.held)
        quantity = order.cum_quantity if order.quote_quantity else order.quantity
        order = self._advance(order, status, quantity, order.cum_quantity, order.cum_quote, 0, reason, course)
        state.events.append(
            OrderClosed(
                state.time, order, reason, (account.balance(asset),), cancel_id, prevented, counter_order_id
            )
        )
        state.closed.append(order)
        # After the balance has been told: what is empty is forgotten.
        self._forget_open(account, order, market)
        return order

    def _release(self, account: Account, asset: str, amount: int) -> None:
        """Make available what an order that ends still holds."""
        state = self._state
        account.funds[asset].release(amount)
        account.changed_time = state.time
        totals = state.totals[asset]
        totals.held -= amount
        if totals.held < 0:
            raise InvariantBroken(f"{asset}: held in all is {totals.held} after a release of {amount}")

    def _close_prevented(
        self,
        account: Account,
        order: OrderState,
        prevented: Prevented | None,
        taker_order_id: OrderId | None = None,
    ) -> OrderState:
        """Close an order that self-trade prevention ended: with `taker_order_id` the maker, else the taker.

        A message of before prevented matches were numbered does not say for which.
        """
        reason = CloseReason.SELF_TRADE_PREVENTED
        if prevented is None:
            return self._close(account, order, EXPIRED_IN_MATCH, reason)
        is_maker = taker_order_id is not None
        course = OrderCourse(
            prevented_quantity=prevented.maker_quantity if is_maker else prevented.taker_quantity,
            prevented_match_id=prevented.match_id,
        )
        counter = prevented.maker_order_id if taker_order_id is None else taker_order_id
        return self._close(account, order, EXPIRED_IN_MATCH, reason, "", course, prevented, counter)

    def _advance(
        self,
        order: OrderState,
        status: OrderStatus,
        quantity: int,
        cum_quantity: int,
        cum_quote: int,
        held: int,
        close_reason: CloseReason | None = None,
        course: OrderCourse | None = None,
    ) -> OrderState:
        """Return an order after one more execution, which gets the next number: its terms stay as they are.

        The one place, besides `_open`, that names all fields of an order.
        """
        state = self._state
        execution_count = state.execution_count = state.execution_count + 1
        return make_order(
            order.order_id,
            order.account_id,
            order.client_order_id,
            order.market,
            order.side,
            order.order_type,
            order.time_in_force,
            order.price,
            quantity,
            order.quote_quantity,
            order.self_trade_prevention,
            status,
            cum_quantity,
            cum_quote,
            held,
            order.accepted_time,
            state.time,
            execution_count * SHARD_COUNT_MAX + state.index,
            order.version + 1,
            close_reason,
            order.terms,
            course,
        )

    def _open_order(
        self, account_id: AccountId, market: str, order_id: OrderId
    ) -> tuple[Account, OrderState]:
        try:
            account = self._state.accounts[account_id]
            return account, account.open_orders[market][order_id]
        except KeyError:
            raise InvariantBroken(
                f"order {order_id} of account {account_id} is not open in {market}"
            ) from None

    def _forget_open(self, account: Account, order: OrderState, market: Market) -> None:
        """Take a closed order out of the state; its client order id may be used again."""
        state = self._state
        state.open_order_count -= 1
        if state.open_order_count < 0:
            raise InvariantBroken("more orders are closed than were open")
        orders = account.open_orders[order.market]
        del orders[order.order_id]
        if not orders:
            del account.open_orders[order.market]
        del account.client_order_ids[order.client_order_id]
        # Another open order of the account holds something, so what is empty belongs to none.
        account.forget_empty(market.base, market.quote)

    def cancel_order(self, command: CancelOrder) -> None:
        """Ask an order's market to cancel it."""
        state = self._state
        order = state.find_open(command.account_id, command.market, command.order_id, command.client_order_id)
        if order is None:
            self._replies.refuse(command.reply_to, command.request_id, RejectReason.UNKNOWN_ORDER)
        elif state.not_trading and self._is_halted(command.market):
            self._replies.refuse(command.reply_to, command.request_id, RejectReason.MARKET_CLOSED)
        else:
            self._request_cancel(order, command)

    def _is_halted(self, market: str) -> bool:
        return self._state.not_trading.get(market) is MarketStatus.HALTED

    def cancel_all_orders(self, command: CancelAllOrders) -> None:
        """Ask a market to cancel all orders of an account; one reply tells of all."""
        state = self._state
        account = state.accounts.get(command.account_id)
        orders = list(account.open_orders.get(command.market, {}).values()) if account is not None else []
        if not orders:
            self._replies.refuse(command.reply_to, command.request_id, RejectReason.UNKNOWN_ORDER)
            return
        if self._is_halted(command.market):
            self._replies.refuse(command.reply_to, command.request_id, RejectReason.MARKET_CLOSED)
            return
        # Before the first message: a market of this very shard answers before `send` returns.
        state.cancel_alls[command.reply_to, command.request_id] = CancelAllRequest(len(orders))
        for order in orders:
            self._request_cancel(order, command)

    def _request_cancel(self, order: OrderState, command: CancelOrder | CancelAllOrders) -> None:
        self._messages.send(
            self._state.market_map.shards[order.market],
            CancelResting(
                order.order_id,
                order.account_id,
                order.market,
                command.request_id,
                command.reply_to,
                command.cancel_id,
            ),
        )

    def _cancel_answered(self, answer: RestingClosed | CancelMissed, order: OrderState | None) -> None:
        """Tell who asked that the order is canceled, or (None) that there was nothing to cancel any more."""
        state = self._state
        request = state.cancel_alls.get((answer.reply_to, answer.request_id)) if state.cancel_alls else None
        if request is not None:
            self._one_of_several_answered(request, answer, order)
        elif order is None:
            self._replies.refuse(answer.reply_to, answer.request_id, RejectReason.UNKNOWN_ORDER)
        else:
            self._replies.reply(answer.reply_to, OrderReply(answer.request_id, state.time, order))

    def _one_of_several_answered(
        self, request: CancelAllRequest, answer: RestingClosed | CancelMissed, order: OrderState | None
    ) -> None:
        state = self._state
        request.waiting -= 1
        assert request.waiting >= 0, "the last answer takes the request away"
        if order is not None:
            request.orders.append(order)
        if request.waiting:
            return
        del state.cancel_alls[answer.reply_to, answer.request_id]
        if request.orders:
            self._replies.reply(
                answer.reply_to, OrdersReply(answer.request_id, state.time, tuple(request.orders))
            )
        else:
            self._replies.refuse(answer.reply_to, answer.request_id, RejectReason.UNKNOWN_ORDER)


def _lots_and_budget(command: PlaceOrder, market: Market, hold: int) -> tuple[QuantityLots, AssetUnits]:
    """Return what a MARKET order may trade at most: the lots, and the quote units, that `hold` pays for."""
    quantity, budget = command.quantity, command.quote_quantity
    if budget:
        is_buy = command.side is BUY
        lots = budget // market.quote_per_tick_lot if is_buy else hold // market.base_per_lot
        quantity = QuantityLots(min(lots, market.quantity_max))
    elif command.side is BUY:
        budget = AssetUnits(hold)
    return quantity, budget


def _reason_to_expire(order: OrderState, outcome: TakerOutcome) -> CloseReason:
    """Return why an order that may not rest has something left."""
    if outcome.limit_reached:
        return CloseReason.TOO_MANY_MATCHES
    if order.order_type is MARKET:
        too_dear = outcome.price_range_exceeded
        return CloseReason.PRICE_RANGE_EXCEEDED if too_dear else CloseReason.INSUFFICIENT_LIQUIDITY
    return CloseReason.UNFILLED_FOK if order.time_in_force is FOK else CloseReason.UNFILLED_IOC
