"""One market's order book: price-time priority over whole numbers.

Each side keeps its price levels in a dict by *rank* and the ranks in order. The rank of an ask is its price,
that of a bid its negative price, so on both sides the best level has the smallest rank and the code is
written once. A level is a doubly linked list of orders in the order of their arrival. So adding, reducing and
removing an order by its id, and looking at the best price, cost the same however many orders rest; only
opening or closing a level costs the logarithm of their number.

The ranks are in blocks of some hundred, and each block knows what rests on its levels. Whether an order could
be filled, and for how much, is a question about sums: a block that is taken whole is one step, and only the
levels of the last one are looked at one by one. So an order that is refused costs next to nothing, whatever
rests. How a side is divided depends on how it came about; no answer does.
"""

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

import msgspec

from engine_worker.core.enums import BUY, EXPIRE_MAKER, EXPIRE_TAKER, PREVENT_NOTHING, SELL, make_level_change
from engine_worker.core.invariants import InvariantBroken
from protocol.events import LevelChange
from protocol.orders import SelfTradePrevention, Side
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots

BLOCK_LEVELS: Final = 256
"""A block with twice as many levels is divided.

One that has become small is joined with its neighbour if both have no more than this.
"""


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

    __slots__ = ("block", "first", "last", "order_count", "price", "quantity", "rank", "side")

    def __init__(self, side: "BookSide", price: PriceTicks, rank: int) -> None:
        self.side = side
        self.block = _NO_BLOCK
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


class Block:
    """Neighbouring levels of a side: their ranks in order, and what rests there."""

    __slots__ = ("cost", "quantity", "ranks")

    def __init__(self, ranks: list[int], quantity: int = 0, cost: int = 0) -> None:
        self.ranks = ranks
        self.quantity = quantity
        """Lots."""
        self.cost = cost
        """The sum of each level's price times its quantity: ticks × lots."""


_NO_BLOCK: Final = Block([])


