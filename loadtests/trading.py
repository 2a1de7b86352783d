"""What a trader of the load test does, and with what: pure, with the randomness passed in."""

from collections.abc import Mapping
from enum import StrEnum
from random import Random
from typing import Final, NamedTuple

from mm.quoting import USD_PRICES
from protocol.market import Market
from protocol.orders import Side
from protocol.units import PPM, UNITS_PER_ASSET, AssetUnits, PriceTicks, QuantityLots

WINDOW_MS: Final = 10_000
"""The window in which an exchange counts an account's orders; it begins at whole multiples."""
WINDOW_PERCENT: Final = 90
"""How much of its order limit a trader makes use of."""
OPEN_ORDERS_MAX: Final = 20
QUOTE_DISTANCE_PPM_MAX: Final = 500
"""Maximum distance of a limit order behind the best price of its own side."""
ORDER_VALUE_USD: Final = range(20, 200)
FUNDS_USD: Final = 200_000
"""What a trader starts with, in each of its market's assets."""
_ID_PREFIX: Final = "load-"


class Action(StrEnum):
    """One thing that a trader does."""

    QUOTE = "quote"
    CANCEL = "cancel"
    TAKE = "take"
    DEPTH = "depth"
    OPEN_ORDERS = "open orders"
    ACCOUNT = "account"
    KLINES = "klines"


MIX: Final[Mapping[Action, int]] = {
    Action.QUOTE: 40,
    Action.CANCEL: 34,
    Action.TAKE: 3,
    Action.DEPTH: 10,
    Action.OPEN_ORDERS: 6,
    Action.ACCOUNT: 3,
    Action.KLINES: 4,
}
"""How often each of 100 times: most orders are canceled again, few trade at once."""


def choose(random: Random, open_orders: int) -> Action:
    """Return the next action; no cancel without an open order, and a maximum of quotes."""
    action = random.choices(list(MIX), list(MIX.values()))[0]
    if action is Action.CANCEL and not open_orders:
        return Action.QUOTE
    if action is Action.QUOTE and open_orders >= OPEN_ORDERS_MAX:
        return Action.CANCEL
    return action


class Touch(NamedTuple):
    """The best prices of a market."""

    bid: PriceTicks
    ask: PriceTicks


def quote_price(random: Random, side: Side, touch: Touch) -> PriceTicks:
    """Return the price of a limit order at or behind the best of its own side."""
    best = touch.bid if side is Side.BUY else touch.ask
    distance = random.randint(0, best * QUOTE_DISTANCE_PPM_MAX // PPM)
    return PriceTicks(max(1, best - distance) if side is Side.BUY else best + distance)


def order_quantity(random: Random, market: Market, price: PriceTicks) -> QuantityLots:
    """Return a quantity worth some tens of dollars at `price`, valid in the market even a tenth below it."""
    value = random.choice(ORDER_VALUE_USD) * UNITS_PER_ASSET // USD_PRICES.get(market.quote, 1)
    one_lot = market.notional(price, QuantityLots(1))
    smallest = -(-market.notional_min * 10 // (one_lot * 9))
    return QuantityLots(max(value // one_lot, smallest, market.quantity_min))


def funds(market: Market, price: PriceTicks) -> dict[str, AssetUnits]:
    """Return a trader's initial funds for `market` at `price`."""
    value = AssetUnits(FUNDS_USD * UNITS_PER_ASSET // USD_PRICES.get(market.quote, 1))
    lots = QuantityLots(value // market.notional(price, QuantityLots(1)))
    return {market.base: market.base_units(lots), market.quote: value}


def timed_id(sent_ns: int, number: int) -> str:
    """Return a client order id with the order's sending time.

    `number` distinguishes orders of one moment.
    """
    return f"{_ID_PREFIX}{sent_ns:x}-{number:x}"


def sent_ns(client_order_id: str) -> int | None:
    """Return when the order with this id was sent; None for ids of others."""
    if not client_order_id.startswith(_ID_PREFIX):
        return None
    try:
        return int(client_order_id.removeprefix(_ID_PREFIX).partition("-")[0], 16)
    except ValueError:
        return None


def order_pause_ms(count: int, limit: int, now_ms: int) -> int:
    """Return the pause in placing orders after the exchange has counted `count` of `limit` in this window."""
    return WINDOW_MS - now_ms % WINDOW_MS if count * 100 >= limit * WINDOW_PERCENT else 0


def source_address(host: str, number: int) -> str:
    """Return the address that client `number` connects from, so that limits per address are its own.

    Only where the exchange is on this machine; elsewhere it is empty: the system chooses.
    """
    if not host.startswith("127."):
        return ""
    high, low = divmod(number, 250)
    return f"127.{1 + high // 250 % 250}.{high % 250}.{1 + low}"
