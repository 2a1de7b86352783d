"""Markets of assets with different scales: what is whole, what is refused, and how money is written."""

import msgspec
import pytest

from protocol.market import (
    Asset,
    AssetDefinition,
    Market,
    MarketDefinition,
    MarketError,
    MarketMap,
    MarketsFile,
    assets_of,
)
from protocol.orders import Side
from protocol.units import AMOUNT_UNITS_MAX, PriceTicks, QuantityLots, format_amount, parse_decimal
from runtime.settings import Settings, SettingsError, markets_of
from tests.support.currencies import currencies

CURRENCIES = currencies()
RUPIAH = {"IDR": Asset("IDR", 2)}


def definition(**changes: str | int) -> MarketDefinition:
    """BTCIDR: 1,600,000,000.00 rupiah for a bitcoin."""
    fields: dict[str, str | int] = {
        "symbol": "BTCIDR", "base": "BTC", "quote": "IDR", "tick_size": "1000", "lot_size": "0.00001",
        "price_max": "100000000000", "quantity_min": "0.00001", "quantity_max": "9000",
        "notional_min": "15000.50",
    }  # fmt: skip
    return msgspec.convert(fields | changes, MarketDefinition)


@pytest.mark.parametrize(
    ("symbol", "price", "quantity", "base_units", "quote_units", "quote"),
    [
        # 0.00001234 USDT x 1,000,000 SHIB = 12.34 USDT of eight decimals; SHIB has two.
        ("SHIBUSDT", "0.00001234", "1000000", 100_000_000, 1_234_000_000, "12.34000000"),
        # 0.00000987 x 300 = 0.002961; PEPE has none.
        ("PEPEUSDT", "0.00000987", "300", 300, 296_100, "0.00296100"),
        # 1,600,000,000 IDR x 0.5 BTC = 800,000,000.00 IDR.
        ("BTCIDR", "1600000000", "0.5", 50_000_000, 80_000_000_000, "800000000.00000000"),
        # One tick more for one lot more costs 0.01 IDR more per lot.
        ("BTCIDR", "1600001000", "0.00001", 1_000, 1_600_001, "16000.01000000"),
        # 15,123,000 JPY x 0.007 BTC = 105,861 JPY.
        ("BTCJPY", "15123000", "0.007", 700_000, 105_861, "105861.00000000"),
        # 64,250.01 USDT x 0.00001 BTC = 0.6425001 USDT.
        ("BTCUSDT", "64250.01", "0.00001", 1_000, 64_250_010, "0.64250010"),
    ],
)
def test_money_is_counted_in_the_units_of_its_asset(
    symbol: str, price: str, quantity: str, base_units: int, quote_units: int, quote: str
) -> None:
    market = CURRENCIES.by_symbol[symbol]
    ticks = PriceTicks(parse_decimal(price) // market.tick_size)
    lots = QuantityLots(parse_decimal(quantity) // market.lot_size)
    assert market.base_units(lots) == base_units
    assert market.notional(ticks, lots) == quote_units
    assert market.format_quote(quote_units) == quote
    assert market.format_amount(quote_units, market.quote) == quote
    assert parse_decimal(market.format_amount(base_units, market.base)) == parse_decimal(quantity)
    # Prices and quantities have eight decimals whatever the assets have.
    assert market.format_price(ticks) == format_amount(parse_decimal(price), 8)
    assert market.format_quantity(lots) == format_amount(parse_decimal(quantity), 8)


def test_the_least_notional_is_in_quote_units() -> None:
    assert CURRENCIES.by_symbol["BTCIDR"].notional_min == 1_500_050
    with pytest.raises(MarketError, match="BTCIDR: more than 2 decimals"):
        definition(notional_min="15000.505").to_market({"IDR": Asset("IDR", 2)})


def test_the_default_markets_are_what_they_were() -> None:
    for market, lot in zip(Settings().market_map().markets, (1_000, 10_000, 100_000), strict=True):
        assert (market.base_per_lot, market.quote_per_tick_lot) == (lot, lot // 100)
        assert (market.base_scale, market.quote_scale, market.base_supply, market.quote_supply) == (
            8,
            8,
            0,
            0,
        )
        assert market.notional_min == 500_000_000


def test_a_market_that_was_stored_before_there_were_scales_has_eight_decimals() -> None:
    market = Settings().market_map().markets[0]
    new = msgspec.msgpack.decode(msgspec.msgpack.encode(market))
    old = new[:15]
    assert old[-1] == market.quote_per_tick_lot
    as_then = msgspec.structs.replace(market, matches_max=2_000)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(old), type=Market) == as_then


@pytest.mark.parametrize(
    ("changes", "scales", "message"),
    [
        (
            {"lot_size": "0.00001"},
            (4, 2),
            "lot_size 0.00001000 is not a whole number of BTC units of 0.0001: take a multiple",
        ),
        ({"lot_size": "0.5"}, (0, 2), "is not a whole number of BTC units of 1: take a multiple"),
        (
            {"tick_size": "100"},
            (8, 2),
            "tick_size x lot_size is not a whole number of IDR units of 0.01: take a larger tick_size",
        ),
        (
            {"notional_min": "1"},
            (8, 0),
            "is not a whole number of IDR units of 1: .* or a larger scale for IDR",
        ),
        (
            {"quantity_max": "9000000000"},
            (8, 2),
            "is more than 9223372036854775.80000000 IDR: take a smaller price_max",
        ),
        ({}, (8, 8), "price_max x quantity_max is more than 9223372036.85477580 IDR"),
        ({}, (9, 2), "BTC: the scale is the number of decimals, 0 to 8"),
        ({}, (8, -1), "IDR: the scale is the number of decimals, 0 to 8"),
    ],
)
def test_what_would_not_stay_whole_is_refused_and_says_what_to_change(
    changes: dict[str, str], scales: tuple[int, int], message: str
) -> None:
    base, quote = scales
    with pytest.raises(MarketError, match=message):
        definition(**changes).to_market(
            {"BTC": msgspec_asset("BTC", base), "IDR": msgspec_asset("IDR", quote)}
        )


def msgspec_asset(symbol: str, scale: int) -> Asset:
    """An asset as somebody could send it, whatever its own checks say."""
    asset = Asset(symbol)
    msgspec.structs.force_setattr(asset, "scale", scale)
    return asset


@pytest.mark.parametrize(
    ("slippage", "side", "best", "bound"),
    [
        ("0.05", Side.BUY, 100, 105),
        ("0.05", Side.BUY, 101, 106),  # 106.05
        ("0.05", Side.SELL, 101, 96),  # 95.95
        ("0.05", Side.SELL, 100, 95),
        ("0.05", Side.SELL, 1, 1),
        ("0.05", Side.BUY, 1, 1),
        ("0", Side.BUY, 77, 77),
        ("0", Side.SELL, 77, 77),
        ("0.999999", Side.SELL, 1_000, 1),
        ("0.999999", Side.BUY, 99_999_999, 100_000_000),  # its market's largest price
    ],
)
def test_the_bound_of_a_market_order_is_never_beyond_the_slippage(
    slippage: str, side: Side, best: int, bound: int
) -> None:
    assert (
        definition(market_slippage=slippage).to_market(RUPIAH).market_bound(side, PriceTicks(best)) == bound
    )


@pytest.mark.parametrize("slippage", ["1", "1.5"])
def test_a_slippage_is_less_than_the_whole(slippage: str) -> None:
    with pytest.raises(MarketError, match="market_slippage must be at least 0 and less than the whole"):
        definition(market_slippage=slippage).to_market(RUPIAH)


def test_a_supply_fits_63_bits() -> None:
    """2^63 - 1 is 9,223,372,036,854,775,807."""
    assert Asset("SHIB", 2, 92_233_720_368_547_758).amount_max == 9_223_372_036_854_775_800
    assert Asset("SHIB", 0, AMOUNT_UNITS_MAX).amount_max == AMOUNT_UNITS_MAX
    assert Asset("SHIB").amount_max == AMOUNT_UNITS_MAX
    with pytest.raises(
        MarketError, match=r"SHIB: a supply of 92233720368547759 with 2 decimals .* at most 92233720368547758"
    ):
        Asset("SHIB", 2, 92_233_720_368_547_759)
    with pytest.raises(MarketError, match="does not fit 63 bits"):
        Asset("BTC", 8, -1)


@pytest.mark.parametrize(
    ("supply", "message"),
    [("0", "a supply must be positive"), ("1.5", "number of whole assets"), ("-3", "number of whole assets")],
)
def test_a_supply_is_a_number_of_whole_assets(supply: str, message: str) -> None:
    with pytest.raises(MarketError, match=f"BTC: .*{message}"):
        AssetDefinition(symbol="BTC", supply=supply).to_asset()


def test_shares_of_the_declared_supplies() -> None:
    three = currencies(3)
    assert three.supply("BTC") == 2_100_000_000_000_000
    assert three.supply_share("BTC") == 700_000_000_000_000
    assert three.supply("JPY") == 10**15
    assert three.supply_share("JPY") == 333_333_333_333_333
    assert three.supply("USDT") == AMOUNT_UNITS_MAX
    assert three.assets == ("SHIB", "USDT", "PEPE", "BTC", "IDR", "JPY")
    assert three.format_amount(1_234_567, "IDR") == "12345.67000000"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[[assets]]\nsymbol = "BTC"\nscale = 8\n[[assets]]\nsymbol = "BTC"\nscale = 6\n',
            "asset BTC may be there only once",
        ),
        ('[[assets]]\nsymbol = "BCT"\nscale = 6\n', "asset BCT is in no market: is its name right"),
        ('[[assets]]\nsymbol = "BTC"\nscale = "six"\n', "Expected `int`"),
        ('[[assets]]\nsymbol = "BTC"\nsupplies = "6"\n', "unknown field `supplies`"),
        ('[[assets]]\nsymbol = "BTC"\nsupply = "99999999999999"\n', "does not fit 63 bits"),
    ],
)
def test_a_wrong_list_of_assets_is_a_mistake(text: str, message: str) -> None:
    market = (
        '[[markets]]\nsymbol = "BTCUSDT"\nbase = "BTC"\nquote = "USDT"\ntick_size = "0.01"\nlot_size = '
        '"0.01"\n'
    )
    market += 'price_max = "1000"\nquantity_min = "1"\nquantity_max = "1"\nnotional_min = "5"\n'
    with pytest.raises(SettingsError, match=f"those: .*{message}"):
        markets_of(market + text, 1, "those")


