"""The whole exchange as one flat model: every account, every order, one list each.

Written from the rules alone, to be read and believed: nothing is indexed, the book is sorted anew whenever it
is looked at, shares are `Fraction`s, money comes from the decimals that a market declares, and a command
happens in one step however many shards the engine spreads it over. It shares no code with the engine; what it
takes from `protocol` are the words of commands and replies.
"""

from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor

import msgspec

from protocol.commands import (
    CancelAllOrders,
    CancelOrder,
    CloseAccount,
    Command,
    Deposit,
    OperatorCommand,
    PlaceOrder,
    Withdraw,
    WithdrawFees,
)
from protocol.market import Market, MarketMap
from protocol.orders import (
    Balance,
    CloseReason,
    FillReport,
    Liquidity,
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
from protocol.replies import FundsReply, OrderReply, OrdersReply, Refused, Reply
from protocol.units import (
    AMOUNT_UNITS_MAX,
    PPM,
    AssetUnits,
    OrderId,
    PriceTicks,
    QuantityLots,
    TimeMs,
    TradeId,
)
from protocol.windows import DEFAULT_WINDOWS, Windows

AnyCommand = Command | OperatorCommand
"""Whatever somebody waits for."""


@dataclass
class Order:
    """An order that was accepted, open or closed."""

    command: PlaceOrder
    order_id: int
    quantity: int
    held: int
    accepted_time: int
    updated_time: int
    status: OrderStatus = OrderStatus.NEW
    cum_quantity: int = 0
    cum_quote: int = 0
    arrival: int = 0
    version: int = 1
    """How many states it has had."""
    close_reason: CloseReason | None = None
    limit: int = 0
    """The worst price at which it may trade."""
    course: OrderCourse | None = None

    @property
    def is_open(self) -> bool:
        """Whether the order can still trade."""
        return self.status in (OrderStatus.NEW, OrderStatus.PARTIALLY_FILLED)

    @property
    def leaves(self) -> int:
        """Lots still to trade."""
        return self.quantity - self.cum_quantity

    def state(self) -> OrderState:
        """Return the order in the words of the protocol, without a number of its execution."""
        placed = self.command
        return OrderState(
            order_id=OrderId(self.order_id),
            account_id=placed.account_id,
            client_order_id=placed.client_order_id,
            market=placed.market,
            side=placed.side,
            order_type=placed.order_type,
            time_in_force=placed.time_in_force,
            price=placed.price,
            quantity=QuantityLots(self.quantity),
            quote_quantity=placed.quote_quantity,
            self_trade_prevention=placed.self_trade_prevention,
            status=self.status,
            cum_quantity=QuantityLots(self.cum_quantity),
            cum_quote=AssetUnits(self.cum_quote),
            held=AssetUnits(self.held),
            accepted_time=TimeMs(self.accepted_time),
            updated_time=TimeMs(self.updated_time),
            version=self.version,
            close_reason=self.close_reason,
            terms=placed.terms,
            course=self.course,
        )


@dataclass(frozen=True)
class Trade:
    """Two orders met."""

    trade_id: int
    aggregate_id: int
    price: int
    quantity: int
    taker_side: Side
    maker_order_id: int
    taker_order_id: int


@dataclass(frozen=True)
class Fill:
    """One order's share of a trade."""

    trade_id: int
    price: int
    quantity: int
    quote: int
    liquidity: Liquidity
    fee: int
    fee_asset: str


@dataclass(frozen=True)
class Step:
    """Something that happened to one order, and its state after it: accepted or closed, or (with `fill`)
    traded.

    `cancel_id` is that of the cancel that closed it.
    """

    state: OrderState
    fill: Fill | None = None
    cancel_id: str = ""


@dataclass
class Outcome:
    """All that one command did."""

    reply: Reply
    trades: list[Trade] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    changed_levels: dict[tuple[Side, int], int] = field(default_factory=dict)
    """(side, price) -> the lots that now rest there, where that changed."""
    closed_accounts: list[int] = field(default_factory=list)


@dataclass
class Walk:
    """What an arriving order would do to the other side of the book."""

    meets: list[tuple[Order, int]] = field(default_factory=list)
    """The resting orders that it meets, in turn, with the lots that it takes of each: 0 of one that gives
    way, or that ends it."""
    prevented: list[Order] = field(default_factory=list)
    own: list[tuple[Order, int]] = field(default_factory=list)
    """The orders of the same account that it meets, with the lots that it has left there and can pay."""
    stopped_by_own_order: bool = False
    stopped_by_limit: bool = False
    cannot_pay_the_next: bool = False
    next_is_too_dear: bool = False
    """Whether somebody is left who would trade, but not at a price that a MARKET order by quantity may pay.
    """

    @property
    def takes(self) -> list[tuple[Order, int]]:
        """Return what it trades with."""
        return [(maker, lots) for maker, lots in self.meets if lots]

    def up_to(self, matches_max: int) -> "Walk":
        """Return what is left of it when it may meet only so many."""
        if len(self.meets) <= matches_max:
            return self
        meets = self.meets[:matches_max]
        met = [maker for maker, _ in meets]
        prevented = [maker for maker in met if maker in self.prevented]
        return Walk(meets, prevented, [each for each in self.own if each[0] in met], stopped_by_limit=True)

    @property
    def lots(self) -> int:
        """All lots that would trade."""
        return sum(lots for _, lots in self.takes)


@dataclass(frozen=True)
class Answered:
    """A command and the first answer to it."""

    command: AnyCommand
    reply: Reply
    time: int


class RuleBrokenError(Exception):
    """A rule of the exchange refuses the command."""

    def __init__(self, reason: RejectReason) -> None:
        """Keep the rule's name."""
        super().__init__(reason)
        self.reason = reason


class Exchange:
    """Every account, order and fee of the exchange, one command at a time."""

    def __init__(
        self, market_map: MarketMap, windows: Windows = DEFAULT_WINDOWS, open_orders_max: int = 0
    ) -> None:
        """Open an empty exchange; `market_map` is needed for its markets, and for how it numbers orders."""
        self.market_map = market_map
        self.open_orders_max = open_orders_max
        """Of one account in all markets; 0: any number."""
        self.windows = windows
        self.answered: list[Answered] = []
        """Every command that somebody waited for, but for repetitions of one."""
        self.answered_by_key: list[Answered] = []
        """The first command of every idempotency key."""
        self.orders: list[Order] = []
        self.available: Counter[tuple[int, str]] = Counter()
        self.held: Counter[tuple[int, str]] = Counter()
        self.earned: Counter[tuple[int, str]] = Counter()
        """(shard, asset) -> the fees that the accounts of that shard have paid, but for those that were taken
        out."""
        self.accounts: set[int] = set()
        """The accounts of which there is a record: from the first deposit or idempotency key on, until they
        are closed."""
        self.deposited: Counter[str] = Counter()
        self.withdrawn: Counter[str] = Counter()
        self.outstanding: Counter[tuple[int, str]] = Counter()
        """(shard, asset) -> what was deposited there and not withdrawn there."""
        self.transfers: list[tuple[Deposit | Withdraw | WithdrawFees, int]] = []
        """Every transfer that moved money, and when."""
        self.last_price: dict[str, int] = {}
        self.order_counts: Counter[int] = Counter()
        self.trade_counts: Counter[str] = Counter()
        self.aggregate_counts: Counter[str] = Counter()
        self.prevented_counts: Counter[str] = Counter()

    # What may be looked at.

    @property
    def fees(self) -> Counter[str]:
        """All that the house has, by asset."""
        found: Counter[str] = Counter()
        for (_, asset), amount in self.earned.items():
            found[asset] += amount
        return found

    def resting(self, symbol: str, side: Side) -> list[Order]:
        """Return one half of a book, the order that trades first at the front."""
        sign = -1 if side is Side.BUY else 1
        in_market = [order for order in self.orders if order.is_open and order.command.market == symbol]
        orders = [order for order in in_market if order.command.side is side]
        return sorted(orders, key=lambda order: (sign * order.command.price, order.arrival))

    def levels(self, symbol: str, side: Side) -> list[tuple[int, int]]:
        """Return one half of a book as (price, lots), best price first."""
        lots: dict[int, int] = {}
        for order in self.resting(symbol, side):
            lots[order.command.price] = lots.get(order.command.price, 0) + order.leaves
        return list(lots.items())

    def balances(self, account_id: int) -> dict[str, tuple[int, int]]:
        """Return asset -> (available, held), without assets of which there is nothing."""
        every = {a: (self.available[account_id, a], self.held[account_id, a]) for a in self.market_map.assets}
        return {asset: funds for asset, funds in every.items() if any(funds)}

    def open_orders(self, account_id: int, symbol: str) -> list[Order]:
        """Return the account's open orders in one market, oldest first."""
        of_account = [order for order in self.orders if order.command.account_id == account_id]
        return [order for order in of_account if order.is_open and order.command.market == symbol]

    def check(self) -> None:
        """Fail if money came from nowhere, an account owes, a hold has no order, or a book is crossed."""
        for asset in self.market_map.assets:
            funds = (*self.available.items(), *self.held.items())
            owned = sum(units for (_, owned_asset), units in funds if owned_asset == asset)
            assert owned + self.fees[asset] == self.deposited[asset] - self.withdrawn[asset], asset
        assert min((*self.available.values(), *self.held.values()), default=0) >= 0
        holds: Counter[tuple[int, str]] = Counter()
        for order in self.orders:
            holds[order.command.account_id, self._asset_paid(order.command)] += order.held
        assert +holds == +self.held
        for market in self.market_map.markets:
            bids, asks = self.resting(market.symbol, Side.BUY), self.resting(market.symbol, Side.SELL)
            assert not (bids and asks) or bids[0].command.price < asks[0].command.price, market.symbol

    # What may be done.

    def apply(self, command: AnyCommand, time: int) -> Outcome:
        """Do what the command asks, or nothing, and return what happened."""
        before = {market.symbol: self._book(market.symbol) for market in self.market_map.markets}
        first = self._first_answer(command, time)
        if first is not None:
            return Outcome(first)
        try:
            outcome = self._apply_by_key(command, time)
        except RuleBrokenError as broken:
            outcome = Outcome(Refused(command.request_id, TimeMs(time), broken.reason))
        for symbol, levels in before.items():
            after = self._book(symbol)
            outcome.changed_levels |= {
                level: after.get(level, 0)
                for level in levels.keys() | after.keys()
                if levels.get(level, 0) != after.get(level, 0)
            }
        if command.request_id and command.reply_to:
            self.answered.append(Answered(command, outcome.reply, time))
        self.check()
        return outcome

    def _first_answer(self, command: AnyCommand, time: int) -> Reply | None:
        """Return what was answered to the same request, as long as that is remembered."""
        for known in self.answered:
            same = (known.command.reply_to, known.command.request_id) == (
                command.reply_to,
                command.request_id,
            )
            if same and time - known.time <= self.windows.request_ms:
                return known.reply
        return None

    def _apply_by_key(self, command: AnyCommand, time: int) -> Outcome:
        """Do what the command asks, unless the account has used its idempotency key."""
        if not isinstance(command, PlaceOrder | Deposit | Withdraw) or not command.idempotency_key:
            return self._apply(command, time)
        self.accounts.add(command.account_id)
        in_use = self._keys_in_use(command.account_id, time)
        for known in in_use:
            assert isinstance(known.command, PlaceOrder | Deposit | Withdraw)
            if known.command.idempotency_key == command.idempotency_key:
                require(payload(known.command) == payload(command), RejectReason.IDEMPOTENCY_KEY_REUSED)
                return Outcome(msgspec.structs.replace(known.reply, request_id=command.request_id))
        require(len(in_use) < self.windows.keys_max, RejectReason.TOO_MANY_IDEMPOTENCY_KEYS)
        try:
            outcome = self._apply(command, time)
        except RuleBrokenError as broken:
            outcome = Outcome(Refused(command.request_id, TimeMs(time), broken.reason))
        self.answered_by_key.append(Answered(command, outcome.reply, time))
        return outcome

    def _keys_in_use(self, account_id: int, time: int) -> list[Answered]:
        recent = [known for known in self.answered_by_key if time - known.time <= self.windows.key_ms]
        return [
            known
            for known in recent
            if not isinstance(known.command, WithdrawFees) and known.command.account_id == account_id
        ]

    def _apply(self, command: AnyCommand, time: int) -> Outcome:
        match command:
            case PlaceOrder():
                return self._place(command, time)
            case CancelOrder():
                order = self._find_open(command)
                steps = [self._close(order, OrderStatus.CANCELED, time, command.cancel_id)]
                return Outcome(OrderReply(command.request_id, TimeMs(time), order.state()), steps=steps)
            case CancelAllOrders():
                orders = self.open_orders(command.account_id, command.market)
                require(bool(orders), RejectReason.UNKNOWN_ORDER)
                steps = [
                    self._close(order, OrderStatus.CANCELED, time, command.cancel_id) for order in orders
                ]
                states = tuple(order.state() for order in orders)
                return Outcome(OrdersReply(command.request_id, TimeMs(time), states), steps=steps)
            case Deposit() | Withdraw():
                return Outcome(self._transfer(command, time))
            case WithdrawFees():
                return Outcome(self._withdraw_fees(command, time))
            case CloseAccount(account_id=account_id):
                nothing = not self.balances(account_id) and not self._keys_in_use(account_id, time)
                open_orders = [o for o in self.orders if o.is_open and o.command.account_id == account_id]
                require(nothing and not open_orders, RejectReason.ACCOUNT_IN_USE)
                closed = self.accounts & {account_id}
                self.accounts -= closed
                return Outcome(
                    FundsReply(command.request_id, TimeMs(time), ()), closed_accounts=sorted(closed)
                )
            case _:
                raise TypeError(f"{type(command).__name__} is not the oracle's")

    def _transfer(self, command: Deposit | Withdraw, time: int) -> FundsReply:
        owner, amount = (command.account_id, command.asset), command.amount
        require(command.asset in self.market_map.assets, RejectReason.UNKNOWN_ASSET)
        if not self._is_repeated(command, time):
            require(amount > 0, RejectReason.AMOUNT_OUT_OF_RANGE)
            if isinstance(command, Deposit):
                shards = self.market_map.shard_count
                entrance = (command.account_id % shards, command.asset)
                room = supply(self.market_map, command.asset) // shards - self.outstanding[entrance]
                require(amount <= room, RejectReason.AMOUNT_OUT_OF_RANGE)
                self.accounts.add(command.account_id)
                self.available[owner] += amount
                self.deposited[command.asset] += amount
                self.outstanding[entrance] += amount
            else:
                require(amount <= self.available[owner], RejectReason.INSUFFICIENT_BALANCE)
                self.available[owner] -= amount
                self.withdrawn[command.asset] += amount
                self.outstanding[command.account_id % self.market_map.shard_count, command.asset] -= amount
            self.transfers.append((command, time))
        balance_now = Balance(command.asset, AssetUnits(self.available[owner]), AssetUnits(self.held[owner]))
        return FundsReply(command.request_id, TimeMs(time), (balance_now,))

    def _withdraw_fees(self, command: WithdrawFees, time: int) -> FundsReply:
        require(command.asset in self.market_map.assets, RejectReason.UNKNOWN_ASSET)
        purse = (command.shard, command.asset)
        if not self._is_repeated(command, time):
            require(command.amount > 0, RejectReason.AMOUNT_OUT_OF_RANGE)
            require(command.amount <= self.earned[purse], RejectReason.INSUFFICIENT_BALANCE)
            self.earned[purse] -= command.amount
            self.withdrawn[command.asset] += command.amount
            self.outstanding[purse] -= command.amount
            self.transfers.append((command, time))
        left = Balance(command.asset, AssetUnits(self.earned[purse]), AssetUnits(0))
        return FundsReply(command.request_id, TimeMs(time), (left,))

    def _is_repeated(self, command: Deposit | Withdraw | WithdrawFees, time: int) -> bool:
        """Return whether the same transfer has moved money already; refuse one that has the same id only."""
        for earlier, moved in self.transfers:
            same_id = type(earlier) is type(command) and earlier.transfer_id == command.transfer_id
            if (
                same_id
                and owner_of(earlier) == owner_of(command)
                and time - moved <= self.windows.transfer_ms
            ):
                same = (earlier.asset, earlier.amount) == (command.asset, command.amount)
                require(same, RejectReason.TRANSFER_ID_REUSED)
                return True
        return False

    def _place(self, command: PlaceOrder, time: int) -> Outcome:
        require(command.market in self.market_map.by_symbol, RejectReason.UNKNOWN_MARKET)
        market = self.market_map.by_symbol[command.market]
        check_combination(command)
        in_use = {
            order.command.client_order_id
            for order in self.orders
            if order.is_open and order.command.account_id == command.account_id
        }
        require(command.client_order_id not in in_use, RejectReason.DUPLICATE_CLIENT_ORDER_ID)
        check_limits(command, market)
        open_count = len(self.open_orders(command.account_id, command.market))
        require(open_count < market.open_orders_max, RejectReason.TOO_MANY_OPEN_ORDERS)
        in_all = sum(len(self.open_orders(command.account_id, each)) for each in self.market_map.by_symbol)
        require(
            not self.open_orders_max or in_all < self.open_orders_max,
            RejectReason.TOO_MANY_OPEN_ORDERS_IN_ALL,
        )

        purse = (command.account_id, self._asset_paid(command))
        hold = hold_for(command, market, self.available[purse])
        require(0 < hold <= self.available[purse], RejectReason.INSUFFICIENT_BALANCE)
        shard = self.market_map.shard_of_account(command.account_id)
        self.order_counts[shard] += 1
        order = Order(command, self.order_counts[shard] * 100 + shard, command.quantity, hold, time, time)
        order.limit = self._worst_price(command, market)
        walk = self._walk(order, market)
        self._check_in_market(order, market, walk)
        walk = walk.up_to(market.matches_max)

        self.available[purse] -= hold
        self.held[purse] += hold
        order.arrival = len(self.orders)
        self.orders.append(order)
        outcome = Outcome(
            OrderReply(command.request_id, TimeMs(time), order.state()), steps=[Step(order.state())]
        )
        fills, prevented = self._match(order, market, walk, time, outcome)
        outcome.reply = OrderReply(
            command.request_id, TimeMs(time), order.state(), tuple(fills), tuple(prevented)
        )
        return outcome

    def _worst_price(self, command: PlaceOrder, market: Market) -> int:
        """Return what the order may pay at most, or take at least.

        Where nobody is to trade with, anything.
        """
        others = self.resting(market.symbol, command.side.opposite)
        if not command.bound_by_book or not others:
            return command.price
        best, slippage = others[0].command.price, Fraction(market.market_slippage_ppm, PPM)
        if command.side is Side.BUY:
            return min(floor(best * (1 + slippage)), market.price_max)
        return ceil(best * (1 - slippage))

    def _check_in_market(self, order: Order, market: Market, walk: Walk) -> None:
        command, last = order.command, self.last_price.get(market.symbol)
        if command.bound_by_book and command.quantity:
            others = self.resting(market.symbol, command.side.opposite)
            price = last if last is not None else others[0].command.price if others else None
            if price is None:
                raise RuleBrokenError(RejectReason.EMPTY_BOOK)
            require(
                lot_cost(market, price) * command.quantity >= market.notional_min,
                RejectReason.NOTIONAL_TOO_SMALL,
            )
        if command.order_type is not OrderType.MARKET and last is not None:
            inside = last * market.band_down_ppm <= command.price * PPM <= last * market.band_up_ppm
            require(inside, RejectReason.PRICE_OUTSIDE_BAND)
        if command.order_type is OrderType.LIMIT_MAKER:
            would_match = any(
                reaches(order, maker) for maker in self.resting(market.symbol, command.side.opposite)
            )
            require(not would_match, RejectReason.WOULD_MATCH_IMMEDIATELY)
        if command.order_type is OrderType.MARKET and command.side is Side.BUY and command.quantity:
            cost = sum(lot_cost(market, maker.command.price) * lots for maker, lots in walk.takes)
            require(cost <= order.held, RejectReason.INSUFFICIENT_BALANCE)
        if by_quote(command):
            self._check_what_it_would_meet(order, market)
        if command.time_in_force is TimeInForce.FOK and walk.lots == command.quantity:
            require(len(walk.meets) <= market.matches_max, RejectReason.TOO_MANY_MATCHES)

    def _check_what_it_would_meet(self, order: Order, market: Market) -> None:
        """Refuse an order by quote quantity that would trade less than the smallest order, or sell more than
        there is."""
        command = order.command
        met = [each for each in self.resting(market.symbol, command.side.opposite) if reaches(order, each)]
        require(bool(met), RejectReason.EMPTY_BOOK)
        prices = [each.command.price for each in met for _ in range(min(each.leaves, market.quantity_min))]
        prices = prices[: market.quantity_min]
        cost = sum(lot_cost(market, price) for price in prices)
        enough = len(prices) == market.quantity_min and cost <= command.quote_quantity
        require(enough, RejectReason.THIN_BOOK)
        has = order.held // lot(market)
        if command.side is Side.SELL and has < market.quantity_max:
            buyers = []
            for each in met:
                is_own = each.command.account_id == command.account_id
                if is_own and command.self_trade_prevention is SelfTradePrevention.EXPIRE_MAKER:
                    continue
                if is_own and command.self_trade_prevention is not SelfTradePrevention.NONE:
                    break
                buyers += [each.command.price] * min(each.leaves, has + 1)
            one_more = buyers[: has + 1]
            brings = sum(lot_cost(market, price) for price in one_more)
            would_sell_more = len(one_more) == has + 1 and brings <= command.quote_quantity
            require(not would_sell_more, RejectReason.INSUFFICIENT_BALANCE)

    def _walk(self, taker: Order, market: Market) -> Walk:
        """Look, without touching, at what the order would trade with."""
        command, walk = taker.command, Walk()
        lots_left, budget, spent = int(command.quantity), int(command.quote_quantity), 0
        by_quantity = command.side is Side.BUY and not by_quote(command) and command.bound_by_book
        held_by_estimate = by_quantity and lot_cost(market, command.price) * command.quantity == taker.held
        if by_quote(command):
            lots_left = min(
                budget if command.side is Side.BUY else taker.held // lot(market), market.quantity_max
            )
        for maker in self.resting(market.symbol, command.side.opposite):
            cost = lot_cost(market, maker.command.price)
            lots = min(maker.leaves, lots_left)
            if not reaches(taker, maker):
                walk.next_is_too_dear = lots_left > 0
                break
            if held_by_estimate:
                payable = floor(Fraction(taker.held - spent, cost))
                walk.next_is_too_dear = lots > 0 and payable == 0
                lots = min(lots, payable)
            if by_quote(command):
                payable = floor(Fraction(budget, cost))
                walk.cannot_pay_the_next = lots > 0 and payable == 0
                lots = min(lots, payable)
            if lots == 0:
                break
            if maker.command.account_id == command.account_id:
                prevention = command.self_trade_prevention
                if prevention is not SelfTradePrevention.NONE:
                    walk.meets.append((maker, 0))
                    payable = floor(Fraction(budget, cost)) if by_quote(command) else lots_left
                    walk.own.append((maker, min(lots_left, payable)))
                if prevention in (SelfTradePrevention.EXPIRE_MAKER, SelfTradePrevention.EXPIRE_BOTH):
                    walk.prevented.append(maker)
                if prevention in (SelfTradePrevention.EXPIRE_TAKER, SelfTradePrevention.EXPIRE_BOTH):
                    walk.stopped_by_own_order = True
                    break
                if prevention is SelfTradePrevention.EXPIRE_MAKER:
                    continue
            walk.meets.append((maker, lots))
            lots_left -= lots
            budget -= lots * cost
            spent += lots * cost
            if lots < maker.leaves:
                walk.next_is_too_dear = held_by_estimate and lots_left > 0
                break
        return walk

    def _match(
        self, taker: Order, market: Market, walk: Walk, time: int, outcome: Outcome
    ) -> tuple[list[FillReport], list[Prevented]]:
        command = taker.command
        if command.time_in_force is TimeInForce.FOK and walk.lots < command.quantity:
            outcome.steps.append(self._close(taker, OrderStatus.EXPIRED, time))
            return [], []
        prevented = [self._prevent(taker, maker, lots_left) for maker, lots_left in walk.own]
        outcome.steps += [self._close(maker, OrderStatus.EXPIRED_IN_MATCH, time) for maker in walk.prevented]

        fills: list[FillReport] = []
        price_before = None
        for number, (maker, lots) in enumerate(walk.takes, start=1):
            price = maker.command.price
            self.trade_counts[market.symbol] += 1
            self.aggregate_counts[market.symbol] += price != price_before
            self.last_price[market.symbol] = price_before = price
            trade = Trade(
                self.trade_counts[market.symbol],
                self.aggregate_counts[market.symbol],
                price,
                lots,
                command.side,
                maker.order_id,
                taker.order_id,
            )
            outcome.trades.append(trade)
            outcome.steps.append(self._fill(maker, trade, market, Liquidity.MAKER, time))
            is_last = number == len(walk.takes)
            step = self._fill(taker, trade, market, Liquidity.TAKER, time, is_last, walk.cannot_pay_the_next)
            outcome.steps.append(step)
            fill = step.fill
            assert fill is not None
            fills.append(
                FillReport(
                    TradeId(fill.trade_id),
                    PriceTicks(fill.price),
                    QuantityLots(fill.quantity),
                    AssetUnits(fill.fee),
                    fill.fee_asset,
                )
            )

        order_ends = walk.stopped_by_own_order or walk.stopped_by_limit
        rests = command.time_in_force is TimeInForce.GTC and not order_ends
        if taker.is_open and not rests:
            status = OrderStatus.EXPIRED_IN_MATCH if walk.stopped_by_own_order else OrderStatus.EXPIRED
            reason = CloseReason.TOO_MANY_MATCHES if walk.stopped_by_limit else None
            if command.bound_by_book and walk.next_is_too_dear and not order_ends:
                reason = CloseReason.PRICE_RANGE_EXCEEDED
            if walk.stopped_by_own_order:
                lost = prevented[-1]
                taker.course = OrderCourse(
                    prevented_quantity=lost.taker_quantity, prevented_match_id=lost.match_id
                )
            outcome.steps.append(self._close(taker, status, time, reason=reason))
        return fills, prevented

    def _prevent(self, taker: Order, maker: Order, lots_left: int) -> Prevented:
        """Number a trade that does not happen, and note at the maker what it loses by it."""
        mode, symbol = taker.command.self_trade_prevention, taker.command.market
        self.prevented_counts[symbol] += 1
        number, ends_both = self.prevented_counts[symbol], mode is SelfTradePrevention.EXPIRE_BOTH
        of_maker = maker.leaves if ends_both or mode is SelfTradePrevention.EXPIRE_MAKER else 0
        of_taker = lots_left if ends_both or mode is SelfTradePrevention.EXPIRE_TAKER else 0
        if of_maker:
            maker.course = OrderCourse(prevented_quantity=QuantityLots(of_maker), prevented_match_id=number)
        return Prevented(
            number,
            OrderId(maker.order_id),
            maker.command.price,
            QuantityLots(of_taker),
            QuantityLots(of_maker),
            QuantityLots(min(lots_left, maker.leaves)),
        )

    def _fill(
        self,
        order: Order,
        trade: Trade,
        market: Market,
        liquidity: Liquidity,
        time: int,
        is_last: bool = False,
        cannot_pay_the_next: bool = False,
    ) -> Step:
        """Pay for one trade out of the order's hold, and receive less the fee."""
        command, account_id = order.command, order.command.account_id
        quote = lot_cost(market, trade.price) * trade.quantity
        base = trade.quantity * lot(market)
        paid, received, asset = (
            (quote, base, market.base) if command.side is Side.BUY else (base, quote, market.quote)
        )
        fee_ppm = market.maker_fee_ppm if liquidity is Liquidity.MAKER else market.taker_fee_ppm
        fee = ceil(Fraction(received * fee_ppm, PPM))

        order.held -= paid
        self.held[account_id, self._asset_paid(command)] -= paid
        self.available[account_id, asset] += received - fee
        self.earned[account_id % self.market_map.shard_count, asset] += fee
        order.cum_quantity += trade.quantity
        order.cum_quote += quote
        order.updated_time = time
        order.version += 1
        order.status = OrderStatus.PARTIALLY_FILLED
        if by_quote(command):
            budget_left = command.quote_quantity - order.cum_quote
            done = is_last and (cannot_pay_the_next or budget_left < lot_cost(market, trade.price))
        else:
            done = order.leaves == 0
        if done:
            order.status = OrderStatus.FILLED
            order.quantity = order.cum_quantity
            self._release(order, 0)
        elif command.order_type is not OrderType.MARKET and command.side is Side.BUY:
            self._release(order, lot_cost(market, command.price) * order.leaves)
        return Step(
            order.state(), Fill(trade.trade_id, trade.price, trade.quantity, quote, liquidity, fee, asset)
        )

    def _close(
        self,
        order: Order,
        status: OrderStatus,
        time: int,
        cancel_id: str = "",
        reason: CloseReason | None = None,
    ) -> Step:
        order.status = status
        order.close_reason = reason or close_reason(order)
        order.updated_time = time
        order.version += 1
        if by_quote(order.command):
            order.quantity = order.cum_quantity
        self._release(order, 0)
        return Step(order.state(), cancel_id=cancel_id)

    def _release(self, order: Order, keep: int) -> None:
        purse, released = (order.command.account_id, self._asset_paid(order.command)), order.held - keep
        order.held = keep
        self.held[purse] -= released
        self.available[purse] += released

    def _find_open(self, command: CancelOrder) -> Order:
        for order in self.open_orders(command.account_id, command.market):
            by_id = command.order_id in (0, order.order_id)
            by_name = command.client_order_id in ("", order.command.client_order_id)
            if by_id and by_name and (command.order_id or command.client_order_id):
                return order
        raise RuleBrokenError(RejectReason.UNKNOWN_ORDER)

    def _book(self, symbol: str) -> dict[tuple[Side, int], int]:
        return {(side, price): lots for side in Side for price, lots in self.levels(symbol, side)}

    def _asset_paid(self, command: PlaceOrder) -> str:
        market = self.market_map.by_symbol[command.market]
        return market.quote if command.side is Side.BUY else market.base


def require(kept: bool, rule: RejectReason) -> None:
    """Refuse the command unless the rule is kept."""
    if not kept:
        raise RuleBrokenError(rule)


def owner_of(command: Deposit | Withdraw | WithdrawFees) -> tuple[str, int]:
    """Return whose transfer it is: an account's, or the house's at one shard."""
    if isinstance(command, WithdrawFees):
        return "shard", command.shard
    return "account", command.account_id


def payload(command: Command) -> Command:
    """Return what the client asked for: the command without who waits for it, and without a price that is not
    the client's."""
    asked = msgspec.structs.replace(command, request_id=0, reply_to="")
    if isinstance(asked, PlaceOrder) and asked.order_type is OrderType.MARKET:
        return msgspec.structs.replace(asked, price=PriceTicks(0), bound_by_book=False)
    return asked


def by_quote(command: PlaceOrder) -> bool:
    """Whether the order says how much to spend or receive instead of how much to trade."""
    return command.quantity == 0


def reaches(taker: Order, maker: Order) -> bool:
    """Whether the order's price is good enough for the maker's."""
    if taker.command.side is Side.BUY:
        return taker.limit >= maker.command.price
    return taker.limit <= maker.command.price


def check_combination(command: PlaceOrder) -> None:
    """Refuse what does not go together. (A negative price is a matter of the price's range.)"""
    ruled_by_type = {OrderType.MARKET: TimeInForce.IOC, OrderType.LIMIT_MAKER: TimeInForce.GTC}
    good = (
        ruled_by_type.get(command.order_type, command.time_in_force) is command.time_in_force
        and min(command.quantity, command.quote_quantity) >= 0
        and (command.quantity > 0) != (command.quote_quantity > 0)
        and (command.quote_quantity == 0 or command.order_type is OrderType.MARKET)
        and (not command.bound_by_book or command.order_type is OrderType.MARKET)
    )
    require(good, RejectReason.INVALID_COMBINATION)


def check_limits(command: PlaceOrder, market: Market) -> None:
    """Refuse a price, quantity or notional outside the market's limits."""
    if command.bound_by_book and (by_quote(command) or command.side is Side.SELL):
        require(command.price == 0, RejectReason.PRICE_OUT_OF_RANGE)
    else:
        require(1 <= command.price <= market.price_max, RejectReason.PRICE_OUT_OF_RANGE)
    if by_quote(command):
        require(command.quote_quantity >= market.notional_min, RejectReason.NOTIONAL_TOO_SMALL)
        return
    require(
        market.quantity_min <= command.quantity <= market.quantity_max, RejectReason.QUANTITY_OUT_OF_RANGE
    )
    if command.order_type is not OrderType.MARKET:
        notional = lot_cost(market, command.price) * command.quantity
        require(notional >= market.notional_min, RejectReason.NOTIONAL_TOO_SMALL)


def lot(market: Market) -> int:
    """Return one lot in the smallest units of the base asset."""
    return whole(written(market.lot_size) * 10**market.base_scale)


def lot_cost(market: Market, price: int) -> int:
    """Return what one lot costs at a price in ticks, in the smallest units of the quote asset."""
    return whole(price * written(market.tick_size) * written(market.lot_size) * 10**market.quote_scale)


def written(hundred_millionths: int) -> Fraction:
    """Return a tick or a lot as the number that a person writes."""
    return Fraction(hundred_millionths, 10**8)


def whole(number: Fraction) -> int:
    """Return a number that has to be whole."""
    assert number.denominator == 1, number
    return int(number)


def supply(market_map: MarketMap, asset: str) -> int:
    """Return how much of an asset there may be: what its markets declare, which agree, or as much as 63 bits
    hold."""
    (declared,) = {
        supply * 10**scale
        for market in market_map.markets
        for symbol, supply, scale in (
            (market.base, market.base_supply, market.base_scale),
            (market.quote, market.quote_supply, market.quote_scale),
        )
        if symbol == asset
    }
    return declared or AMOUNT_UNITS_MAX


def hold_for(command: PlaceOrder, market: Market, available: int) -> int:
    """Return what the order must hold, in units of the asset that it pays with."""
    cost = lot_cost(market, command.price)
    if command.side is Side.BUY and by_quote(command):
        return command.quote_quantity
    if command.side is Side.BUY:
        whole = cost * command.quantity
        return min(available, whole) if command.order_type is OrderType.MARKET else whole
    if by_quote(command) and command.bound_by_book:
        return min(available // lot(market), market.quantity_max) * lot(market)
    if by_quote(command):
        lots = min(available // lot(market), ceil(Fraction(command.quote_quantity, cost)))
        return lots * lot(market)
    return command.quantity * lot(market)


def close_reason(order: Order) -> CloseReason:
    """Return why an order that is not FILLED has closed: by its owner, by self-trade prevention, or for want
    of somebody to trade with."""
    if order.status is OrderStatus.CANCELED:
        return CloseReason.CANCELED_BY_OWNER
    if order.status is OrderStatus.EXPIRED_IN_MATCH:
        return CloseReason.SELF_TRADE_PREVENTED
    if order.command.order_type is OrderType.MARKET:
        return CloseReason.INSUFFICIENT_LIQUIDITY
    fill_or_kill = order.command.time_in_force is TimeInForce.FOK
    return CloseReason.UNFILLED_FOK if fill_or_kill else CloseReason.UNFILLED_IOC


def plain(order: OrderState) -> OrderState:
    """Leave out the number of its execution: the oracle does not count them."""
    return msgspec.structs.replace(order, execution_id=0)
