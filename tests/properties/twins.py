"""The engine and the oracle side by side: the same command to both, then everything that can be seen is
compared."""

from collections import defaultdict

import msgspec

from protocol.commands import CancelAllOrders
from protocol.events import (
    AccountClosed,
    AccountEvent,
    DepthChanged,
    Event,
    FundsDeposited,
    FundsReleased,
    FundsWithdrawn,
    MarketEvent,
    OrderAccepted,
    OrderClosed,
    OrderFilled,
    TradeExecuted,
)
from protocol.market import MarketMap
from protocol.orders import OrderState, OrderStatus, OrderType, Side
from protocol.replies import OrderReply, OrdersReply, Reply
from protocol.units import AssetUnits
from protocol.windows import Windows
from tests.oracle.driver import Engine, Produced
from tests.oracle.exchange import AnyCommand, Exchange, Fill, Outcome, Step, Trade, plain
from tests.properties.markets import market_map
from tests.properties.sequences import ACCOUNTS, SWEEPER, endowment, sweeps

WINDOWS = Windows(request_ms=60, key_ms=120, keys_max=3, transfer_ms=150)
"""Short, so that they end within a sequence of commands."""
OPEN_ORDERS_MAX = 7
"""Of one account; its three markets let it have 4, 5 and 200."""
PAUSES_MS = {3: 12, 7: 12, 11: 70, 15: 12}
"""Request id modulo 16 -> how long nothing happens before the command; otherwise a millisecond."""


def compare_throughout(shard_count: int, commands: list[AnyCommand], engine: type[Engine] = Engine) -> int:
    """Give the commands to engine and oracle, then trade the books empty, and return how many trades there
    were.

    Raises:
        Exception: an `AssertionError` at the first difference, or whatever the engine broke with.
    """
    twins = Twins(market_map(shard_count), (*ACCOUNTS, SWEEPER), engine=engine)
    trade_count = 0
    for command in [*endowment(), *commands, *sweeps()]:
        trade_count += len(twins.apply(command).trades)
    twins.compare_all_orders()
    return trade_count


class Follower:
    """One who only reads the events, and must end up knowing every order, balance and level."""

    def __init__(self) -> None:
        self.orders: dict[int, OrderState] = {}
        self.balances: dict[int, dict[str, tuple[int, int]]] = defaultdict(dict)
        self.levels: dict[str, dict[tuple[Side, int], int]] = defaultdict(dict)
        self.sequences: dict[str, int] = defaultdict(int)
        self.executions: dict[int, int] = defaultdict(int)

    def follow(self, event: Event) -> None:
        match event:
            case TradeExecuted() | DepthChanged():
                self._follow_market(event)
            case OrderAccepted() | OrderFilled() | OrderClosed():
                self._follow_execution(event.order)
                self.orders[event.order.order_id] = plain(event.order)
                self._follow_balances(event.order.account_id, event)
            case FundsDeposited() | FundsWithdrawn() | FundsReleased():
                self._follow_balances(event.account_id, event)
            case _:
                pass  # of no order, balance or level

    def _follow_execution(self, order: OrderState) -> None:
        """Executions are numbered as orders are: by shard, without gaps, in the order in which they are
        told.
        """
        number, shard = divmod(order.execution_id, 100)
        self.executions[shard] += 1
        assert number == self.executions[shard], "executions have a gap"
        assert shard == order.order_id % 100

    def _follow_market(self, event: MarketEvent) -> None:
        assert event.sequence == self.sequences[event.market] + 1, "sequence has a gap"
        self.sequences[event.market] = event.sequence
        if isinstance(event, DepthChanged):
            levels = self.levels[event.market]
            for change in event.changes:
                levels.pop((change.side, change.price), None)
                if change.quantity:
                    levels[change.side, change.price] = change.quantity

    def _follow_balances(self, account_id: int, event: AccountEvent) -> None:
        for balance in event.balances:
            self.balances[account_id][balance.asset] = (balance.available, balance.held)

    def balances_of(self, account_id: int) -> dict[str, tuple[int, int]]:
        return {asset: funds for asset, funds in self.balances[account_id].items() if any(funds)}


