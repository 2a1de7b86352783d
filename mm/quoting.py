"""What the market maker wants to have in the book: pure, in whole numbers, with the randomness passed in.

Quotes stand on a ladder of prices that are whole multiples of `gap`. While the reference price stays between
two rungs the desired prices do not change at all, and when it passes one, a single quote per side moves: that
keeps requests few.
"""

from collections.abc import Mapping
from random import Random
from typing import Final, NamedTuple

import msgspec

from protocol.market import Market
from protocol.orders import Side
from protocol.units import PPM, UNITS_PER_ASSET, AssetUnits, PriceTicks, QuantityLots

USD_PRICES: Final[Mapping[str, int]] = {"BTC": 100_000, "ETH": 3_500, "SOL": 180, "USDT": 1}
"""Where a market without any trade starts: its base's price over its quote's. Assets not named count as 1."""

LEVEL_VALUE_USD: Final = 2_000
"""Mean worth of a quote at the best level."""
LEVEL_GROWTH_PPM: Final = 150_000
"""How much larger each further level is, as a part of the best one."""
HALF_SPREAD_PPM: Final = 50
GAP_PPM: Final = 200
"""The most that two levels are apart."""
SKEW_PPM_MAX: Final = 600
"""How far a full inventory shifts the quotes."""
WALK_PPM_MAX: Final = 80
"""The reference price's largest step."""
PULL_PPM: Final = 200
"""The part of its distance to the anchor that every step takes back, so that the walk does not drift away."""
SIZE_SPREAD_PPM: Final = 300_000
"""How far a random size strays from the mean, to either side."""
INVENTORY_SIDES: Final = 4
"""The inventory limit, in multiples of one whole side of quotes."""


class Quote(NamedTuple):
    """One limit order that should rest in the book, before it has an id."""

    side: Side
    price: PriceTicks
    quantity: QuantityLots


class QuotingPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How one market is quoted; fixed from start to stop, so that the ladder stays where it is."""

    market: Market
    levels: int
    anchor: PriceTicks
    """The start of the random walk, to which it is pulled back."""
    half_spread: PriceTicks
    gap: PriceTicks
    quantity: QuantityLots
    """Mean quantity at the best level."""

    @property
    def side_quantity(self) -> QuantityLots:
        """The mean quantity of one whole side."""
        return QuantityLots(sum(self.level_quantity(level) for level in range(self.levels)))

    @property
    def inventory_max(self) -> QuantityLots:
        """How far the inventory may stray from its target, to either side."""
        return QuantityLots(INVENTORY_SIDES * self.side_quantity)

    @property
    def base_target(self) -> QuantityLots:
        """The holding that counts as no inventory: even at the limit a whole side is left to sell."""
        return QuantityLots((INVENTORY_SIDES + 2) * self.side_quantity)

    @property
    def quote_target(self) -> AssetUnits:
        """Quote units that pay for buying up to the limit and one side more."""
        return self.market.notional(self.anchor, QuantityLots((INVENTORY_SIDES + 2) * self.side_quantity))

    def level_quantity(self, level: int) -> QuantityLots:
        """Return the mean quantity at a level, counted from 0, the best; deeper levels have more."""
        return QuantityLots(self.quantity + self.quantity * level * LEVEL_GROWTH_PPM // PPM)


def is_priced(market: Market) -> bool:
    """Return whether the value of a market without any trade is known."""
    return {market.base, market.quote} <= USD_PRICES.keys()


def first_reference(market: Market) -> PriceTicks:
    """Return the reference price of a market without trades, from the assets' assumed prices in USD."""
    units = USD_PRICES.get(market.base, 1) * UNITS_PER_ASSET // USD_PRICES.get(market.quote, 1)
    return _within(market, units // market.tick_size)


def plan_for(market: Market, reference: PriceTicks, levels: int) -> QuotingPlan:
    """Return the quoting plan of a market whose reference price is `reference`."""
    value = LEVEL_VALUE_USD * UNITS_PER_ASSET // USD_PRICES.get(market.quote, 1)
    smallest = -(-4 * market.notional_min // market.notional(reference, QuantityLots(1)))
    quantity = max(value // market.notional(reference, QuantityLots(1)), smallest, 2 * market.quantity_min)
    return QuotingPlan(
        market=market,
        levels=levels,
        anchor=reference,
        half_spread=PriceTicks(max(1, reference * HALF_SPREAD_PPM // PPM)),
        gap=_round_gap(reference * GAP_PPM // PPM),
        quantity=QuantityLots(quantity),
    )


def next_reference(plan: QuotingPlan, reference: PriceTicks, random: Random) -> PriceTicks:
    """Return the reference price after one step of its random walk."""
    wander = reference * random.randint(-WALK_PPM_MAX, WALK_PPM_MAX) // PPM
    pull = (plan.anchor - reference) * PULL_PPM // PPM
    return _within(plan.market, reference + wander + pull)


def quoted_reference(plan: QuotingPlan, quoted: PriceTicks, reference: PriceTicks) -> PriceTicks:
    """Return the price to quote around: it follows the reference only after a gap, for stable quotes."""
    return reference if abs(reference - quoted) >= plan.gap else quoted


def desired_quotes(
    plan: QuotingPlan, reference: PriceTicks, inventory: QuantityLots, quote_funds: AssetUnits, random: Random
) -> list[Quote]:
    """Return the quotes to have now, best levels first, the sides taking turns.

    `inventory` is the base holding less its target. It shifts all prices against itself, and a side offers no
    more than what keeps the inventory within its limit when everything offered trades; `quote_funds` bounds
    the buys likewise.
    """
    market = plan.market
    skew = reference * SKEW_PPM_MAX * inventory // (plan.inventory_max * PPM)
    center = min(max(reference - skew, 1), market.price_max)
    # Rounded away from the center, so that the grid never narrows the spread.
    best_bid = (center - plan.half_spread) // plan.gap * plan.gap
    best_ask = -(-(center + plan.half_spread) // plan.gap) * plan.gap
    room = {Side.BUY: plan.inventory_max - inventory, Side.SELL: plan.inventory_max + inventory}
    funds = int(quote_funds)
    quotes: list[Quote] = []
    for level in range(plan.levels):
        mean = plan.level_quantity(level)
        for side, price in (
            (Side.BUY, best_bid - level * plan.gap),
            (Side.SELL, best_ask + level * plan.gap),
        ):
            if not 1 <= price <= market.price_max:
                continue
            size = mean * random.randint(PPM - SIZE_SPREAD_PPM, PPM + SIZE_SPREAD_PPM) // PPM
            quantity = min(size, room[side], market.quantity_max)
            if side is Side.BUY:
                quantity = min(quantity, funds // market.notional(PriceTicks(price), QuantityLots(1)))
            cost = market.notional(PriceTicks(price), QuantityLots(quantity))
            if quantity < market.quantity_min or cost < market.notional_min:
                continue
            room[side] -= quantity
            if side is Side.BUY:
                funds -= cost
            quotes.append(Quote(side, PriceTicks(price), QuantityLots(quantity)))
    return quotes


def random_taking(plan: QuotingPlan, inventory: QuantityLots, random: Random) -> tuple[Side, QuantityLots]:
    """Return a random taker's next order: the side that reduces its inventory is more likely."""
    lean = max(-PPM, min(PPM, inventory * PPM // plan.inventory_max))
    side = Side.SELL if random.randint(-PPM, PPM - 1) < lean else Side.BUY
    market = plan.market
    smallest = max(
        market.quantity_min, -(-2 * market.notional_min // market.notional(plan.anchor, QuantityLots(1)))
    )
    return side, QuantityLots(random.randint(smallest, max(smallest, plan.quantity // 2)))


def _round_gap(ticks: int) -> PriceTicks:
    """Return the largest 1, 2 or 5 x 10**n within `ticks`, at least 1.

    The ladder is then the same after a restart at another price.
    """
    power = 10 ** (len(str(max(1, ticks))) - 1)
    return PriceTicks(next(step * power for step in (5, 2, 1) if step * power <= max(1, ticks)))


def _within(market: Market, price: int) -> PriceTicks:
    return PriceTicks(min(max(price, 1), market.price_max))
