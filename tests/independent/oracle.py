# mypy: disable-error-code="arg-type, union-attr, return-value, misc, no-any-return, unused-ignore"
# ruff: noqa: E501 - plain numbers all through: it shares no types with what it checks
"""A second exchange, written from protocol/ and docs/ alone, by somebody who had not read the engine.

It is small and slow on purpose: sorted lists, plain numbers, one step after the other. It knows one exchange of some shards between which
messages take no time, so a command is over before the next one begins. `apply` returns the reply; the state is in the attributes.

Where the documents leave something open, these are the rules. They were taken from what the engine does, and none contradicts a document:

* An order is refused for the first rule of: market known, market TRADING, maintenance, type and amounts go together, client order id,
  price, quantity, notional, open orders of the market, open orders of the account in all markets, account frozen, its open orders, orders in 10 s and in a day, funds. Then, by its market: band,
  would match at once (LIMIT_MAKER), cost (a MARKET BUY that holds less than its worst case).
* A notional is asked of LIMIT orders and of the quote quantity. A MARKET order by quantity has none, and no MARKET order has a band.
* A MARKET SELL by quote quantity holds what would bring the amount at the protective price, rounded up to a lot, or all that is available.
* With `bound_by_book` it holds all whole lots that are available, up to the largest quantity. A MARKET order by quantity is then worth what it
  costs at the last price, or before the first trade at the best price; refused as EMPTY_BOOK where there is neither. A BUY by quantity that holds
  what it costs at its price stops where that is used up; one that holds less is refused where it would cost more. Neither is what prevents a
  trade with oneself: whom an order cannot pay it does not meet.
* A MARKET order by quote quantity is refused where nobody is within its price, and where the smallest quantity of the market is not there, or costs
  more than the order has; own orders count as being there. One that sells is refused when it could sell a lot more than it has for no more than it
  asks for. It trades the largest quantity of the market at most. It is FILLED when it has traded and what is left buys no lot at the price of its
  last fill, or of the next order. Otherwise it is EXPIRED_IN_MATCH when it met an own order, or EXPIRED for want of liquidity.
* An account with limits is not closed; with limits that limit nothing it is, and its limits are forgotten.
* Windows of ten seconds and of days begin at multiples of their length. An order counts when its funds are held, whatever its market says then,
  and only while the account has limits.
* A deposit is refused for the first rule of: asset known, transfer id, amount, share of the supply; a withdrawal: asset, transfer id, amount, account
  frozen, funds; a withdrawal of fees as a withdrawal.
* An order has its number before its market looks at it; one that is refused there leaves a gap.
* An execution is numbered in this order: the taker is accepted, filled, closed; the makers are filled; makers that gave way are closed.
* Maintenance refuses orders; cancels, transfers and operators' commands are taken.
* A market's grid, assets and scales never change, also when there was no order, and when it is delisted.
"""

from bisect import insort
from typing import Any, Final

import msgspec

from protocol.commands import (
    CancelAllOrders,
    CancelOrder,
    CancelOrders,
    CloseAccount,
    ConfigureMarket,
    ConfigureShard,
    Deposit,
    LimitAccount,
    PlaceOrder,
    Withdraw,
    WithdrawFees,
)
from protocol.configuration import AccountLimits, MarketConfig, MarketStatus, ShardConfig
from protocol.market import Market
from protocol.orders import (
    Balance,
    CloseReason,
    FillReport,
    OrderCourse,
    OrderState,
    OrderStatus,
    OrderType,
    Prevented,
    RejectReason,
    SelfTradePrevention,
    Side,
    TimeInForce,
)
from protocol.replies import Canceling, Configured, FundsReply, OrderReply, OrdersReply, Refused, Reply
from protocol.units import AssetUnits

MILLION: Final = 1_000_000
DAY: Final = 86_400_000
LARGEST: Final = 2**63 - 1


class No(Exception):  # noqa: N818  # it is an answer, not an error
    """The command is refused."""

    def __init__(self, reason: RejectReason) -> None:
        self.reason = reason


class Order:
    """An open order."""

    def __init__(self, command: PlaceOrder, order_id: int, held: int, time: int) -> None:
        self.command = command
        self.order_id = order_id
        self.account_id = int(command.account_id)
        self.held = held
        self.accepted = self.updated = time
        self.status = OrderStatus.NEW
        self.cum_quantity = 0
        self.cum_quote = 0
        self.execution_id = 0
        self.version = 0
        self.close_reason: CloseReason | None = None
        self.course: OrderCourse | None = None

    @property
    def left(self) -> int:
        """Lots that may still trade."""
        return self.command.quantity - self.cum_quantity

    def __lt__(self, other: "Order") -> bool:
        """Price, then time: bids from the highest, asks from the lowest."""
        sign = -1 if self.command.side is Side.BUY else 1
        mine, others = sign * self.command.price, sign * other.command.price
        return (mine, self.arrival) < (others, other.arrival)

    arrival = 0

    def state(self) -> OrderState:
        """Return what a client is told."""
        c = self.command
        is_open = self.status.is_open
        quantity = self.cum_quantity if c.quote_quantity and not is_open else c.quantity
        return OrderState(
            self.order_id,  # type: ignore[arg-type]
            c.account_id,
            c.client_order_id,
            c.market,
            c.side,
            c.order_type,
            c.time_in_force,
            c.price,
            quantity,  # type: ignore[arg-type]
            c.quote_quantity,
            c.self_trade_prevention,
            self.status,
            self.cum_quantity,  # type: ignore[arg-type]
            self.cum_quote,  # type: ignore[arg-type]
            self.held,  # type: ignore[arg-type]
            self.accepted,  # type: ignore[arg-type]
            self.updated,  # type: ignore[arg-type]
            self.execution_id,
            self.version,
            self.close_reason,
            c.terms,
            self.course,
        )


