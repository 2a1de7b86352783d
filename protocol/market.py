"""Markets: assets, grid, limits and fees."""

import re
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as SequenceOf
from functools import cache
from types import MappingProxyType
from typing import Final, Self

import msgspec

from protocol.orders import Side
from protocol.units import (
    AMOUNT_UNITS_MAX,
    PPM,
    SCALE_MAX,
    UNITS_PER_ASSET,
    AccountId,
    AssetUnits,
    DecimalError,
    PriceTicks,
    QuantityLots,
    format_amount,
    format_decimal,
    parse_decimal,
)

_NAME = re.compile(r"[A-Z0-9]{1,20}", re.ASCII)
"""Characters that need no quoting in a stream, column or URL."""


ACCOUNT_SLOTS: Final = 2_520
"""Accounts are placed by slots, `account_id % ACCOUNT_SLOTS`.

Every number up to 10 divides it, so that up to 10 shards get equal parts.
"""


class MarketError(ValueError):
    """A market's definition contradicts itself."""


def _unit_text(scale: int) -> str:
    """Return the smallest amount of an asset of `scale` decimals: 0.01 for two."""
    return format_decimal(1, scale)


class Asset(msgspec.Struct, frozen=True):
    """An asset; its amounts are whole numbers of 10**-scale."""

    symbol: str
    scale: int = SCALE_MAX
    supply: int = 0
    """The maximum supply, in whole assets; 0: as much as 63 bits hold."""

    def __post_init__(self) -> None:
        """Refuse an asset whose amounts could exceed 63 bits.

        Raises:
            MarketError: names the broken rule.
        """
        if not 0 <= self.scale <= SCALE_MAX:
            raise MarketError(f"{self.symbol}: the scale is the number of decimals, 0 to {SCALE_MAX}")
        if not 0 <= self.supply * 10**self.scale <= AMOUNT_UNITS_MAX:
            raise MarketError(
                f"{self.symbol}: a supply of {self.supply} with {self.scale} decimals does not fit 63 bits: "
                f"declare at most {AMOUNT_UNITS_MAX // 10**self.scale}, or a smaller scale"
            )

    @property
    def amount_max(self) -> AssetUnits:
        """The supply in units."""
        return AssetUnits(self.supply * 10**self.scale or AMOUNT_UNITS_MAX)


MARKET_SLIPPAGE_PPM: Final = 50_000
"""Default for how far beyond the best price a MARKET order may trade: 5 %."""
MATCHES_MAX: Final = 500
"""Default for how many resting orders one arriving order may meet: 5 to 10 ms of its shard's time."""