class BookSide:
    """One half of the book."""

    __slots__ = ("best", "blocks", "changed", "firsts", "levels", "own", "side", "sign")

    def __init__(self, side: Side, changed: dict[int, PriceLevel]) -> None:
        self.side = side
        self.sign = 1 if side is SELL else -1
        self.levels: dict[int, PriceLevel] = {}
        self.blocks: list[Block] = []
        """Best first; none is empty."""
        self.firsts: list[int] = []
        """The first rank of each block."""
        self.own: dict[AccountId, dict[OrderId, RestingOrder]] = {}
        """The orders of each account that has some."""
        self.best: PriceLevel | None = None
        self.changed = changed
        """The book's."""

    def in_priority(self) -> Iterator[PriceLevel]:
        """Yield the levels, best first."""
        levels = self.levels
        for block in self.blocks:
            for rank in block.ranks:
                yield levels[rank]

    def add(self, order_id: OrderId, account_id: AccountId, price: PriceTicks, quantity: int) -> RestingOrder:
        """Append an order to its price's queue."""
        if quantity <= 0:
            raise InvariantBroken(f"order {order_id} would rest with {quantity} lots")
        rank = price * self.sign
        level = self.levels.get(rank)
        if level is None:
            level = self.levels[rank] = PriceLevel(self, price, rank)
            self._open(level)
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
        own = self.own.get(account_id)
        if own is None:
            self.own[account_id] = {order_id: order}
        else:
            own[order_id] = order
        level.quantity += quantity
        level.order_count += 1
        block = level.block
        block.quantity += quantity
        block.cost += quantity * price
        # A level that changes several times in a batch is told of once, as it is at the end.
        self.changed[rank] = level
        return order

    def reduce(self, order: RestingOrder, quantity: int) -> None:
        """Take so many lots, fewer than it has, off an order; it keeps its place."""
        order.quantity -= quantity
        if order.quantity <= 0:
            raise InvariantBroken(f"order {order.order_id} rests with {order.quantity} lots")
        level = order.level
        level.quantity -= quantity
        block = level.block
        block.quantity -= quantity
        block.cost -= quantity * level.price
        self.changed[level.rank] = level

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
        own = self.own[order.account_id]
        del own[order.order_id]
        if not own:
            del self.own[order.account_id]
        quantity = order.quantity
        level.quantity -= quantity
        level.order_count -= 1
        block = level.block
        block.quantity -= quantity
        block.cost -= quantity * level.price
        self.changed[level.rank] = level
        if level.first is None:
            if level.quantity or level.order_count:
                raise InvariantBroken(
                    f"{level.quantity} lots of {level.order_count} orders are counted at {level.price}, "
                    "where no order rests"
                )
            del self.levels[level.rank]
            self._close(level)
            # After `_close`, which takes the rank out of `firsts`.
            if level is self.best:
                self.best = self.levels[self.firsts[0]] if self.firsts else None

    def _open(self, level: PriceLevel) -> None:
        """Put a new level, with nothing in it yet, into its block."""
        rank, firsts = level.rank, self.firsts
        if not firsts:
            level.block = Block([rank])
            self.blocks.append(level.block)
            firsts.append(rank)
            return
        at = bisect_right(firsts, rank) - 1
        if at < 0:
            at = 0
            firsts[0] = rank
        block = level.block = self.blocks[at]
        insort(block.ranks, rank)
        if len(block.ranks) >= 2 * BLOCK_LEVELS:
            self._divide(at)

    def _close(self, level: PriceLevel) -> None:
        """Take a level with nothing left in it out of its block."""
        rank, firsts, ranks = level.rank, self.firsts, level.block.ranks
        at = bisect_right(firsts, rank) - 1
        del ranks[bisect_left(ranks, rank)]
        if not ranks:
            del self.blocks[at], firsts[at]
            return
        firsts[at] = ranks[0]
        if len(ranks) <= BLOCK_LEVELS // 4 and len(firsts) > 1:
            before = at - 1 if at else 0
            if len(self.blocks[before].ranks) + len(self.blocks[before + 1].ranks) <= BLOCK_LEVELS:
                self._join(before)

    def _divide(self, at: int) -> None:
        block, levels = self.blocks[at], self.levels
        moved = block.ranks[BLOCK_LEVELS:]
        del block.ranks[BLOCK_LEVELS:]
        other = Block(moved)
        for rank in moved:
            level = levels[rank]
            level.block = other
            other.quantity += level.quantity
            other.cost += level.quantity * level.price
        block.quantity -= other.quantity
        block.cost -= other.cost
        self.blocks.insert(at + 1, other)
        self.firsts.insert(at + 1, moved[0])

    def _join(self, at: int) -> None:
        """Join a block with the one behind it."""
        block, other = self.blocks[at], self.blocks[at + 1]
        for rank in other.ranks:
            self.levels[rank].block = block
        block.ranks += other.ranks
        block.quantity += other.quantity
        block.cost += other.cost
        del self.blocks[at + 1], self.firsts[at + 1]

    def sums(self, rank_max: int, quantity: int, without: AccountId | None = None) -> tuple[int, int]:
        """Return how many of `quantity` lots rest up to a rank, best first, and their cost in ticks × lots.

        The orders of the account `without` do not count. Costs a step for each block, and one for each level
        of one block.
        """
        found, cost = 0, 0
        levels = self.levels
        own = self.own.get(without) if without is not None else None
        own_lots, own_cost = defaultdict[Block | PriceLevel, int](int), defaultdict[Block, int](int)
        for order in own.values() if own is not None else ():
            level = order.level
            own_lots[level] += order.quantity
            own_lots[level.block] += order.quantity
            own_cost[level.block] += order.quantity * level.price
        for block in self.blocks:
            lots, worth = block.quantity, block.cost
            if own is not None and block in own_lots:
                lots, worth = lots - own_lots[block], worth - own_cost[block]
            # A whole block is taken without looking at its levels; the first that does not fit whole is the
            # last one.
            if block.ranks[-1] <= rank_max and found + lots <= quantity:
                found += lots
                cost += worth
                continue
            for rank in block.ranks:
                if rank > rank_max or found == quantity:
                    break
                level = levels[rank]
                lots = level.quantity
                if own is not None and level in own_lots:
                    lots -= own_lots[level]
                lots = min(lots, quantity - found)
                found += lots
                cost += lots * level.price
            break
        return found, cost


