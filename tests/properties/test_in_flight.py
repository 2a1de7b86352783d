"""Whatever way and however often the mail between shards travels, as long as it keeps its order: money is
conserved at every moment, no book is crossed, and everyone who asked gets one answer."""

from collections import Counter, defaultdict

from hypothesis import given
from hypothesis import strategies as st

from protocol.commands import Deposit, MakerFill, PlaceOrder, TakerOutcome
from protocol.events import TradeExecuted
from protocol.orders import OrderStatus, OrderType, Side, TimeInForce
from protocol.units import AccountId, AssetUnits, PriceTicks, QuantityLots
from tests.oracle.driver import Engine, Produced
from tests.oracle.exchange import plain
from tests.properties.markets import market_map
from tests.properties.profile import fewer_sequences
from tests.properties.sequences import ACCOUNTS, LENGTH_MAX, SWEEPER, commands_of, endowment, seeds
from tests.properties.twins import Follower

SHARD_COUNT = 3


@given(
    seed=seeds,
    journeys=st.lists(st.binary(min_size=4, max_size=4), min_size=LENGTH_MAX, max_size=LENGTH_MAX),
)
@fewer_sequences
def test_conserved_while_messages_are_in_flight(seed: list[bytes], journeys: list[bytes]) -> None:
    engine = Engine(market_map(SHARD_COUNT))
    follower, sides = Follower(), dict[tuple[str, int], Side]()
    produced, replies = Produced(), Counter[int]()

    def look() -> None:
        for event in produced.events:
            follower.follow(event)
            if isinstance(event, TradeExecuted):
                sides[event.market, event.trade_id] = event.taker_side
        replies.update(reply.request_id for _, reply in produced.replies)
        produced.events.clear()
        produced.replies.clear()
        check_money(engine, sides)
        check_books(engine)
        engine.check_invariants()

    time = 0
    for time, command in enumerate(endowment()):
        engine.submit(command, time, produced)
    look()
    commands = commands_of(seed)
    for command, journey in zip(commands, journeys, strict=False):
        time += 1
        engine.submit(command, time, produced)
        look()
        for octet in journey:
            if engine.mail and octet % 4:
                ways = sorted(engine.mail)
                engine.deliver(ways[octet // 4 % len(ways)], time, produced, times=1 + (octet >= 240))
                look()
    while engine.mail:
        engine.deliver(max(engine.mail), time, produced)
        look()

    asked = Counter(command.request_id for command in commands)
    for command in commands:
        # A repetition that overtakes the first attempt's answer is content with that answer.
        assert 1 <= replies[command.request_id] <= asked[command.request_id], command
    for account_id in (*ACCOUNTS, SWEEPER):
        assert engine.balances(account_id) == follower.balances_of(account_id)
        for order in engine.open_orders(account_id):
            assert follower.orders[order.order_id] == plain(order)


def test_an_order_on_its_way_is_known_but_not_open() -> None:
    # Otherwise someone who asks what became of an unanswered order would be told that there is none.
    engine = Engine(market_map(SHARD_COUNT))
    account_id = AccountId(
        1 + engine.market_map.shard_of_market("FIGPLUM")
    )  # of another shard than the market
    engine.apply(Deposit(1, "test", account_id, "PLUM", AssetUnits(9_000), "start"), 0)
    place = PlaceOrder(
        *(2, "test", account_id, "mine", "FIGPLUM"),
        *(Side.BUY, OrderType.LIMIT, TimeInForce.GTC, PriceTicks(5), QuantityLots(20)),
    )
    produced = Produced()
    engine.submit(place, 1, produced)
    assert not produced.replies
    order_id = next(
        iter(engine.shards[account_id % SHARD_COUNT].state.accounts[account_id].open_orders["FIGPLUM"])
    )
    assert engine.order(account_id, "FIGPLUM", order_id).status is OrderStatus.IN_FLIGHT
    assert engine.open_orders(account_id) == []
    while engine.mail:
        engine.deliver(min(engine.mail), 1, produced)
    assert engine.order(account_id, "FIGPLUM", order_id).status is OrderStatus.NEW


def check_money(engine: Engine, sides: dict[tuple[str, int], Side]) -> None:
    """What settlements moved, and what those on their way will move, adds up to nothing."""
    moved: dict[str, int] = defaultdict(int)
    for shard in engine.audit():
        for asset, available, held, fees, deposited, withdrawn, settled in shard.rows:
            assert available + held + fees == deposited - withdrawn + settled, asset
            moved[asset] += settled
    for frame in (frame for frames in engine.mail.values() for frame in frames):
        for message in frame.messages:
            match message:
                case TakerOutcome():
                    for fill in message.fills:
                        side = sides[message.market, fill.trade_id]
                        add_settlement(engine, moved, message.market, side, fill.price, fill.quantity)
                case MakerFill():
                    side = sides[message.market, message.trade_id].opposite
                    add_settlement(engine, moved, message.market, side, message.price, message.quantity)
    assert not any(moved.values()), dict(moved)


def add_settlement(
    engine: Engine, moved: dict[str, int], symbol: str, side: Side, price: int, quantity: int
) -> None:
    """Add what one order's share of a trade moves."""
    market, sign = engine.market_map.by_symbol[symbol], 1 if side is Side.BUY else -1
    moved[market.base] += sign * market.base_units(QuantityLots(quantity))
    moved[market.quote] -= sign * market.notional(PriceTicks(price), QuantityLots(quantity))


def check_books(engine: Engine) -> None:
    """No book is crossed."""
    for market in engine.market_map.markets:
        bids, asks = engine.levels(market.symbol, Side.BUY), engine.levels(market.symbol, Side.SELL)
        assert not (bids and asks) or bids[0][0] < asks[0][0], market.symbol