class Market(msgspec.Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    """One tradable market.

    `tick_size` and `lot_size` are in units of 10**-8 of a price and of a quantity, whatever the assets'
    scales. All other prices and quantities are in ticks or lots, and money is in units of its asset.
    `band_*_ppm` bound a limit price relative to the last price, as PERCENT_PRICE_BY_SIDE does: a buy may cost
    at most `last * band_up_ppm / PPM`, a sell at least `last * band_down_ppm / PPM`, and neither may be
    beyond the other bound. Fees are parts per million of what the order receives.
    """

    symbol: str
    base: str
    quote: str
    tick_size: int
    lot_size: int
    price_max: PriceTicks
    quantity_min: QuantityLots
    quantity_max: QuantityLots
    notional_min: AssetUnits
    """In quote units."""
    band_up_ppm: int
    band_down_ppm: int
    maker_fee_ppm: int
    taker_fee_ppm: int
    open_orders_max: int = 200
    """Maximum of one account's open orders in this market."""
    quote_per_tick_lot: int = 0
    """Quote units that one lot costs at a price of one tick. Derived; a value passed in is replaced."""
    base_scale: int = SCALE_MAX
    quote_scale: int = SCALE_MAX
    base_supply: int = 0
    """As in `Asset`; repeated so that a market's configuration is complete on its own."""
    quote_supply: int = 0
    base_per_lot: int = 0
    """Base units in one lot. Derived, too."""
    matches_max: int = 2_000
    """Maximum of resting orders that one arriving order may meet; then its remainder expires.

    The default is for markets that were logged without this field.
    """
    market_slippage_ppm: int = MARKET_SLIPPAGE_PPM
    """How far beyond the best price a MARKET order may trade; then its remainder expires."""

    def __post_init__(self) -> None:
        """Refuse a definition with which amounts of money would not be whole numbers.

        Raises:
            MarketError: names the broken rule.
        """
        if not all(_NAME.fullmatch(name) for name in (self.symbol, self.base, self.quote)):
            raise MarketError(f"{self.symbol[:40]!r}: names are 1 to 20 letters and digits")
        if self.base == self.quote:
            raise MarketError(f"{self.symbol}: {self.base} cannot be traded against itself")
        if min(self.tick_size, self.lot_size) < 1:
            raise MarketError(f"{self.symbol}: sizes and limits must be positive")
        base, quote = self.assets
        base_per_lot, rest = divmod(self.lot_size * 10**base.scale, UNITS_PER_ASSET)
        if rest:
            raise MarketError(
                f"{self.symbol}: lot_size {format_decimal(self.lot_size)} is not a whole number of "
                f"{base.symbol} units of {_unit_text(base.scale)}: take a multiple of that as lot_size, or a "
                f"larger scale for {base.symbol}"
            )
        quote_per_tick_lot, rest = divmod(
            self.tick_size * self.lot_size * 10**quote.scale, UNITS_PER_ASSET**2
        )
        if rest:
            raise MarketError(
                f"{self.symbol}: tick_size x lot_size is not a whole number of {quote.symbol} units of "
                f"{_unit_text(quote.scale)}: take a larger tick_size or lot_size, or a larger scale for "
                f"{quote.symbol}"
            )
        msgspec.structs.force_setattr(self, "base_per_lot", base_per_lot)
        msgspec.structs.force_setattr(self, "quote_per_tick_lot", quote_per_tick_lot)
        if self.price_max * self.quantity_max * self.quote_per_tick_lot > AMOUNT_UNITS_MAX // 10:
            raise MarketError(
                f"{self.symbol}: price_max x quantity_max is more than "
                f"{format_amount(AMOUNT_UNITS_MAX // 10, quote.scale)} {quote.symbol}: take a smaller "
                f"price_max or quantity_max, or a smaller scale for {quote.symbol}"
            )
        if min(self.price_max, self.quantity_min, self.open_orders_max, self.matches_max) < 1:
            raise MarketError(f"{self.symbol}: sizes and limits must be positive")
        if not (0 <= self.maker_fee_ppm < PPM and 0 <= self.taker_fee_ppm < PPM):
            raise MarketError(f"{self.symbol}: a fee must be at least 0 and less than the whole")
        if not 0 <= self.market_slippage_ppm < PPM:
            raise MarketError(f"{self.symbol}: market_slippage must be at least 0 and less than the whole")
        if not 0 <= self.band_down_ppm < PPM < self.band_up_ppm:
            raise MarketError(f"{self.symbol}: the price band must contain the last price")

    @property
    def assets(self) -> tuple[Asset, Asset]:
        """The base and the quote asset, as this market declares them."""
        return (
            Asset(self.base, self.base_scale, self.base_supply),
            Asset(self.quote, self.quote_scale, self.quote_supply),
        )

    def notional(self, price: PriceTicks, quantity: QuantityLots) -> AssetUnits:
        """Return what `quantity` costs at `price`, in quote units."""
        return AssetUnits(price * quantity * self.quote_per_tick_lot)

    def market_bound(self, side: Side, best: PriceTicks) -> PriceTicks:
        """Return the worst price at which a MARKET order of `side` may trade if the best price is `best`.

        Rounded to the tick that is nearer to `best`, so that it never exceeds the slippage.
        """
        if side is Side.BUY:
            return PriceTicks(min(best * (PPM + self.market_slippage_ppm) // PPM, self.price_max))
        return PriceTicks(-(-best * (PPM - self.market_slippage_ppm) // PPM))

    def base_units(self, quantity: QuantityLots) -> AssetUnits:
        """Return `quantity` in base units."""
        return AssetUnits(quantity * self.base_per_lot)

    def format_price(self, price: PriceTicks) -> str:
        """Return `price` as a decimal string with 8 decimals."""
        return format_decimal(price * self.tick_size)

    def format_quantity(self, quantity: QuantityLots) -> str:
        """Return `quantity` as a decimal string with 8 decimals."""
        return format_decimal(quantity * self.lot_size)

    def format_quote(self, amount: int) -> str:
        """Return quote units as a decimal string with 8 decimals."""
        return format_amount(amount, self.quote_scale)

    def format_amount(self, amount: int, asset: str) -> str:
        """Return units of the base or the quote asset as a decimal string with 8 decimals."""
        return format_amount(amount, self.base_scale if asset == self.base else self.quote_scale)


class AssetDefinition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An asset as the markets file writes it."""

    symbol: str
    scale: int = SCALE_MAX
    supply: str = ""
    """In whole assets; empty: the maximum."""

    def to_asset(self) -> Asset:
        """Return the asset.

        Raises:
            MarketError: the supply is not a whole number of at least 1, or is too large for the scale.
        """
        try:
            supply = parse_decimal(self.supply, 0) if self.supply else 0
        except DecimalError as error:
            raise MarketError(f"{self.symbol}: the supply is a number of whole assets: {error}") from error
        if self.supply and not supply:
            raise MarketError(
                f"{self.symbol}: a supply must be positive; leave it out to have as much as fits"
            )
        return Asset(self.symbol, self.scale, supply)


NO_ASSETS: Final[Mapping[str, Asset]] = MappingProxyType({})


class MarketDefinition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A market as the markets file writes it: decimal strings, and fractions instead of percentages."""

    symbol: str
    base: str
    quote: str
    tick_size: str
    lot_size: str
    price_max: str
    quantity_min: str
    quantity_max: str
    notional_min: str
    band_up: str = "5"
    band_down: str = "0.2"
    maker_fee: str = "0.001"
    taker_fee: str = "0.001"
    open_orders_max: int = 200
    matches_max: int = MATCHES_MAX
    market_slippage: str = "0.05"

    def to_market(self, assets: Mapping[str, Asset] = NO_ASSETS) -> Market:
        """Return the market in whole numbers; an asset that is not in `assets` has eight decimals.

        Raises:
            MarketError: a text is not a decimal, or the definition contradicts itself.
        """
        try:
            tick_size, lot_size = parse_decimal(self.tick_size), parse_decimal(self.lot_size)
            if not tick_size or not lot_size:
                raise MarketError(f"{self.symbol}: tick_size and lot_size must be positive")
            base, quote = (assets.get(symbol) or Asset(symbol) for symbol in (self.base, self.quote))
            return Market(
                symbol=self.symbol,
                base=self.base,
                quote=self.quote,
                tick_size=tick_size,
                lot_size=lot_size,
                price_max=PriceTicks(parse_decimal(self.price_max) // tick_size),
                quantity_min=QuantityLots(-(-parse_decimal(self.quantity_min) // lot_size)),
                quantity_max=QuantityLots(parse_decimal(self.quantity_max) // lot_size),
                notional_min=AssetUnits(parse_decimal(self.notional_min, quote.scale)),
                band_up_ppm=parse_decimal(self.band_up, 6),
                band_down_ppm=parse_decimal(self.band_down, 6),
                maker_fee_ppm=parse_decimal(self.maker_fee, 6),
                taker_fee_ppm=parse_decimal(self.taker_fee, 6),
                open_orders_max=self.open_orders_max,
                matches_max=self.matches_max,
                market_slippage_ppm=parse_decimal(self.market_slippage, 6),
                base_scale=base.scale,
                quote_scale=quote.scale,
                base_supply=base.supply,
                quote_supply=quote.supply,
            )
        except DecimalError as error:
            raise MarketError(f"{self.symbol}: {error}") from error


class MarketsFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A markets file: the markets, and the assets with their own scale or supply."""

    markets: list[MarketDefinition]
    assets: list[AssetDefinition] = []

    def to_markets(self) -> list[Market]:
        """Return the markets in whole numbers.

        Raises:
            MarketError: a market or an asset is invalid, an asset occurs twice, or no market uses it.
        """
        assets: dict[str, Asset] = {}
        for definition in self.assets:
            if definition.symbol in assets:
                raise MarketError(f"asset {definition.symbol} may be there only once")
            assets[definition.symbol] = definition.to_asset()
        traded = {symbol for market in self.markets for symbol in (market.base, market.quote)}
        if unused := assets.keys() - traded:
            raise MarketError(f"asset {min(unused)} is in no market: is its name right?")
        return [market.to_market(assets) for market in self.markets]


class MarketMap(msgspec.Struct, frozen=True):
    """The markets, in their order, and the shards of markets and accounts.

    The log determines the shards of markets and of account slots. A new exchange assigns both round-robin: on
    a laptop one shard owns everything, and with as many shards as markets each market has its own.
    """

    markets: tuple[Market, ...]
    shard_count: int
    by_symbol: dict[str, Market]
    by_asset: dict[str, Asset]
    shards: dict[str, int]
    """Symbol -> the shard that matches it."""
    slots: bytes
    """Account slot -> the shard that keeps its accounts, a byte each."""
    unknown_shards: tuple[int, ...] = ()
    """Shards whose markets are not known yet; a market that is missing here may belong to one of them."""

    @classmethod
    def of(cls, markets: SequenceOf[Market], shard_count: int) -> Self:
        """Return the map of `markets`, assigned to `shard_count` shards.

        Raises:
            MarketError: no market, two of the same symbol, two that contradict each other about an asset, or
                a shard count outside 1 to SHARD_COUNT_MAX.
        """
        if not markets:
            raise MarketError("at least one market is needed")
        declared: dict[str, tuple[Asset, str]] = {}
        for market in markets:
            for asset in market.assets:
                first, by = declared.setdefault(asset.symbol, (asset, market.symbol))
                if first != asset:
                    raise MarketError(
                        f"{by} and {market.symbol} declare another scale or supply of {asset.symbol}"
                    )
        return cls.placed(
            [(market, number % max(1, shard_count)) for number, market in enumerate(markets)], shard_count
        )

    @classmethod
    def placed(
        cls,
        markets: SequenceOf[tuple[Market, int]],
        shard_count: int,
        slots: bytes = b"",
        unknown_shards: tuple[int, ...] = (),
        assets: Mapping[str, Asset] = NO_ASSETS,
    ) -> Self:
        """Return the map of (market, its shard) pairs, possibly none, and of account slots.

        Empty `slots` are assigned round-robin.

        `assets` takes precedence over the markets' declarations.

        Raises:
            MarketError: two of the same symbol, a shard that does not exist, or a shard count outside 1 to
                SHARD_COUNT_MAX.
        """
        shards = {market.symbol: shard for market, shard in markets}
        if len(shards) != len(markets):
            raise MarketError("each symbol may be there only once")
        if not 1 <= shard_count <= SHARD_COUNT_MAX:
            raise MarketError(f"shard_count must be between 1 and {SHARD_COUNT_MAX}")
        if not all(0 <= shard < shard_count for shard in shards.values()):
            raise MarketError("a market is on a shard that there is not")
        slots = slots or dealt_slots(shard_count)
        if len(slots) != ACCOUNT_SLOTS or max(slots) >= shard_count:
            raise MarketError(f"account slots must be {ACCOUNT_SLOTS}, each on a shard that there is")
        by_symbol = {market.symbol: market for market, _ in markets}
        by_asset = assets_of(by_symbol.values()) | dict(assets)
        return cls(tuple(by_symbol.values()), shard_count, by_symbol, by_asset, shards, slots, unknown_shards)

    @property
    def assets(self) -> tuple[str, ...]:
        """The traded assets, in the markets' order."""
        return tuple(self.by_asset)

    def format_amount(self, amount: int, asset: str) -> str:
        """Return units of `asset`, which a market must have, as a decimal string with 8 decimals."""
        return format_amount(amount, self.by_asset[asset].scale)

    def supply(self, asset: str) -> AssetUnits:
        """Return the maximum supply of `asset` on all shards together, in its units."""
        return self.by_asset[asset].amount_max

    def supply_share(self, asset: str) -> AssetUnits:
        """Return the maximum of deposits minus withdrawals of `asset` at one shard.

        The sum of the shares never exceeds the supply, so no sum of money can exceed it
        (docs/decisions/0004-money.md).
        """
        return AssetUnits(self.supply(asset) // self.shard_count)

    def shard_of_market(self, symbol: str) -> int:
        """Return the shard that matches `symbol`."""
        return self.shards[symbol]

    def shard_of_account(self, account_id: AccountId) -> int:
        """Return the shard that keeps the account's funds and orders."""
        return self.slots[account_id % ACCOUNT_SLOTS]

    def markets_of_shard(self, shard: int) -> tuple[Market, ...]:
        """Return the markets that `shard` matches."""
        return tuple(market for market in self.markets if self.shards[market.symbol] == shard)


SHARD_COUNT_MAX = 100
"""The last two decimal digits of an order id name the shard that assigned it, and nothing else.

The account may be on another shard later.
"""


def assets_of(markets: Iterable[Market]) -> dict[str, Asset]:
    """Return the assets of `markets`, in their order: the first market's scale, and the largest supply.

    Markets contradict each other about a supply while `exchange markets apply` changes one after the other.
    Their scales cannot differ once one shard has accepted all of them (docs/decisions/0004-money.md).
    """
    # Most of a thousand markets declare the same quote asset.
    declared: dict[tuple[str, int, int], None] = {}
    for market in markets:
        declared[market.base, market.base_scale, market.base_supply] = None
        declared[market.quote, market.quote_scale, market.quote_supply] = None
    assets: dict[str, Asset] = {}
    for each in declared:
        asset = Asset(*each)
        known = assets.setdefault(asset.symbol, asset)
        if known is not asset and known.scale == asset.scale and known.amount_max < asset.amount_max:
            assets[asset.symbol] = asset
    return assets


@cache
def dealt_slots(shard_count: int) -> bytes:
    """Return the account slots of a new exchange with `shard_count` shards: assigned round-robin."""
    return bytes(slot % shard_count for slot in range(ACCOUNT_SLOTS))