class Account:
    """Whose money it is."""

    def __init__(self) -> None:
        self.available: dict[str, int] = {}
        self.held: dict[str, int] = {}
        self.orders: dict[int, Order] = {}
        self.limits: AccountLimits | None = None
        self.counts: dict[tuple[int, int], int] = {}

    def has_nothing(self) -> bool:
        """Whether there are neither funds nor orders."""
        return not self.orders and not any(self.available.values()) and not any(self.held.values())

    def balance(self, asset: str) -> Balance:
        """Return the funds in one asset."""
        return Balance(asset, AssetUnits(self.available.get(asset, 0)), AssetUnits(self.held.get(asset, 0)))


class Book:
    """A market: its configuration, and what rests."""

    def __init__(self, config: MarketConfig) -> None:
        self.config = config
        self.sides: dict[Side, list[Order]] = {Side.BUY: [], Side.SELL: []}
        self.last = self.trades = self.aggregates = self.arrivals = self.prevented = 0

    @property
    def market(self) -> Market:
        """The market itself."""
        return self.config.market

    def levels(self, side: Side) -> tuple[tuple[int, int], ...]:
        """Return (price, quantity) from the best."""
        levels: dict[int, int] = {}
        for order in self.sides[side]:
            levels[order.command.price] = levels.get(order.command.price, 0) + order.left
        return tuple(levels.items())


class Place:
    """A shard: what is counted and remembered there."""

    def __init__(self) -> None:
        self.config: ShardConfig | None = None
        self.orders = self.executions = 0
        self.fees: dict[str, int] = {}
        self.deposited: dict[str, int] = {}
        self.withdrawn: dict[str, int] = {}
        self.settled: dict[str, int] = {}
        self.requests: dict[tuple[str, int], tuple[int, Reply]] = {}
        self.keys: dict[tuple[int, str], tuple[int, Any, Reply]] = {}
        self.transfers: dict[Any, tuple[int, str, int]] = {}

    def forget(self, time: int) -> None:
        """Drop what is too old."""
        windows = self.config.windows if self.config else None
        if windows:
            for kept, length in (
                (self.requests, windows.request_ms),
                (self.keys, windows.key_ms),
                (self.transfers, windows.transfer_ms),
            ):
                for key in [key for key, value in kept.items() if time - value[0] > length]:  # type: ignore[attr-defined]
                    del kept[key]  # type: ignore[attr-defined]


def add(amounts: dict[str, int], asset: str, amount: int) -> None:
    """Add to one of several amounts."""
    amounts[asset] = amounts.get(asset, 0) + amount


