"""Whole-number units, and the only conversions between them and decimals.

Inside the exchange a price is a count of ticks, a quantity a count of lots, and money a count of its asset's
smallest unit, 10**-scale. Decimal strings exist only at the edges, always with eight decimals. The
conversions here are exact: a text with more decimals than the scale holds is an error, never rounded.
"""

import re
from typing import TYPE_CHECKING, Final, NewType

if TYPE_CHECKING:
    PriceTicks = NewType("PriceTicks", int)
    """A price in ticks of its market."""
    QuantityLots = NewType("QuantityLots", int)
    """A quantity in lots of its market."""
    AssetUnits = NewType("AssetUnits", int)
    """An amount of money in the smallest unit of its asset: 10**-scale."""
    TimeMs = NewType("TimeMs", int)
    """Milliseconds since the Unix epoch; inside the engine, the millisecond part of a stream entry's id."""
    AccountId = NewType("AccountId", int)
    OrderId = NewType("OrderId", int)
    TradeId = NewType("TradeId", int)
    Sequence = NewType("Sequence", int)
    """The engine's numbering of a market's public events; contiguous per market, starting at 1."""
else:
    # At run time a unit is `int` itself: calling a NewType takes twice as long, several times per order.
    PriceTicks = QuantityLots = AssetUnits = TimeMs = AccountId = OrderId = TradeId = Sequence = int

SCALE_MAX: Final = 8
"""The maximum of decimals of an asset; every price, quantity and amount is written with this many."""
UNITS_PER_ASSET: Final = 10**SCALE_MAX
"""One whole in the units of `tick_size` and `lot_size`.

These are also the units of an asset with SCALE_MAX decimals.
"""
AMOUNT_UNITS_MAX: Final = 2**63 - 1
"""The maximum of any balance, hold or supply: the largest database bigint."""
PPM: Final = 1_000_000
"""Fees and bands are in parts per million."""

Large = tuple[int, int]
"""A number of any size, stored or sent as (high, low): high x 2**63 + low.

It holds sums that grow for the lifetime of the exchange. `high` has the sum's sign, and 0 <= `low` < 2**63.
"""
_LARGE_LOW_BITS: Final = 63

_DECIMAL = re.compile(r"([0-9]{1,20})(?:\.([0-9]{1,20}))?", re.ASCII)


class DecimalError(ValueError):
    """The text is not a plain, non-negative decimal number."""


class TooManyDecimalsError(DecimalError):
    """The number has more decimals than its unit can hold."""


def split_large(amount: int) -> Large:
    """Return a whole number of any size as a pair of numbers of 64 bits."""
    return amount >> _LARGE_LOW_BITS, amount & AMOUNT_UNITS_MAX


def join_large(large: Large) -> int:
    """Return the number that `split_large` has split."""
    high, low = large
    return (high << _LARGE_LOW_BITS) + low


def parse_decimal(text: str, scale: int = SCALE_MAX) -> int:
    """Return `text` as a whole number of 10**-scale.

    Accepts only `digits[.digits]` (ASCII, at most 20 on each side; no sign, exponent or blanks). Trailing
    zeros beyond the scale are allowed.

    Raises:
        TooManyDecimalsError: a digit other than 0 is beyond the scale.
        DecimalError: the text is not such a number.
    """
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise DecimalError(f"not a decimal number: {text[:40]!r}")
    whole, fraction = match.group(1), match.group(2) or ""
    if len(fraction) > scale:
        if fraction[scale:].strip("0"):
            raise TooManyDecimalsError(f"more than {scale} decimals: {text!r}")
        fraction = fraction[:scale]
    return int(whole + fraction.ljust(scale, "0"))


def format_decimal(units: int, scale: int = SCALE_MAX) -> str:
    """Return a whole number of 10**-scale as a decimal string with exactly `scale` decimals."""
    # Without a division and a computed format: this is most of the text of answers and streams.
    text = str(units)
    if not scale:
        return text
    if len(text) <= scale or units < 0:
        sign = "-" if units < 0 else ""
        text = sign + text.lstrip("-").zfill(scale + 1)
    return f"{text[:-scale]}.{text[-scale:]}"


_TO_WRITTEN: Final = tuple(10 ** (SCALE_MAX - scale) for scale in range(SCALE_MAX + 1))
"""By scale: the factor that converts an amount to a count of 10**-8."""


def format_amount(amount: int, scale: int) -> str:
    """Return an amount of an asset with `scale` decimals as a decimal string with eight."""
    return format_decimal(amount * _TO_WRITTEN[scale])
