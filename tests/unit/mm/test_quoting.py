from random import Random

from hypothesis import given
from hypothesis import strategies as st

from mm.quoting import (
    INVENTORY_SIDES,
    Quote,
    QuotingPlan,
    desired_quotes,
    first_reference,
    next_reference,
    plan_for,
    quoted_reference,
    random_taking,
)
from protocol.market import Market, MarketDefinition
from protocol.orders import Side
from protocol.units import AMOUNT_UNITS_MAX, AssetUnits, PriceTicks, QuantityLots

BTCUSDT = MarketDefinition(
    symbol="BTCUSDT",
    base="BTC",
    quote="USDT",
    tick_size="0.01",
    lot_size="0.00001",
    price_max="1000000",
    quantity_min="0.00001",
    quantity_max="9000",
    notional_min="5",
).to_market()
COARSE = MarketDefinition(
    symbol="AAAUSDT",
    base="AAA",
    quote="USDT",
    tick_size="1",
    lot_size="0.5",
    price_max="5000",
    quantity_min="1",
    quantity_max="9000",
    notional_min="10",
).to_market()

PLENTY = AssetUnits(AMOUNT_UNITS_MAX)
NO_INVENTORY = QuantityLots(0)

markets = st.sampled_from([BTCUSDT, COARSE])
randoms = st.integers(0, 2**32).map(Random)


def plan(market: Market = BTCUSDT, levels: int = 15) -> QuotingPlan:
    return plan_for(market, first_reference(market), levels)


def of_side(quotes: list[Quote], side: Side) -> list[Quote]:
    return [quote for quote in quotes if quote.side is side]


def test_without_inventory_both_sides_have_all_levels_around_the_reference() -> None:
    quotes = desired_quotes(plan(), PriceTicks(10_000_000), NO_INVENTORY, PLENTY, Random(1))
    assert [quote.price for quote in of_side(quotes, Side.BUY)] == [
        9_998_000 - level * 2_000 for level in range(15)
    ]
    assert [quote.price for quote in of_side(quotes, Side.SELL)] == [
        10_002_000 + level * 2_000 for level in range(15)
    ]


def test_best_levels_of_both_sides_come_first() -> None:
    quotes = desired_quotes(plan(), PriceTicks(10_000_000), NO_INVENTORY, PLENTY, Random(1))
    assert [quote.side for quote in quotes[:4]] == [Side.BUY, Side.SELL, Side.BUY, Side.SELL]
    assert len({abs(quote.price - 10_000_000) for quote in quotes[:4]}) == 2


@given(
    market=markets,
    reference=st.integers(1, 500_000_000),
    inventory_percent=st.integers(-150, 150),
    funds=st.integers(0, AMOUNT_UNITS_MAX),
    levels=st.integers(1, 40),
    random=randoms,
)
def test_quotes_are_on_the_grid_never_crossed_and_within_funds_and_inventory(
    market: Market, reference: int, inventory_percent: int, funds: int, levels: int, random: Random
) -> None:
    quoting = plan(market, levels)
    at = PriceTicks(min(reference, market.price_max))
    inventory = QuantityLots(quoting.inventory_max * inventory_percent // 100)
    quotes = desired_quotes(quoting, at, inventory, AssetUnits(funds), random)
    bids, asks = of_side(quotes, Side.BUY), of_side(quotes, Side.SELL)

    for quote in quotes:
        assert 1 <= quote.price <= market.price_max
        assert market.quantity_min <= quote.quantity <= market.quantity_max
        assert market.notional(quote.price, quote.quantity) >= market.notional_min
    assert len({(quote.side, quote.price) for quote in quotes}) == len(quotes)
    assert not bids or not asks or max(bid.price for bid in bids) < min(ask.price for ask in asks)
    bought, sold = sum(bid.quantity for bid in bids), sum(ask.quantity for ask in asks)
    assert bought <= max(0, quoting.inventory_max - inventory)
    assert sold <= max(0, quoting.inventory_max + inventory)
    assert sum(market.notional(bid.price, bid.quantity) for bid in bids) <= funds


def test_inventory_shifts_prices_against_itself_and_at_the_limit_ends_a_side() -> None:
    quoting = plan()
    reference = PriceTicks(10_000_000)

    def best(inventory: int, side: Side) -> int:
        quotes = desired_quotes(quoting, reference, QuantityLots(inventory), PLENTY, Random(1))
        return of_side(quotes, side)[0].price

    half = quoting.inventory_max // 2
    assert best(half, Side.SELL) < best(0, Side.SELL) < best(-half, Side.SELL)
    assert best(half, Side.BUY) < best(0, Side.BUY) < best(-half, Side.BUY)
    full = desired_quotes(quoting, reference, quoting.inventory_max, PLENTY, Random(1))
    assert {quote.side for quote in full} == {Side.SELL}
    empty = desired_quotes(quoting, reference, QuantityLots(-quoting.inventory_max), PLENTY, Random(1))
    assert {quote.side for quote in empty} == {Side.BUY}


def test_a_reference_that_passes_one_rung_moves_one_quote_per_side() -> None:
    quoting = plan()

    def prices(reference: int) -> set[tuple[Side, int]]:
        quotes = desired_quotes(quoting, PriceTicks(reference), NO_INVENTORY, PLENTY, Random(1))
        return {(quote.side, quote.price) for quote in quotes}

    before, after = prices(10_000_000), prices(10_000_000 + quoting.gap)
    assert len(after - before) == len(before - after) == 2


def test_the_ladder_is_the_same_after_a_restart_at_another_price() -> None:
    gaps = {
        plan_for(BTCUSDT, PriceTicks(reference), 15).gap
        for reference in range(10_000_000, 11_000_000, 12_345)
    }
    assert gaps == {2_000}


def test_small_steps_leave_the_quotes_where_they_are() -> None:
    quoting = plan()
    quoted = PriceTicks(10_000_000)
    assert quoted_reference(quoting, quoted, PriceTicks(quoted + quoting.gap - 1)) == quoted
    assert quoted_reference(quoting, quoted, PriceTicks(quoted - quoting.gap)) == quoted - quoting.gap


@given(market=markets, random=randoms)
def test_the_walk_stays_near_its_anchor(market: Market, random: Random) -> None:
    quoting = plan(market)
    reference = quoting.anchor
    for _ in range(500):
        reference = next_reference(quoting, reference, random)
    assert abs(reference - quoting.anchor) <= quoting.anchor // 10


@given(market=markets, inventory=st.integers(-(10**12), 10**12), random=randoms)
def test_takings_are_valid_orders(market: Market, inventory: int, random: Random) -> None:
    quoting = plan(market)
    _, quantity = random_taking(quoting, QuantityLots(inventory), random)
    assert market.quantity_min <= quantity <= quoting.quantity
    assert market.notional(quoting.anchor, quantity) >= market.notional_min


def test_a_taker_at_its_limit_only_goes_back() -> None:
    quoting = plan()
    long, short = quoting.inventory_max, QuantityLots(-quoting.inventory_max)
    random = Random(1)
    assert {random_taking(quoting, long, random)[0] for _ in range(100)} == {Side.SELL}
    assert {random_taking(quoting, short, random)[0] for _ in range(100)} == {Side.BUY}


def test_the_target_holding_leaves_a_side_to_sell_at_the_limit() -> None:
    quoting = plan()
    assert quoting.base_target - quoting.inventory_max == 2 * quoting.side_quantity
    assert quoting.inventory_max == INVENTORY_SIDES * quoting.side_quantity