class Oracle:
    """The exchange."""

    def __init__(self, shard_count: int) -> None:
        self.count = shard_count
        self.places = [Place() for _ in range(shard_count)]
        self.accounts: dict[int, Account] = {}
        self.books: dict[str, Book] = {}
        self.trades: list[tuple[Any, ...]] = []
        """Of the last command."""
        self.counts_twice = False
        """Whether within the last command an account had more than 63 bits hold, because one side of its trade with itself was settled."""

    # What a command goes through

    def apply(self, command: Any, shard: int, time: int) -> Reply | None:
        """Apply a command at a shard, and return the reply."""
        self.trades = []
        self.counts_twice = False
        place = self.places[shard]
        place.forget(time)
        request = (command.reply_to, command.request_id)
        counts = bool(command.reply_to and command.request_id)
        if counts and request in place.requests:
            return place.requests[request][1]
        reply = self.by_key(command, place, shard, time)
        if counts:
            place.requests[request] = (time, reply)
        return reply

    def by_key(self, command: Any, place: Place, shard: int, time: int) -> Reply:
        """Answer a client's own repetition, or do what the command says."""
        name = getattr(command, "idempotency_key", "")
        if not name:
            return self.outcome(command, place, shard, time)
        key, purpose = (command.account_id, name), purpose_of(command)
        if key in place.keys:
            _, earlier, reply = place.keys[key]
            if earlier != purpose:
                return Refused(command.request_id, time, RejectReason.IDEMPOTENCY_KEY_REUSED)  # type: ignore[arg-type]
            return msgspec.structs.replace(reply, request_id=command.request_id)
        assert place.config
        if (
            sum(account_id == command.account_id for account_id, _ in place.keys)
            >= place.config.windows.keys_max
        ):
            return Refused(command.request_id, time, RejectReason.TOO_MANY_IDEMPOTENCY_KEYS)  # type: ignore[arg-type]
        reply = self.outcome(command, place, shard, time)
        place.keys[key] = (time, purpose, reply)
        return reply

    def outcome(self, command: Any, place: Place, shard: int, time: int) -> Reply:
        """Do what the command says."""
        try:
            return HANDLERS[type(command)](self, command, place, shard, time)
        except No as no:
            return Refused(command.request_id, time, no.reason)  # type: ignore[arg-type]

    # Money

    def account(self, account_id: int) -> Account:
        """Return the account, made when there is none."""
        return self.accounts.setdefault(account_id, Account())

    def supply(self, asset: str) -> int | None:
        """Return how much there may be; None: the asset is not known."""
        declared = [
            (book.config.status is not MarketStatus.DELISTED, of.amount_max)
            for book in self.books.values()
            for of in book.market.assets
            if of.symbol == asset
        ]
        listed = [amount for is_listed, amount in declared if is_listed]
        return max(listed or [amount for _, amount in declared], default=None)

    def is_repeated(self, place: Place, name: Any, asset: str, amount: int) -> bool:
        """Tell whether the transfer has been made."""
        if name not in place.transfers:
            return False
        _, *earlier = place.transfers[name]
        if earlier != [asset, amount]:
            raise No(RejectReason.TRANSFER_ID_REUSED)
        return True

    def deposit(self, c: Deposit, place: Place, shard: int, time: int) -> Reply:
        """Money comes in."""
        supply = self.supply(c.asset)
        if supply is None:
            raise No(RejectReason.UNKNOWN_ASSET)
        name = ("in", c.account_id, c.transfer_id)
        if not self.is_repeated(place, name, c.asset, c.amount):
            inside = place.deposited.get(c.asset, 0) - place.withdrawn.get(c.asset, 0)
            if c.amount < 1 or inside + c.amount > supply // self.count:
                raise No(RejectReason.AMOUNT_OUT_OF_RANGE)
            add(self.account(c.account_id).available, c.asset, c.amount)
            add(place.deposited, c.asset, c.amount)
            place.transfers[name] = (time, c.asset, c.amount)
        return FundsReply(c.request_id, time, (self.balance(c.account_id, c.asset),))  # type: ignore[arg-type]

    def balance(self, account_id: int, asset: str) -> Balance:
        """Return the funds of an account that may not be there."""
        return self.accounts.get(account_id, Account()).balance(asset)

    def withdraw(self, c: Withdraw, place: Place, shard: int, time: int) -> Reply:
        """Money goes out."""
        if self.supply(c.asset) is None:
            raise No(RejectReason.UNKNOWN_ASSET)
        name = ("out", c.account_id, c.transfer_id)
        if not self.is_repeated(place, name, c.asset, c.amount):
            account = self.accounts.get(c.account_id, Account())
            if c.amount < 1:
                raise No(RejectReason.AMOUNT_OUT_OF_RANGE)
            if account.limits and account.limits.is_frozen:
                raise No(RejectReason.ACCOUNT_FROZEN)
            if c.amount > account.available.get(c.asset, 0):
                raise No(RejectReason.INSUFFICIENT_BALANCE)
            add(account.available, c.asset, -c.amount)
            add(place.withdrawn, c.asset, c.amount)
            place.transfers[name] = (time, c.asset, c.amount)
        return FundsReply(c.request_id, time, (self.balance(c.account_id, c.asset),))  # type: ignore[arg-type]

    def withdraw_fees(self, c: WithdrawFees, place: Place, shard: int, time: int) -> Reply:
        """Fees go out."""
        if self.supply(c.asset) is None:
            raise No(RejectReason.UNKNOWN_ASSET)
        name = ("fees", c.transfer_id)
        if not self.is_repeated(place, name, c.asset, c.amount):
            if c.amount < 1:
                raise No(RejectReason.AMOUNT_OUT_OF_RANGE)
            if c.amount > place.fees.get(c.asset, 0):
                raise No(RejectReason.INSUFFICIENT_BALANCE)
            add(place.fees, c.asset, -c.amount)
            add(place.withdrawn, c.asset, c.amount)
            place.transfers[name] = (time, c.asset, c.amount)
        left = Balance(c.asset, AssetUnits(place.fees.get(c.asset, 0)), AssetUnits(0))
        return FundsReply(c.request_id, time, (left,))  # type: ignore[arg-type]

    def close_account(self, c: CloseAccount, place: Place, shard: int, time: int) -> Reply:
        """Forget an account that has nothing."""
        account = self.accounts.get(c.account_id, Account())
        limits = account.limits
        if limits and msgspec.structs.replace(limits, version=1) != AccountLimits(1):
            raise No(RejectReason.ACCOUNT_IN_USE)
        if not account.has_nothing() or any(account_id == c.account_id for account_id, _ in place.keys):
            raise No(RejectReason.ACCOUNT_IN_USE)
        self.accounts.pop(c.account_id, None)
        return FundsReply(c.request_id, time, ())  # type: ignore[arg-type]

    # Orders

    def place_order(self, c: PlaceOrder, place: Place, shard: int, time: int) -> Reply:
        """Check an order, hold its funds, match it."""
        book = self.books.get(c.market)
        if book is None:
            raise No(RejectReason.UNKNOWN_MARKET)
        market = book.market
        assert place.config
        if book.config.status is not MarketStatus.TRADING:
            raise No(RejectReason.MARKET_CLOSED)
        if 0 < place.config.maintenance_from <= time:
            raise No(RejectReason.UNDER_MAINTENANCE)
        is_market = c.order_type is OrderType.MARKET
        if is_market:
            fits = c.time_in_force is TimeInForce.IOC and bool(c.quantity) != bool(c.quote_quantity)
        else:
            fits = bool(c.quantity) and not c.quote_quantity
            fits = fits and (c.order_type is OrderType.LIMIT or c.time_in_force is TimeInForce.GTC)
        names_strategy = c.terms is None or {c.terms.strategy_id, c.terms.strategy_type} != {None}
        asks_more = c.terms is not None and any(
            (
                c.terms.stop_price,
                c.terms.trailing_delta_bips,
                c.terms.display_quantity,
                c.terms.expires_time,
                c.terms.peg,
            )
        )
        if not fits or not names_strategy or asks_more or (c.bound_by_book and not is_market):
            raise No(RejectReason.INVALID_COMBINATION)
        account = self.accounts.get(c.account_id, Account())
        if any(order.command.client_order_id == c.client_order_id for order in account.orders.values()):
            raise No(RejectReason.DUPLICATE_CLIENT_ORDER_ID)
        has_price = not c.bound_by_book or (c.side is Side.BUY and c.quantity)
        if not (1 <= c.price <= market.price_max if has_price else c.price == 0):
            raise No(RejectReason.PRICE_OUT_OF_RANGE)
        if c.quantity and not market.quantity_min <= c.quantity <= market.quantity_max:
            raise No(RejectReason.QUANTITY_OUT_OF_RANGE)
        per_lot = c.price * market.quote_per_tick_lot
        if (c.quote_quantity or not is_market) and (
            c.quote_quantity or per_lot * c.quantity
        ) < market.notional_min:
            raise No(RejectReason.NOTIONAL_TOO_SMALL)
        self.check_limits(account, market, time, place.config.open_orders_max)
        hold, lots, budget = self.hold_of(c, market, account)
        spent = market.quote if c.side is Side.BUY else market.base
        if hold > account.available.get(spent, 0):
            raise No(RejectReason.INSUFFICIENT_BALANCE)
        if account.limits:
            for length in (10_000, DAY):
                key = (length, time // length)
                account.counts[key] = account.counts.get(key, 0) + 1
        place.orders += 1
        return self.match(c, book, place, shard, time, hold, lots, budget)

    def check_limits(self, account: Account, market: Market, time: int, most_in_all: int) -> None:
        """Refuse what an operator does not let the account do, or the market."""
        limits = account.limits or AccountLimits(1)
        in_market = sum(order.command.market == market.symbol for order in account.orders.values())
        if in_market >= market.open_orders_max:
            raise No(RejectReason.TOO_MANY_OPEN_ORDERS)
        if 0 < most_in_all <= len(account.orders):
            raise No(RejectReason.TOO_MANY_OPEN_ORDERS_IN_ALL)
        if limits.is_frozen:
            raise No(RejectReason.ACCOUNT_FROZEN)
        if 0 < limits.open_orders_max <= len(account.orders):
            raise No(RejectReason.TOO_MANY_OPEN_ORDERS)
        for length, most in ((10_000, limits.orders_10s_max), (DAY, limits.orders_1d_max)):
            if 0 < most <= account.counts.get((length, time // length), 0):
                raise No(RejectReason.TOO_MANY_ORDERS)

    def hold_of(self, c: PlaceOrder, market: Market, account: Account) -> tuple[int, int, int | None]:
        """Return what to hold, the most lots, and the most quote units (None: no bound)."""
        per_lot = c.price * market.quote_per_tick_lot
        if c.side is Side.BUY:
            available = account.available.get(market.quote, 0)
            if c.quote_quantity:
                return c.quote_quantity, LARGEST, c.quote_quantity
            worst = per_lot * c.quantity
            if c.order_type is OrderType.MARKET:
                if not available:
                    raise No(RejectReason.INSUFFICIENT_BALANCE)
                return min(worst, available), c.quantity, min(worst, available)
            return worst, c.quantity, None
        if c.quote_quantity and c.bound_by_book:
            lots = min(account.available.get(market.base, 0) // market.base_per_lot, market.quantity_max)
            if not lots:
                raise No(RejectReason.INSUFFICIENT_BALANCE)
            return lots * market.base_per_lot, lots, c.quote_quantity
        if c.quote_quantity:
            lots = min(
                -(-c.quote_quantity // per_lot), account.available.get(market.base, 0) // market.base_per_lot
            )
            if not lots:
                raise No(RejectReason.INSUFFICIENT_BALANCE)
            return lots * market.base_per_lot, lots, c.quote_quantity
        return c.quantity * market.base_per_lot, c.quantity, None

    def match(
        self,
        c: PlaceOrder,
        book: Book,
        place: Place,
        shard: int,
        time: int,
        hold: int,
        lots: int,
        budget: int | None,
    ) -> Reply:
        """Let an order whose funds are there meet the book."""
        market, side = book.market, c.side
        if c.order_type is not OrderType.MARKET and book.last:
            low, high = book.last * market.band_down_ppm, book.last * market.band_up_ppm
            if not low <= c.price * MILLION <= high:
                raise No(RejectReason.PRICE_OUTSIDE_BAND)
        others = book.sides[side.opposite]
        sign = 1 if side is Side.BUY else -1
        bound: int = c.price
        if c.bound_by_book:
            bound = self.bound_of(c, book, others)
        met = [order for order in others if sign * order.command.price <= sign * bound]
        is_held_by_price = c.bound_by_book and budget is not None and bool(c.quantity)
        is_held_by_price = is_held_by_price and hold == c.price * market.quote_per_tick_lot * c.quantity
        if c.order_type is OrderType.LIMIT_MAKER and met:
            raise No(RejectReason.WOULD_MATCH_IMMEDIATELY)
        prevention = c.self_trade_prevention
        if c.quote_quantity:
            self.check_market_by_quote(c, market, met, lots)
            lots = min(lots, market.quantity_max)
        left, spent = lots, 0
        fills: list[tuple[Order, int]] = []
        gave_way: list[Order] = []
        own: list[
            tuple[Order, int]
        ] = []  # those of its own account, with the lots that it has left and can pay there
        turns: list[tuple[Order, int]] = []  # everybody whom it meets, with the lots that it takes of them
        prevented = limited = pays_no_more = False
        for maker in met:
            if not left:
                break
            per_lot = maker.command.price * market.quote_per_tick_lot
            most = left
            if c.quote_quantity or is_held_by_price:
                assert budget is not None
                most = min(left, (budget - spent) // per_lot)
                if not most:
                    pays_no_more = True
                    break
            if maker.account_id == c.account_id and prevention is not SelfTradePrevention.NONE:
                turns.append((maker, 0))
                own.append((maker, most if c.quote_quantity else left))
                if prevention is not SelfTradePrevention.EXPIRE_TAKER:
                    gave_way.append(maker)
                if prevention is not SelfTradePrevention.EXPIRE_MAKER:
                    prevented = True
                    break
                continue
            lots_now = min(maker.left, most)
            fills.append((maker, lots_now))
            turns.append((maker, lots_now))
            left -= lots_now
            spent += lots_now * per_lot
            if lots_now < maker.left:
                break  # nobody behind comes before this one
        if budget is not None and spent > budget:
            raise No(RejectReason.INSUFFICIENT_BALANCE)
        if len(turns) > market.matches_max and not (c.time_in_force is TimeInForce.FOK and left):
            if c.time_in_force is TimeInForce.FOK:
                raise No(RejectReason.TOO_MANY_MATCHES)
            limited, prevented, pays_no_more = True, False, False
            turns = turns[: market.matches_max]
            fills = [(maker, taken) for maker, taken in turns if taken]
            gave_way = [maker for maker, taken in turns if not taken]
            own = own[: len(gave_way)]
            left = lots - sum(taken for _, taken in fills)
            spent = sum(maker.command.price * market.quote_per_tick_lot * taken for maker, taken in fills)
        reason = None
        if limited and not (
            c.quote_quantity and fills and self.is_spent(market, fills, (budget or 0) - spent)
        ):
            reason = CloseReason.TOO_MANY_MATCHES
        elif c.time_in_force is TimeInForce.FOK and left:
            fills, gave_way, own, prevented = [], [], [], False
            reason = CloseReason.UNFILLED_FOK
        elif prevented and not (
            c.quote_quantity and fills and self.is_spent(market, fills, (budget or 0) - spent)
        ):
            reason = CloseReason.SELF_TRADE_PREVENTED
        elif c.quote_quantity:
            assert budget is not None
            last_lot = fills[-1][0].command.price * market.quote_per_tick_lot if fills else 0
            done = bool(fills) and (pays_no_more or budget - spent < last_lot)
            reason = None if done else CloseReason.INSUFFICIENT_LIQUIDITY
        elif left and c.order_type is OrderType.MARKET:
            reason = CloseReason.INSUFFICIENT_LIQUIDITY
        elif left and c.time_in_force is TimeInForce.IOC:
            reason = CloseReason.UNFILLED_IOC
        if reason is CloseReason.INSUFFICIENT_LIQUIDITY and c.bound_by_book and left:
            gone = {maker.order_id for maker in gave_way} | {
                maker.order_id for maker, lots in fills if lots == maker.left
            }
            if any(maker.order_id not in gone for maker in others) and not (
                c.quote_quantity and pays_no_more
            ):
                reason = CloseReason.PRICE_RANGE_EXCEEDED

        order = Order(c, place.orders * 100 + shard, hold, time)
        account = self.account(c.account_id)
        asset = market.quote if side is Side.BUY else market.base
        add(account.available, asset, -hold)
        add(account.held, asset, hold)
        self.executed(order, time)
        account.orders[order.order_id] = order
        trades = self.number_trades(book, order, fills)
        reports = []
        ends = reason is None and (not left or bool(c.quote_quantity))
        for number, (trade_id, (maker, quantity)) in enumerate(zip(trades, fills, strict=True), 1):
            is_last = ends and number == len(fills)
            reports.append(
                self.fill(order, book, trade_id, maker.command.price, quantity, False, is_last, time)
            )
        matches = [self.prevent(book, order, maker, lots_left) for maker, lots_left in own]
        if reason is CloseReason.SELF_TRADE_PREVENTED:
            order.course = OrderCourse(
                prevented_quantity=matches[-1].taker_quantity, prevented_match_id=matches[-1].match_id
            )
        if reason is not None:
            self.close(order, reason, time)
        taken = order.state()
        for trade_id, (maker, quantity) in zip(trades, fills, strict=True):
            self.fill(
                maker, book, trade_id, maker.command.price, quantity, True, quantity == maker.left, time
            )
        for maker in gave_way:
            self.close(maker, CloseReason.SELF_TRADE_PREVENTED, time)
        if order.status.is_open:
            book.arrivals += 1
            order.arrival = book.arrivals
            insort(book.sides[side], order)
        return OrderReply(c.request_id, time, taken, tuple(reports), tuple(matches))  # type: ignore[arg-type]

    def prevent(self, book: Book, taker: Order, maker: Order, lots_left: int) -> Prevented:
        """Number a trade that does not happen, before anything of it is changed, and note what the maker loses."""
        book.prevented += 1
        mode = taker.command.self_trade_prevention
        of_maker = 0 if mode is SelfTradePrevention.EXPIRE_TAKER else maker.left
        of_taker = 0 if mode is SelfTradePrevention.EXPIRE_MAKER else lots_left
        if of_maker:
            maker.course = OrderCourse(prevented_quantity=of_maker, prevented_match_id=book.prevented)  # type: ignore[arg-type]
        lots = min(maker.left, lots_left)
        return Prevented(book.prevented, maker.order_id, maker.command.price, of_taker, of_maker, lots)  # type: ignore[arg-type]

    def bound_of(self, c: PlaceOrder, book: Book, others: list[Order]) -> int:
        """Return the worst price of a MARKET order that its market bounds; refuse one by quantity that is worth too little."""
        market = book.market
        best = others[0].command.price if others else 0
        if c.quantity:
            if not (book.last or best):
                raise No(RejectReason.EMPTY_BOOK)
            if (book.last or best) * market.quote_per_tick_lot * c.quantity < market.notional_min:
                raise No(RejectReason.NOTIONAL_TOO_SMALL)
        if c.side is Side.BUY:
            return min(best * (MILLION + market.market_slippage_ppm) // MILLION, market.price_max)
        return -(-best * (MILLION - market.market_slippage_ppm) // MILLION)

    def check_market_by_quote(self, c: PlaceOrder, market: Market, met: list[Order], lots: int) -> None:
        """Refuse what would trade less than the smallest order, or sell more than there is."""
        if not met:
            raise No(RejectReason.EMPTY_BOOK)
        needed, cost = int(market.quantity_min), 0
        for maker in met:
            now = min(needed, maker.left)
            needed -= now
            cost += now * maker.command.price * market.quote_per_tick_lot
        if needed or cost > c.quote_quantity:
            raise No(RejectReason.THIN_BOOK)
        if c.side is Side.BUY or lots >= market.quantity_max:
            return
        wanted, brings = lots + 1, 0
        for maker in met:
            if maker.account_id == c.account_id and c.self_trade_prevention is not SelfTradePrevention.NONE:
                if c.self_trade_prevention is SelfTradePrevention.EXPIRE_MAKER:
                    continue
                break
            now = min(wanted, maker.left)
            wanted -= now
            brings += now * maker.command.price * market.quote_per_tick_lot
        if not wanted and brings <= c.quote_quantity:
            raise No(RejectReason.INSUFFICIENT_BALANCE)

    def is_spent(self, market: Market, fills: list[tuple[Order, int]], left: int) -> bool:
        """Tell whether what is left of a quote quantity buys no lot at the price of the last fill."""
        return left < fills[-1][0].command.price * market.quote_per_tick_lot

    def number_trades(self, book: Book, order: Order, fills: list[tuple[Order, int]]) -> list[int]:
        """Give the trades of an arriving order their numbers."""
        ids = []
        price = 0
        for maker, quantity in fills:
            book.trades += 1
            book.aggregates += maker.command.price != price
            price = book.last = maker.command.price
            ids.append(book.trades)
            self.trades.append(
                (
                    book.market.symbol,
                    book.trades,
                    book.aggregates,
                    price,
                    quantity,
                    order.command.side,
                    maker.order_id,
                    order.order_id,
                    maker.account_id,
                    order.account_id,
                )
            )
        return ids

    def executed(self, order: Order, time: int) -> None:
        """Number an execution."""
        shard = order.account_id % self.count
        place = self.places[shard]
        place.executions += 1
        order.execution_id = place.executions * 100 + shard
        order.version += 1
        order.updated = time

    def fill(
        self,
        order: Order,
        book: Book,
        trade_id: int,
        price: int,
        quantity: int,
        is_maker: bool,
        is_last: bool,
        time: int,
    ) -> FillReport:
        """Move the money of one side of a trade."""
        market, account = book.market, self.accounts[order.account_id]
        place = self.places[order.account_id % self.count]
        quote, base = price * quantity * market.quote_per_tick_lot, quantity * market.base_per_lot
        is_buy = order.command.side is Side.BUY
        gives, given = (market.quote, quote) if is_buy else (market.base, base)
        gets, got = (market.base, base) if is_buy else (market.quote, quote)
        fee = -(-got * (market.maker_fee_ppm if is_maker else market.taker_fee_ppm) // MILLION)
        order.cum_quantity += quantity
        order.cum_quote += quote
        if is_last:
            held = 0
        elif is_buy and order.command.order_type is not OrderType.MARKET:
            held = order.left * order.command.price * market.quote_per_tick_lot
        else:
            held = order.held - given
        add(account.held, gives, held - order.held)
        add(account.available, gives, order.held - held - given)
        order.held = held
        add(account.available, gets, got - fee)
        self.counts_twice |= account.available[gets] + account.held.get(gets, 0) > LARGEST
        add(place.fees, gets, fee)
        add(place.settled, gets, got)
        add(place.settled, gives, -given)
        order.status = OrderStatus.FILLED if is_last else OrderStatus.PARTIALLY_FILLED
        self.executed(order, time)
        if is_last:
            self.leave(order)
        return FillReport(trade_id, price, quantity, fee, gets)  # type: ignore[arg-type]

    def leave(self, order: Order) -> None:
        """Take a closed order out of its account and its book."""
        del self.accounts[order.account_id].orders[order.order_id]
        side = self.books[order.command.market].sides[order.command.side]
        if order in side:
            side.remove(order)

    def close(self, order: Order, reason: CloseReason, time: int) -> None:
        """Close an order that has something left, and release its funds."""
        market, account = self.books[order.command.market].market, self.accounts[order.account_id]
        asset = market.quote if order.command.side is Side.BUY else market.base
        add(account.held, asset, -order.held)
        add(account.available, asset, order.held)
        order.held = 0
        if reason is CloseReason.CANCELED_BY_OWNER:
            order.status = OrderStatus.CANCELED
        elif reason is CloseReason.SELF_TRADE_PREVENTED:
            order.status = OrderStatus.EXPIRED_IN_MATCH
        else:
            order.status = OrderStatus.EXPIRED
        order.close_reason = reason
        self.executed(order, time)
        self.leave(order)

    # Cancels

    def cancel_order(self, c: CancelOrder, place: Place, shard: int, time: int) -> Reply:
        """Cancel one order."""
        for order in self.accounts.get(c.account_id, Account()).orders.values():
            is_named = (
                order.order_id == c.order_id
                if c.order_id
                else order.command.client_order_id == c.client_order_id
            )
            if is_named and order.command.market == c.market:
                if c.order_id and c.client_order_id and c.client_order_id != order.command.client_order_id:
                    break
                self.check_cancels(c.market)
                self.close(order, CloseReason.CANCELED_BY_OWNER, time)
                return OrderReply(c.request_id, time, order.state())  # type: ignore[arg-type]
        raise No(RejectReason.UNKNOWN_ORDER)

    def check_cancels(self, symbol: str) -> None:
        """Refuse cancels in a halted market."""
        if self.books[symbol].config.status is MarketStatus.HALTED:
            raise No(RejectReason.MARKET_CLOSED)

    def cancel_all(self, c: CancelAllOrders, place: Place, shard: int, time: int) -> Reply:
        """Cancel an account's orders in a market."""
        account = self.accounts.get(c.account_id, Account())
        orders = [order for order in account.orders.values() if order.command.market == c.market]
        if not orders:
            raise No(RejectReason.UNKNOWN_ORDER)
        self.check_cancels(c.market)
        for order in orders:
            self.close(order, CloseReason.CANCELED_BY_OWNER, time)
        return OrdersReply(c.request_id, time, tuple(order.state() for order in orders))  # type: ignore[arg-type]

    def cancel_for_operator(self, c: CancelOrders, place: Place, shard: int, time: int) -> Reply:
        """Cancel the orders of an account, or of a market."""
        if c.account_id:
            account = self.accounts.get(c.account_id, Account())
            orders = [order for order in account.orders.values() if c.market in ("", order.command.market)]
            orders.sort(key=lambda order: order.order_id)
            assert place.config
            if place.config.drained_per_command > 1:  # those of other shards come back later
                orders.sort(key=lambda order: self.books[order.command.market].config.shard != shard)
        else:
            book = self.books.get(c.market)
            if book is None or book.config.shard != shard:
                raise No(RejectReason.UNKNOWN_MARKET)
            if book.config.status is MarketStatus.TRADING:
                raise No(RejectReason.MARKET_OPEN)
            orders = self.all_of(book)
        for order in orders:
            self.close(order, CloseReason.CANCELED_BY_OPERATOR, time)
        return Canceling(c.request_id, time, len(orders))  # type: ignore[arg-type]

    def all_of(self, book: Book) -> list[Order]:
        """Return what rests, in the order in which an operator's cancel takes it."""
        return [*book.sides[Side.BUY], *book.sides[Side.SELL]]

    # Configuration

    def limit_account(self, c: LimitAccount, place: Place, shard: int, time: int) -> Reply:
        """Limit an account."""
        earlier = self.accounts.get(c.account_id, Account()).limits
        if c.limits.version != (earlier.version if earlier else 0) + 1:
            raise No(RejectReason.CONFIG_OUTDATED)
        self.account(c.account_id).limits = c.limits
        return Configured(c.request_id, time, c.limits.version)  # type: ignore[arg-type]

    def configure_shard(self, c: ConfigureShard, place: Place, shard: int, time: int) -> Reply:
        """Configure a shard."""
        if c.config.version != (place.config.version if place.config else 0) + 1:
            raise No(RejectReason.CONFIG_OUTDATED)
        if min(c.config.windows) < 1 or c.config.rules != 1:
            raise No(RejectReason.CONFIG_REFUSED)
        place.config = c.config
        return Configured(c.request_id, time, c.config.version)  # type: ignore[arg-type]

    def configure_market(self, c: ConfigureMarket, place: Place, shard: int, time: int) -> Reply:
        """List a market, or change one."""
        config, market = c.config, c.config.market
        book = self.books.get(market.symbol)
        if config.shard != shard or (book and book.config.shard != shard):
            raise No(RejectReason.CONFIG_REFUSED)
        if config.version != (book.config.version if book else 0) + 1:
            raise No(RejectReason.CONFIG_OUTDATED)
        if config.status is MarketStatus.DELISTED or (
            book is None and config.status is MarketStatus.DELISTING
        ):
            raise No(RejectReason.CONFIG_REFUSED)
        if book and grid(book.market) != grid(market):
            raise No(RejectReason.CONFIG_REFUSED)
        scales = {asset.symbol: asset.scale for known in self.books.values() for asset in known.market.assets}
        if any(scales.get(asset.symbol, asset.scale) != asset.scale for asset in market.assets):
            raise No(RejectReason.CONFIG_REFUSED)
        if book is None:
            book = self.books[market.symbol] = Book(config)
        book.config = config
        if config.status is MarketStatus.DELISTING:
            for order in self.all_of(book):
                self.close(order, CloseReason.MARKET_DELISTED, time)
            book.config = msgspec.structs.replace(
                config, status=MarketStatus.DELISTED, version=config.version + 1
            )
        return Configured(c.request_id, time, c.config.version)  # type: ignore[arg-type]


def grid(market: Market) -> tuple[Any, ...]:
    """Return what never changes."""
    return (
        market.base,
        market.quote,
        market.tick_size,
        market.lot_size,
        market.base_scale,
        market.quote_scale,
    )


def purpose_of(c: Any) -> tuple[Any, ...]:
    """Return what two requests with one idempotency key must have in common: what the client has sent."""
    if isinstance(c, PlaceOrder):
        price = 0 if c.order_type is OrderType.MARKET else c.price
        return (
            "order",
            c.client_order_id,
            c.market,
            c.side,
            c.order_type,
            c.time_in_force,
            price,
            c.quantity,
            c.quote_quantity,
            c.self_trade_prevention,
            c.terms,
        )
    return (type(c).__name__, c.asset, c.amount, c.transfer_id)


HANDLERS: Final[dict[type, Any]] = {
    PlaceOrder: Oracle.place_order,
    CancelOrder: Oracle.cancel_order,
    CancelAllOrders: Oracle.cancel_all,
    Deposit: Oracle.deposit,
    Withdraw: Oracle.withdraw,
    WithdrawFees: Oracle.withdraw_fees,
    CloseAccount: Oracle.close_account,
    LimitAccount: Oracle.limit_account,
    CancelOrders: Oracle.cancel_for_operator,
    ConfigureShard: Oracle.configure_shard,
    ConfigureMarket: Oracle.configure_market,
}