class Twins:
    """The engine on some number of shards, and its obviously right twin."""

    def __init__(
        self,
        market_map: MarketMap,
        accounts: tuple[int, ...],
        windows: Windows = WINDOWS,
        engine: type[Engine] = Engine,
    ) -> None:
        self.market_map = market_map
        self.accounts = accounts
        self.engine = engine(market_map, windows, OPEN_ORDERS_MAX)
        self.oracle = Exchange(market_map, windows, OPEN_ORDERS_MAX)
        self.follower = Follower()
        self.time = 1_000

    def apply(self, command: AnyCommand) -> Outcome:
        """Give the command to both, compare all that they say and are, and return the oracle's outcome."""
        self.time += PAUSES_MS.get(command.request_id % 16, 1)
        expected = self.oracle.apply(command, self.time)
        produced = self.engine.apply(command, self.time)
        assert_same_replies(command, produced, expected)
        assert_same_market_events(command, produced, expected)
        assert_same_steps(produced, expected)
        closed = [event.account_id for event in produced.events if isinstance(event, AccountClosed)]
        assert closed == expected.closed_accounts
        for event in produced.events:
            assert event.time == self.time
            self.follower.follow(event)
        self.compare_state()
        return expected

    def compare_state(self) -> None:
        """Compare books, balances, orders, fees and totals."""
        self.engine.check_invariants()
        for market in self.market_map.markets:
            symbol, followed = market.symbol, self.follower.levels[market.symbol]
            whole_book: dict[tuple[Side, int], int] = {}
            for side in Side:
                expected = self.oracle.levels(symbol, side)
                assert self.engine.levels(symbol, side) == expected, f"{symbol} {side.name}"
                whole_book |= {(side, price): lots for price, lots in expected}
            assert followed == whole_book, f"{symbol} as DepthChanged tells it"
        for account_id in self.accounts:
            funds = self.oracle.balances(account_id)
            assert self.engine.balances(account_id) == funds, f"balances of {account_id}"
            assert self.follower.balances_of(account_id) == funds, (
                f"balances of {account_id} as events tell them"
            )
            open_orders = [
                o.state() for o in self.oracle.orders if o.is_open and o.command.account_id == account_id
            ]
            assert [plain(order) for order in self.engine.open_orders(account_id)] == open_orders, (
                f"open orders of {account_id}"
            )
        states = {order.order_id: order.state() for order in self.oracle.orders}
        assert self.follower.orders == states, "orders as events tell them"
        self.compare_money()

    def compare_money(self) -> None:
        """Compare fees, deposits and withdrawals, and that every shard's sum is right."""
        known = [account_id for shard in self.engine.shards for account_id in shard.state.accounts]
        assert sorted(known) == sorted(self.oracle.accounts)
        totals: dict[str, list[int]] = {asset: [0] * 6 for asset in self.market_map.assets}
        for shard in self.engine.audit():
            for asset, available, held, fees, deposited, withdrawn, settled in shard.rows:
                assert available + held + fees == deposited - withdrawn + settled, asset
                row = (available, held, fees, deposited, withdrawn, settled)
                totals[asset] = [total + part for total, part in zip(totals[asset], row, strict=True)]
        for asset, (_, _, fees, deposited, withdrawn, settled) in totals.items():
            assert settled == 0, f"{asset} is in flight although all is quiet"
            assert fees == self.oracle.fees[asset], f"fees in {asset}"
            assert deposited == self.oracle.deposited[asset], f"deposits of {asset}"
            assert withdrawn == self.oracle.withdrawn[asset], f"withdrawals of {asset}"

    def compare_all_orders(self) -> None:
        """Ask the engine for every order that ever was."""
        for order in self.oracle.orders:
            state = order.state()
            assert plain(self.engine.order(state.account_id, state.market, state.order_id)) == state


def assert_same_replies(command: AnyCommand, produced: Produced, expected: Outcome) -> None:
    """There is exactly one reply, to the one who asked, and it says what the oracle says."""
    assert len(produced.replies) == 1, produced.replies
    reply_to, reply = produced.replies[0]
    assert reply_to == command.reply_to
    assert _comparable(reply) == _comparable(expected.reply), (command, reply, expected.reply)


def _comparable(reply: Reply) -> object:
    match reply:
        case OrdersReply():
            return (
                reply.request_id,
                reply.time,
                sorted(map(plain, reply.orders), key=lambda order: order.order_id),
            )
        case OrderReply():
            return msgspec.structs.replace(reply, order=plain(reply.order))
    return reply


def assert_same_market_events(command: AnyCommand, produced: Produced, expected: Outcome) -> None:
    """Trades first, each as the oracle made it, then one DepthChanged with the levels that changed, each
    once."""
    market_events = [event for event in produced.events if isinstance(event, TradeExecuted | DepthChanged)]
    trades = [event for event in market_events if isinstance(event, TradeExecuted)]
    depth_changes = [event for event in market_events if isinstance(event, DepthChanged)]
    assert market_events == [*trades, *depth_changes]
    assert [
        Trade(
            t.trade_id, t.aggregate_id, t.price, t.quantity, t.taker_side, t.maker_order_id, t.taker_order_id
        )
        for t in trades
    ] == expected.trades
    changed: dict[tuple[Side, int], int] = {}
    for event in depth_changes:
        levels = {(change.side, int(change.price)): int(change.quantity) for change in event.changes}
        assert len(levels) == len(event.changes), "a level is told twice"
        changed |= levels
    assert changed == expected.changed_levels
    if not isinstance(command, CancelAllOrders):  # which may reach the market's shard as several cancels
        assert len(depth_changes) == bool(changed)


def assert_same_steps(produced: Produced, expected: Outcome) -> None:
    """Every order went through the same states, by the same fills, in the same order."""
    told: dict[int, list[Step]] = defaultdict(list)
    for event in produced.events:
        match event:
            case OrderAccepted():
                told[event.order.order_id].append(Step(plain(event.order)))
            case OrderFilled():
                fill = Fill(
                    event.trade_id,
                    event.price,
                    event.quantity,
                    event.quote,
                    event.liquidity,
                    event.fee,
                    event.fee_asset,
                )
                told[event.order.order_id].append(Step(_without_passing_hold(plain(event.order)), fill))
            case OrderClosed():
                assert event.reason is event.order.close_reason
                told[event.order.order_id].append(Step(plain(event.order), cancel_id=event.cancel_id))
    should: dict[int, list[Step]] = defaultdict(list)
    for step in expected.steps:
        should[step.state.order_id].append(
            Step(_without_passing_hold(step.state), step.fill) if step.fill else step
        )
    assert told == should


def _without_passing_hold(order: OrderState) -> OrderState:
    """Leave out what a MARKET order holds between two of its fills: nobody can see it, and no rule
    fixes it.
    """
    if order.order_type is OrderType.MARKET and order.status is OrderStatus.PARTIALLY_FILLED:
        return msgspec.structs.replace(order, held=AssetUnits(0))
    return order
