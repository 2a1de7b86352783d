"""The rules of one market: an order's last checks, its match, and the outcome for the accounts' shards."""

from engine_worker.core.book import Book, Match, PreventedMaker
from engine_worker.core.enums import (
    BUY,
    EXPIRE_MAKER,
    EXPIRE_TAKER,
    FOK,
    GTC,
    LIMIT_MAKER,
    MARKET,
    make_depth_changed,
    make_maker_fill,
    make_prevented,
    make_taker_fill,
    make_trade,
)
from engine_worker.core.invariants import InvariantBroken
from protocol.commands import (
    CancelMissed,
    CancelResting,
    MakerFill,
    MatchOrder,
    RestingClosed,
    TakerFill,
    TakerOutcome,
)
from protocol.events import Event
from protocol.market import Market
from protocol.orders import CloseReason, Prevented, RejectReason
from protocol.units import PPM, AssetUnits, PriceTicks, QuantityLots, TimeMs

MakerMessage = MakerFill | RestingClosed


def refused_taker(order: MatchOrder, reason: RejectReason) -> TakerOutcome:
    """Return what the account of an order is told that is not matched."""
    return TakerOutcome(order.order_id, order.account_id, order.market, (), False, False, reason)


def cancel_missed(cancel: CancelResting) -> CancelMissed:
    """Return what the account of an order is told that is not in the book."""
    return CancelMissed(cancel.order_id, cancel.account_id, cancel.market, cancel.request_id, cancel.reply_to)


