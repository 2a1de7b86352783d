"""`exchange markets`."""

import rich_click as click

from cli.api import ApiError, request
from cli.console import console, plain_table, print_json, running_settings, short_decimal
from protocol.market import Market
from protocol.units import format_decimal

_COLUMNS = {
    "symbol": "market",
    "tickSize": "tick",
    "lotSize": "lot",
    "notionalMin": "minimum",
    "makerFee": "maker",
    "takerFee": "taker",
    "lastPrice": "last",
    "bestBid": "bid",
    "bestAsk": "ask",
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON: a list, an object per market.")
def markets(as_json: bool) -> None:
    """Show the markets: grid, limits and fees, and the last and best prices when the exchange runs."""
    settings = running_settings()
    market_map = settings.market_map()
    prices: dict[str, dict[str, str]] = {}
    try:
        for path in ("ticker/price", "ticker/bookTicker"):
            for row in request(f"{settings.rest_url()}/api/v3/{path}"):
                prices.setdefault(row["symbol"], {}).update(row)
    except ApiError:
        prices = {}
    rows = [
        {"shard": market_map.shard_of_market(market.symbol), **_row(market, prices.get(market.symbol, {}))}
        for market in market_map.markets
    ]
    if as_json:
        print_json(rows)
        return
    table = plain_table(*_COLUMNS.values())
    for row in rows:
        table.add_row(*("–" if row[name] is None else str(row[name]) for name in _COLUMNS))
    console.print(table)
    console.print("\nAn order is worth at least the minimum; maker and taker are the fees' parts of what is received.")


def _row(market: Market, prices: dict[str, str]) -> dict[str, str | None]:
    return {
        "symbol": market.symbol,
        "tickSize": short_decimal(format_decimal(market.tick_size)),
        "lotSize": short_decimal(format_decimal(market.lot_size)),
        "notionalMin": short_decimal(format_decimal(market.notional_min)),
        "makerFee": short_decimal(format_decimal(market.maker_fee_ppm, 6)),
        "takerFee": short_decimal(format_decimal(market.taker_fee_ppm, 6)),
        "lastPrice": _price(prices, "price"),
        "bestBid": _price(prices, "bidPrice"),
        "bestAsk": _price(prices, "askPrice"),
    }


def _price(prices: dict[str, str], name: str) -> str | None:
    return short_decimal(prices[name]) if name in prices else None
