"""One market's order book: price-time priority over whole numbers.

Each side keeps its price levels in a dict by *rank* and the ranks in a sorted list. The rank of an ask is its price, that of a
bid its negative price, so on both sides the best level has the smallest rank and the code is written once. A level is a
doubly linked list of orders in the order of their arrival. So adding, reducing and removing an order by its id, and looking at
the best price, cost the same however many orders rest; only opening or closing a level costs the logarithm of their number.
"""

from collections.abc import Iterator

import msgspec
from sortedcontainers import SortedList

from engine_worker.core.members import BUY, EXPIRE_MAKER, EXPIRE_TAKER, PREVENT_NOTHING, SELL, make_level_change
from protocol.events import LevelChange
from protocol.orders import SelfTradePrevention, Side
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots


class RestingOrder(msgspec.Struct, eq=False, gc=False):
    """An order in the book; `quantity` is what is left of it."""

    order_id: OrderId
    account_id: AccountId
    quantity: int
    level: "PriceLevel"
    preceding: "RestingOrder | None" = None
    following: "RestingOrder | None" = None


class PriceLevel:
    """The orders at one price, first come first; `quantity` is their sum."""

    __slots__ = ("first", "last", "order_count", "price", "quantity", "rank", "side")

    def __init__(self, side: "BookSide", price: PriceTicks, rank: int) -> None:
        self.side = side
        self.price = price
        self.rank = rank
        self.quantity = 0
        self.order_count = 0
        self.first: RestingOrder | None = None
        self.last: RestingOrder | None = None

    def orders(self) -> Iterator[RestingOrder]:
        """Yield the orders in priority order."""
        order = self.first
        while order is not None:
            yield order
            order = order.following


class BookSide:
    """One half of the book."""

    __slots__ = ("best", "changed", "levels", "ranks", "side", "sign")

    def __init__(self, side: Side, changed: dict[int, PriceLevel]) -> None:
        self.side = side
        self.sign = 1 if side is SELL else -1
        self.levels: dict[int, PriceLevel] = {}
        self.ranks: SortedList[int] = SortedList()
        self.best: PriceLevel | None = None
        self.changed = changed
        """The book's."""

    def in_priority(self) -> Iterator[PriceLevel]:
        """Yield the levels, best first."""
        levels = self.levels
        for rank in self.ranks:
            yield levels[rank]

    def add(self, order_id: OrderId, account_id: AccountId, price: PriceTicks, quantity: int) -> RestingOrder:
        """Append an order to its price's queue."""
        rank = price * self.sign
        level = self.levels.get(rank)
        if level is None:
            level = self.levels[rank] = PriceLevel(self, price, rank)
            self.ranks.add(rank)
            if self.best is None or rank < self.best.rank:
                self.best = level
        order = RestingOrder(order_id, account_id, quantity, level)
        last = level.last
        if last is None:
            level.first = order
        else:
            last.following = order
            order.preceding = last
        level.last = order
        level.quantity += quantity
        level.order_count += 1
        self.changed[rank] = level
        return order

    def remove(self, order: RestingOrder) -> None:
        """Take an order out of its queue, and its level out of the book when it was the last one there."""
        level = order.level
        before, after = order.preceding, order.following
        if before is None:
            level.first = after
        else:
            before.following = after
        if after is None:
            level.last = before
        else:
            after.preceding = before
        level.quantity -= order.quantity
        level.order_count -= 1
        self.changed[level.rank] = level
        if level.first is None:
            del self.levels[level.rank]
            self.ranks.remove(level.rank)
            if level is self.best:
                self.best = self.levels[self.ranks[0]] if self.ranks else None


class Match(msgspec.Struct, frozen=True, gc=False):
    """One maker that an arriving order traded with."""

    order_id: OrderId
    account_id: AccountId
    price: PriceTicks
    quantity: int
    """Lots."""


class Matching(msgspec.Struct, frozen=True, gc=False):
    """What an arriving order did to the book."""

    matches: list[Match]
    leaves_quantity: int
    """Lots."""
    makers_expired: list[tuple[OrderId, AccountId]]
    """Makers that self-trade prevention took out."""
    taker_expired: bool
    """Whether self-trade prevention ended the taker."""