class MarketState:
    """One market: its book and its counters."""

    __slots__ = ("aggregate_id", "book", "last_price", "market", "prevented_id", "sequence", "trade_id")

    def __init__(self, market: Market) -> None:
        self.market = market
        self.book = Book(market.quote_per_tick_lot)
        self.last_price = 0
        """The last trade's price; 0 before the first."""
        self.sequence = 0
        self.trade_id = 0
        self.aggregate_id = 0
        self.prevented_id = 0
        """The number of the last match that was prevented."""

    def match_order(
        self, order: MatchOrder, time: TimeMs, events: list[Event]
    ) -> tuple[TakerOutcome, list[MakerMessage]]:
        """Match an order whose funds are held, and let what is left rest if it may.

        Appends the trades, and then one change of depth, to `events`. Returns what the order's account is
        told, and what the makers' accounts are told.
        """
        book, side = self.book, order.side
        price = self._bound(order) if order.bound_by_book else order.price
        # Before the book is touched: a refusal leaves no trace
        # (docs/decisions/0001-two-halves-of-an-order.md).
        reason = self._reason_to_refuse(order, price)
        if reason is not None:
            return refused_taker(order, reason), []
        fills: tuple[TakerFill, ...] = ()
        prevented: tuple[Prevented, ...] = ()
        leaves: int = order.quantity
        expired_in_match = limit_reached = budget_spent = price_range_exceeded = False
        makers: list[MakerMessage] = []
        opposite = book.asks if side is BUY else book.bids
        crosses = opposite.best is not None and opposite.best.rank <= price * opposite.sign
        if crosses and not (order.time_in_force is FOK and not self._fills_whole(order)):
            if order.time_in_force is FOK and self._meets_too_many(order):
                return refused_taker(order, RejectReason.TOO_MANY_MATCHES), []
            matching = book.match(
                side,
                price,
                order.quantity,
                order.account_id,
                order.self_trade_prevention,
                self.market.matches_max,
                self._budget(order) if order.order_type is MARKET else None,
            )
            leaves, expired_in_match = matching.leaves_quantity, matching.taker_expired
            limit_reached, budget_spent = (
                matching.limit_reached,
                matching.budget_spent and order.budget_is_limit,
            )
            fills = tuple(self._trade(order, matching.matches, time, events, makers))
            if matching.prevented:
                prevented = self._prevent(order, matching.prevented, makers)
        if order.bound_by_book and leaves and not (expired_in_match or limit_reached or budget_spent):
            price_range_exceeded = opposite.best is not None  # it may not pay what that one asks for
        rests = leaves > 0 and order.time_in_force is GTC and not expired_in_match and not limit_reached
        if rests:
            if opposite.best is not None and opposite.best.rank <= price * opposite.sign:
                raise InvariantBroken(f"{order.market}: order {order.order_id} would rest in a crossed book")
            book.add(order.order_id, order.account_id, side, price, leaves)
        # After the trades, and once for all of them: readers apply a market's events by their sequence.
        self._tell_depth(time, events)
        outcome = TakerOutcome(
            order.order_id,
            order.account_id,
            order.market,
            fills,
            rests,
            expired_in_match,
            None,
            prevented,
            limit_reached,
            budget_spent,
            price_range_exceeded,
        )
        return outcome, makers

    def cancel_resting(
        self, cancel: CancelResting, time: TimeMs, events: list[Event]
    ) -> RestingClosed | CancelMissed:
        """Take an order out of the book, and return what its account is told."""
        if self.book.cancel(cancel.order_id):
            self._tell_depth(time, events)
            return RestingClosed(
                cancel.order_id,
                cancel.account_id,
                cancel.market,
                cancel.request_id,
                cancel.reply_to,
                False,
                cancel.cancel_id,
                cancel.reason,
            )
        return cancel_missed(cancel)

    def drain(
        self, orders_max: int, reason: CloseReason, time: TimeMs, events: list[Event]
    ) -> list[RestingClosed]:
        """Take up to `orders_max` orders out of the book, best first, bids before asks.

        Return what their accounts are told.
        """
        closed: list[RestingClosed] = []
        for half in (self.book.bids, self.book.asks):
            while half.best is not None and len(closed) < orders_max:
                order = next(iter(half.best.orders()))
                closed.append(
                    RestingClosed(order.order_id, order.account_id, self.market.symbol, reason=reason)
                )
                self.book.cancel(order.order_id)
        self._tell_depth(time, events)
        return closed

    def _bound(self, order: MatchOrder) -> PriceTicks:
        """Return the worst price at which a MARKET order may trade that its market bounds."""
        best = (self.book.asks if order.side is BUY else self.book.bids).best
        return self.market.market_bound(order.side, best.price) if best is not None else order.price

    def _budget(self, order: MatchOrder) -> AssetUnits | None:
        """Return what a MARKET order may spend or receive; None: no limit beside its quantity.

        A BUY by quantity holds what it costs at its gateway's estimate, or, where that is less, all that its
        account has. An estimate may be out of date: where the book is dearer now, what is held ends the
        order, and what is left expires.
        """
        if order.budget_is_limit:
            return order.quote_budget
        if order.side is not BUY or not order.bound_by_book:
            return None
        is_held = order.price * order.quantity * self.market.quote_per_tick_lot <= order.quote_budget
        return order.quote_budget if is_held else None

    def _reason_to_refuse(self, order: MatchOrder, bound: PriceTicks) -> RejectReason | None:
        market = self.market
        if order.order_type is MARKET:
            if order.budget_is_limit:
                return self._reason_not_to_spend(order, bound)
            if order.bound_by_book and (reason := self._reason_of_worth(order)) is not None:
                return reason
            if order.side is BUY:
                budget = order.quote_budget
                if order.price * order.quantity * market.quote_per_tick_lot > budget:
                    _, cost = self.book.fillable(
                        order.side, bound, order.quantity, order.account_id, order.self_trade_prevention
                    )
                    if cost > budget:
                        return RejectReason.INSUFFICIENT_BALANCE
            return None
        last_price = self.last_price
        if last_price:
            scaled = order.price * PPM
            if scaled > last_price * market.band_up_ppm or scaled < last_price * market.band_down_ppm:
                return RejectReason.PRICE_OUTSIDE_BAND
        if order.order_type is LIMIT_MAKER and self.book.crosses(order.side, order.price):
            return RejectReason.WOULD_MATCH_IMMEDIATELY
        return None

    def _reason_of_worth(self, order: MatchOrder) -> RejectReason | None:
        """Return why a MARKET order by quantity is worth too little, or None.

        Its worth is counted at the last price, before the first trade at the best price.
        """
        best = (self.book.asks if order.side is BUY else self.book.bids).best
        price = self.last_price or (best.price if best is not None else 0)
        if not price:
            return RejectReason.EMPTY_BOOK
        worth = price * order.quantity * self.market.quote_per_tick_lot
        return RejectReason.NOTIONAL_TOO_SMALL if worth < self.market.notional_min else None

    def _reason_not_to_spend(self, order: MatchOrder, bound: PriceTicks) -> RejectReason | None:
        """Return why a MARKET order by quote quantity is refused, or None.

        The book is empty or too thin, or the account has less to sell than the book would take.
        """
        market, book = self.market, self.book
        opposite = book.asks if order.side is BUY else book.bids
        found, cost = opposite.sums(bound * opposite.sign, market.quantity_min)
        if not found:
            return RejectReason.EMPTY_BOOK
        if found < market.quantity_min or cost * market.quote_per_tick_lot > order.quote_budget:
            return RejectReason.THIN_BOOK
        if order.side is BUY or order.quantity >= market.quantity_max:
            return None
        more = QuantityLots(order.quantity + 1)
        found, brings = book.fillable(order.side, bound, more, order.account_id, order.self_trade_prevention)
        return RejectReason.INSUFFICIENT_BALANCE if found == more and brings <= order.quote_budget else None

    def _fills_whole(self, order: MatchOrder) -> bool:
        found, _ = self.book.fillable(
            order.side, order.price, order.quantity, order.account_id, order.self_trade_prevention
        )
        return found == order.quantity

    def _meets_too_many(self, order: MatchOrder) -> bool:
        return self.book.meets_more_than(
            self.market.matches_max,
            order.side,
            order.price,
            order.quantity,
            order.account_id,
            order.self_trade_prevention,
        )

    def _trade(
        self,
        taker: MatchOrder,
        matches: list[Match],
        time: TimeMs,
        events: list[Event],
        makers: list[MakerMessage],
    ) -> list[TakerFill]:
        """Number the trades and say that they happened; append what the makers are told to `makers`."""
        fills = []
        symbol, order_id, account_id = taker.market, taker.order_id, taker.account_id
        trade_id, sequence, last_price = self.trade_id, self.sequence, 0
        for match in matches:
            trade_id += 1
            sequence += 1
            price, quantity = match.price, match.quantity
            # An aggregate is one taker's trades at one price, and the matches come sorted by price.
            if price != last_price:
                self.aggregate_id += 1
                last_price = price
            events.append(
                make_trade(
                    time,
                    symbol,
                    sequence,
                    trade_id,
                    self.aggregate_id,
                    price,
                    quantity,
                    taker.side,
                    match.order_id,
                    order_id,
                    match.account_id,
                    account_id,
                )
            )
            makers.append(
                make_maker_fill(match.order_id, match.account_id, symbol, trade_id, price, quantity)
            )
            fills.append(make_taker_fill(trade_id, price, quantity))
        self.trade_id, self.sequence = trade_id, sequence
        self.last_price = last_price or self.last_price
        return fills

    def _prevent(
        self, taker: MatchOrder, prevented: list[PreventedMaker], makers: list[MakerMessage]
    ) -> tuple[Prevented, ...]:
        """Number the matches that did not happen; append what makers are told that gave way to `makers`."""
        mode, told = taker.self_trade_prevention, []
        for each in prevented:
            self.prevented_id += 1
            lots = each.payable if taker.budget_is_limit else each.taker_quantity
            match = make_prevented(
                self.prevented_id,
                each.order_id,
                each.price,
                0 if mode is EXPIRE_MAKER else lots,
                0 if mode is EXPIRE_TAKER else each.quantity,
                min(each.quantity, lots),
            )
            told.append(match)
            if mode is not EXPIRE_TAKER:
                makers.append(
                    RestingClosed(
                        each.order_id,
                        each.account_id,
                        taker.market,
                        expired_in_match=True,
                        prevented=match,
                        taker_order_id=taker.order_id,
                    )
                )
        return tuple(told)

    def _tell_depth(self, time: TimeMs, events: list[Event]) -> None:
        """Say which levels changed, once for all that one command did."""
        if self.book.changed:
            changes = self.book.take_changes()
            self.sequence += 1
            events.append(make_depth_changed(time, self.market.symbol, self.sequence, changes))
