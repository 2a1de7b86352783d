"""Markets and commands with amounts as large as an exchange may hold."""

from collections.abc import Iterator

from protocol.commands import Command, Deposit, PlaceOrder, Withdraw
from protocol.market import Market, MarketMap
from protocol.orders import OrderType, Side, TimeInForce
from protocol.units import AMOUNT_UNITS_MAX, AccountId, AssetUnits, PriceTicks, QuantityLots

ONE = 10**8
ACCOUNTS = (0, 1, 2, 3, 4, 5)


def shib_market(symbol: str = "SHIBUSDT", maker_fee_ppm: int = 1_000, taker_fee_ppm: int = 1_000) -> Market:
    """A cheap asset of which there is much: lots of one, and orders of up to 90 billion."""
    return Market(
        symbol=symbol,
        base=symbol[:4],
        quote=symbol[4:],
        tick_size=AssetUnits(1),
        lot_size=AssetUnits(ONE),
        price_max=PriceTicks(AMOUNT_UNITS_MAX // 10 // (9 * 10**10)),
        quantity_min=QuantityLots(1),
        quantity_max=QuantityLots(9 * 10**10),
        notional_min=AssetUnits(1),
        band_up_ppm=2**62,
        band_down_ppm=0,
        maker_fee_ppm=maker_fee_ppm,
        taker_fee_ppm=taker_fee_ppm,
        open_orders_max=4,
    )


def market_of_few_decimals(base_scale: int = 2, quote_scale: int = 0, supply: int = 0) -> Market:
    """SHIBJPY: a lot of one, ticks of a hundredth where yen have so many, and orders of up to 9 x 10^15."""
    return Market(
        symbol="SHIBJPY",
        base="SHIB",
        quote="JPY",
        tick_size=ONE // 10**quote_scale,
        lot_size=ONE,
        price_max=PriceTicks(100),
        quantity_min=QuantityLots(1),
        quantity_max=QuantityLots(9 * 10**15),
        notional_min=AssetUnits(1),
        band_up_ppm=2**62,
        band_down_ppm=0,
        maker_fee_ppm=1_000,
        taker_fee_ppm=1_000,
        open_orders_max=4,
        base_scale=base_scale,
        quote_scale=quote_scale,
        base_supply=supply,
    )


def limit(number: int, account_id: int, market: str, side: Side, price: int, quantity: int) -> PlaceOrder:
    return PlaceOrder(
        *(number, "test", AccountId(account_id), f"o{number}", market),
        *(side, OrderType.LIMIT, TimeInForce.GTC, PriceTicks(price), QuantityLots(quantity)),
    )


def deposit(number: int, account_id: int, asset: str, amount: int) -> Deposit:
    return Deposit(number, "test", AccountId(account_id), asset, AssetUnits(amount), f"d{number}")


def commands_at_the_edge(
    markets: MarketMap, steps: list[tuple[str, int, int, int, int]]
) -> Iterator[Command]:
    for number, asset in enumerate(markets.assets, start=1):
        for account_id in ACCOUNTS[:3]:
            yield deposit(
                number * 10 + account_id, account_id, asset, markets.supply_share(asset) - account_id % 2
            )
    for number, (what, account_id, which, one, other) in enumerate(steps, start=1_000):
        market = markets.markets[which % len(markets.markets)]
        price = (market.price_max, 1, market.price_max - 1, 2)[one]
        quantity = (market.quantity_max, 1, market.quantity_max // 2, market.quantity_max - 1)[other]
        asset = markets.assets[one % len(markets.assets)]
        share = markets.supply_share(asset)
        amount = (share, 1, share // 2, share + 1)[other]
        match what:
            case "deposit":
                yield deposit(number, account_id, asset, amount)
            case "withdraw":
                yield Withdraw(number, "test", AccountId(account_id), asset, AssetUnits(amount), f"w{number}")
            case _:
                side = Side.BUY if what == "buy" else Side.SELL
                yield limit(number, account_id, market.symbol, side, price, quantity)