class Book:
    """The two sides of one market, and where each resting order is."""

    __slots__ = ("asks", "bids", "changed", "orders", "quote_per_tick_lot")

    def __init__(self, quote_per_tick_lot: int) -> None:
        """Make an empty book in which one lot at a price of one tick costs `quote_per_tick_lot` quote units."""
        self.quote_per_tick_lot = quote_per_tick_lot
        self.changed: dict[int, PriceLevel] = {}
        """Levels touched since the last `take_changes`, by rank: those of bids are negative, those of asks positive."""
        self.bids = BookSide(BUY, self.changed)
        self.asks = BookSide(SELL, self.changed)
        self.orders: dict[OrderId, RestingOrder] = {}

    def side(self, side: Side) -> BookSide:
        """Return the half in which orders of `side` rest."""
        return self.bids if side is BUY else self.asks

    def crosses(self, side: Side, price: PriceTicks) -> bool:
        """Return whether an order of `side` at `price` would trade at once."""
        opposite = self.asks if side is BUY else self.bids
        return opposite.best is not None and opposite.best.rank <= price * opposite.sign

    def add(self, order_id: OrderId, account_id: AccountId, side: Side, price: PriceTicks, quantity: int) -> None:
        """Let an order rest behind all others at its price. It must not cross (see `crosses`)."""
        half = self.bids if side is BUY else self.asks
        self.orders[order_id] = half.add(order_id, account_id, price, quantity)

    def cancel(self, order_id: OrderId) -> bool:
        """Take an order out. Return whether it was there."""
        order = self.orders.pop(order_id, None)
        if order is None:
            return False
        order.level.side.remove(order)
        return True

    def match(
        self,
        side: Side,
        price: PriceTicks,
        quantity: QuantityLots,
        account_id: AccountId,
        prevention: SelfTradePrevention,
        quote_budget: AssetUnits | None = None,
    ) -> Matching:
        """Trade an arriving order of `side` against the opposite half, up to `price`, `quantity` and `quote_budget`.

        With a budget it trades at each maker the most whole lots that the rest of the budget covers, and stops at the
        first maker where that is none.
        """
        opposite = self.asks if side is BUY else self.bids
        rank_max = price * opposite.sign
        leaves: int = quantity
        budget: int | None = quote_budget
        matches: list[Match] = []
        expired: list[tuple[OrderId, AccountId]] = []
        level = opposite.best
        while leaves and level is not None and level.rank <= rank_max:
            maker = level.first
            assert maker is not None  # an empty level is removed at once
            if budget is not None and budget < level.price * self.quote_per_tick_lot:
                break  # before self-trade prevention: what cannot trade prevents nothing
            if maker.account_id == account_id and prevention is not PREVENT_NOTHING:
                if prevention is not EXPIRE_TAKER:
                    expired.append((maker.order_id, maker.account_id))
                    self.cancel(maker.order_id)
                if prevention is not EXPIRE_MAKER:
                    return Matching(matches, leaves, expired, taker_expired=True)
                level = opposite.best
                continue
            traded = maker.quantity if maker.quantity < leaves else leaves
            if budget is not None:
                cost_per_lot = level.price * self.quote_per_tick_lot
                traded = min(traded, budget // cost_per_lot)
                budget -= traded * cost_per_lot
            matches.append(Match(maker.order_id, maker.account_id, level.price, traded))
            leaves -= traded
            if traded == maker.quantity:
                del self.orders[maker.order_id]
                opposite.remove(maker)
                level = opposite.best
            else:
                maker.quantity -= traded
                level.quantity -= traded
                opposite.changed[level.rank] = level
        return Matching(matches, leaves, expired, taker_expired=False)

    def fillable(
        self,
        side: Side,
        price: PriceTicks,
        quantity: QuantityLots,
        account_id: AccountId,
        prevention: SelfTradePrevention,
    ) -> tuple[QuantityLots, AssetUnits]:
        """Return how many of `quantity` lots an order would get up to `price`, and what they would cost.

        Makers of the same account do not count unless self-trade prevention is off; where it would end the taker, the
        walk ends.
        """
        opposite = self.asks if side is BUY else self.bids
        rank_max = price * opposite.sign
        found, cost = 0, 0
        for level in opposite.in_priority():
            if level.rank > rank_max or found == quantity:
                break
            lots = 0
            ended = False
            if prevention is PREVENT_NOTHING:
                lots = level.quantity
            else:
                for order in level.orders():
                    if order.account_id != account_id:
                        lots += order.quantity
                    elif prevention is not EXPIRE_MAKER:
                        ended = True
                        break
                    if found + lots >= quantity:
                        break
            lots = min(lots, quantity - found)
            found += lots
            cost += lots * level.price
            if ended:
                break
        return QuantityLots(found), AssetUnits(cost * self.quote_per_tick_lot)

    def take_changes(self) -> tuple[LevelChange, ...]:
        """Return the levels that changed since the last call, bids first, each with the quantity that rests there now."""
        changed = self.changed
        if len(changed) == 1:  # as for most orders
            _, level = changed.popitem()
            return (make_level_change(level.side.side, level.price, level.quantity),)
        changes = [make_level_change(BUY, each.price, each.quantity) for rank, each in changed.items() if rank < 0]
        changes += [make_level_change(SELL, each.price, each.quantity) for rank, each in changed.items() if rank > 0]
        changed.clear()
        return tuple(changes)
