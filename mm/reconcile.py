"""From the quotes that rest to the quotes that should: the fewest cancels and placements. Pure."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mm.quoting import Quote
from protocol.orders import Side
from protocol.units import PPM, OrderId, PriceTicks, QuantityLots


class OpenQuote(NamedTuple):
    """One of the market maker's own open orders; `quantity` is the remaining quantity."""

    order_id: OrderId
    side: Side
    price: PriceTicks
    quantity: QuantityLots


class Tolerance(NamedTuple):
    """The minimum and maximum of an open quote's remaining quantity, as fractions of the desired quantity."""

    quantity_ppm_min: int = PPM
    quantity_ppm_max: int = PPM

    def accepts(self, open_quote: OpenQuote, quote: Quote) -> bool:
        """Return whether side and price are equal, and the open quantity is within the tolerance."""
        return (
            open_quote.side is quote.side
            and open_quote.price == quote.price
            and quote.quantity * self.quantity_ppm_min <= open_quote.quantity * PPM
            and open_quote.quantity * PPM <= quote.quantity * self.quantity_ppm_max
        )


class Changes(NamedTuple):
    """The cancels (oldest orders first), then the placements in the order of the desired quotes."""

    cancels: tuple[OpenQuote, ...]
    placements: tuple[Quote, ...]


def reconcile(desired: Sequence[Quote], open_quotes: Iterable[OpenQuote], tolerance: Tolerance) -> Changes:
    """Return the changes after which every desired quote has one matching open quote, without others."""
    unclaimed = sorted(open_quotes)
    placements: list[Quote] = []
    for quote in desired:
        good = next((open_quote for open_quote in unclaimed if tolerance.accepts(open_quote, quote)), None)
        if good is None:
            placements.append(quote)
        else:
            unclaimed.remove(good)
    return Changes(tuple(unclaimed), tuple(placements))