def test_markets_agree_about_their_assets() -> None:
    idr, jpy = CURRENCIES.by_symbol["BTCIDR"], CURRENCIES.by_symbol["BTCJPY"]
    for other in ({"base_supply": 5}, {"base_scale": 7}):
        with pytest.raises(MarketError, match="BTCIDR and BTCJPY declare another scale or supply of BTC"):
            MarketMap.of([idr, msgspec.structs.replace(jpy, **other)], 1)


def test_while_supplies_change_the_largest_counts() -> None:
    idr, jpy = CURRENCIES.by_symbol["BTCIDR"], CURRENCIES.by_symbol["BTCJPY"]
    raised = msgspec.structs.replace(jpy, base_supply=22_000_000)
    assert assets_of([idr, raised])["BTC"] == assets_of([raised, idr])["BTC"] == Asset("BTC", 8, 22_000_000)
    assert assets_of([idr, msgspec.structs.replace(jpy, base_supply=0)])["BTC"].amount_max == AMOUNT_UNITS_MAX


def test_an_asset_that_is_not_named_has_eight_decimals() -> None:
    file = MarketsFile(
        markets=[definition(quantity_max="0.01")], assets=[AssetDefinition(symbol="BTC", supply="21000000")]
    )
    (market,) = file.to_markets()
    assert (market.quote_scale, market.quote_supply) == (8, 0)