class Match(msgspec.Struct, frozen=True, gc=False):
    """One maker that an arriving order traded with."""

    order_id: OrderId
    account_id: AccountId
    price: PriceTicks
    quantity: int
    """Lots."""


class PreventedMaker(msgspec.Struct, frozen=True, gc=False):
    """One maker that an arriving order of the same account would have traded with."""

    order_id: OrderId
    account_id: AccountId
    price: PriceTicks
    quantity: int
    """Lots that rest (or rested) there."""
    taker_quantity: int
    """Lots that the taker had left."""
    payable: int
    """Lots of those that the rest of its budget pays; all, without a budget."""


class Matching(msgspec.Struct, frozen=True, gc=False):
    """What an arriving order did to the book."""

    matches: list[Match]
    leaves_quantity: int
    """Lots."""
    prevented: list[PreventedMaker]
    """Makers that self-trade prevention took out, and last the one that it ended the taker for."""
    taker_expired: bool
    """Whether self-trade prevention ended the taker."""
    limit_reached: bool = False
    """Whether the taker has met as many orders as it may, and would meet one more."""
    budget_spent: bool = False
    """Whether what is left of the budget pays no lot of the next order."""


class Book:
    """The two sides of one market, and where each resting order is."""

    __slots__ = ("asks", "bids", "changed", "orders", "quote_per_tick_lot")

    def __init__(self, quote_per_tick_lot: int) -> None:
        """Make an empty book; one lot at a price of one tick costs `quote_per_tick_lot` quote units."""
        self.quote_per_tick_lot = quote_per_tick_lot
        self.changed: dict[int, PriceLevel] = {}
        """Levels touched since the last `take_changes`, by rank: those of bids are negative, those of asks
        positive."""
        self.bids = BookSide(BUY, self.changed)
        self.asks = BookSide(SELL, self.changed)
        self.orders: dict[OrderId, RestingOrder] = {}

    def let_go(self) -> None:
        """Take apart what refers to each other, which no collector looks at.

        The book is not used any more.
        """
        for order in self.orders.values():
            order.preceding = order.following = None
        self.orders.clear()
        for half in (self.bids, self.asks):
            for level in half.levels.values():
                level.first = level.last = None
            half.own.clear()

    def side(self, side: Side) -> BookSide:
        """Return the half in which orders of `side` rest."""
        return self.bids if side is BUY else self.asks

    def crosses(self, side: Side, price: PriceTicks) -> bool:
        """Return whether an order of `side` at `price` would trade at once."""
        opposite = self.asks if side is BUY else self.bids
        return opposite.best is not None and opposite.best.rank <= price * opposite.sign

    def add(
        self, order_id: OrderId, account_id: AccountId, side: Side, price: PriceTicks, quantity: int
    ) -> None:
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
        matches_max: int,
        quote_budget: AssetUnits | None = None,
    ) -> Matching:
        """Match an arriving order of `side` with the opposite half, within price, quantity and budget.

        With a budget it trades at each maker the most whole lots that the rest of the budget covers, and
        stops at the first maker where that is none. It meets `matches_max` orders at most; own ones that are
        prevented count.
        """
        opposite = self.asks if side is BUY else self.bids
        rank_max = price * opposite.sign
        leaves: int = quantity
        budget: int | None = quote_budget
        matches: list[Match] = []
        expired: list[PreventedMaker] = []
        level = opposite.best
        while leaves and level is not None and level.rank <= rank_max:
            maker = level.first
            assert maker is not None  # an empty level is removed at once
            if budget is not None and budget < level.price * self.quote_per_tick_lot:
                # Before self-trade prevention: what cannot trade prevents nothing.
                return Matching(matches, leaves, expired, taker_expired=False, budget_spent=True)
            if len(matches) + len(expired) == matches_max:
                return Matching(matches, leaves, expired, taker_expired=False, limit_reached=True)
            if maker.account_id == account_id and prevention is not PREVENT_NOTHING:
                payable = (
                    leaves
                    if budget is None
                    else min(leaves, budget // (level.price * self.quote_per_tick_lot))
                )
                expired.append(
                    PreventedMaker(
                        maker.order_id, maker.account_id, level.price, maker.quantity, leaves, payable
                    )
                )
                # Both conditions hold for EXPIRE_BOTH: the maker must be canceled before this returns.
                if prevention is not EXPIRE_TAKER:
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
            assert traded > 0, "something is left of both, and the budget pays for a lot"
            # At the maker's price: whoever came first said it first.
            matches.append(Match(maker.order_id, maker.account_id, level.price, traded))
            leaves -= traded
            if traded == maker.quantity:
                del self.orders[maker.order_id]
                opposite.remove(maker)
                level = opposite.best
            else:
                opposite.reduce(maker, traded)
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

        Makers of the same account do not count unless self-trade prevention is off; where it would end the
        taker, the walk ends.
        """
        opposite = self.asks if side is BUY else self.bids
        rank_max = price * opposite.sign
        own = opposite.own.get(account_id) if prevention is not PREVENT_NOTHING else None
        if own is None:
            found, cost = opposite.sums(rank_max, quantity)
        elif prevention is EXPIRE_MAKER:
            found, cost = opposite.sums(rank_max, quantity, without=account_id)
        else:
            found, cost = self._before_own(opposite, rank_max, quantity, account_id)
        return QuantityLots(found), AssetUnits(cost * self.quote_per_tick_lot)

    def meets_more_than(
        self,
        most: int,
        side: Side,
        price: PriceTicks,
        quantity: QuantityLots,
        account_id: AccountId,
        prevention: SelfTradePrevention,
    ) -> bool:
        """Return whether an order that is filled whole meets more than `most` orders.

        Looks at no more than `most` and one.
        """
        opposite = self.asks if side is BUY else self.bids
        skips_own = prevention is EXPIRE_MAKER
        leaves, met = int(quantity), 0
        for level in opposite.in_priority():
            for maker in level.orders():
                if leaves <= 0:
                    return False
                met += 1
                if met > most:
                    return True
                if not (skips_own and maker.account_id == account_id):
                    leaves -= maker.quantity
        return False

    def _before_own(
        self, half: BookSide, rank_max: int, quantity: int, account_id: AccountId
    ) -> tuple[int, int]:
        """Return what an order of the account would get, and its cost, up to its own first resting order."""
        rank = min(order.level.rank for order in half.own[account_id].values())
        if rank > rank_max:
            return half.sums(rank_max, quantity)
        found, cost = half.sums(rank - 1, quantity)
        level, lots = half.levels[rank], 0
        for order in level.orders():
            if order.account_id == account_id or found + lots >= quantity:
                break
            lots += order.quantity
        lots = min(lots, quantity - found)
        return found + lots, cost + lots * level.price

    def take_changes(self) -> tuple[LevelChange, ...]:
        """Return the levels that changed since the last call, bids first, with their present quantities."""
        changed = self.changed
        if len(changed) == 1:  # as for most orders
            _, level = changed.popitem()
            return (make_level_change(level.side.side, level.price, level.quantity),)
        changes = [
            make_level_change(BUY, each.price, each.quantity) for rank, each in changed.items() if rank < 0
        ]
        changes += [
            make_level_change(SELL, each.price, each.quantity) for rank, each in changed.items() if rank > 0
        ]
        changed.clear()
        return tuple(changes)
