"""`exchange markets`."""

import rich_click as click
from rich.table import Table

from cli.api import ApiError, request
from cli.console import console, print_json, running_settings
from protocol.market import Market
from protocol.units import format_decimal

_COLUMNS = {
    "symbol": "market",
    "shard": "shard",
    "tickSize": "tick",
    "lotSize": "lot",
    "notionalMin": "least cost",
    "makerFee": "maker fee",
    "takerFee": "taker fee",
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
    table = Table()
    for name, title in _COLUMNS.items():
        table.add_column(
            title, justify="left" if name == "symbol" else "right", no_wrap=name == "symbol", overflow="fold"
        )
    for row in rows:
        table.add_row(*("–" if row[name] is None else str(row[name]) for name in _COLUMNS))
    console.print(table)


def _row(market: Market, prices: dict[str, str]) -> dict[str, str | None]:
    return {
        "symbol": market.symbol,
        "tickSize": _short(format_decimal(market.tick_size)),
        "lotSize": _short(format_decimal(market.lot_size)),
        "notionalMin": _short(format_decimal(market.notional_min)),
        "makerFee": _short(format_decimal(market.maker_fee_ppm, 6)),
        "takerFee": _short(format_decimal(market.taker_fee_ppm, 6)),
        "lastPrice": _short(prices.get("price")),
        "bestBid": _short(prices.get("bidPrice")),
        "bestAsk": _short(prices.get("askPrice")),
    }


def _short(decimal: str | None) -> str | None:
    return decimal.rstrip("0").rstrip(".") if decimal else None
