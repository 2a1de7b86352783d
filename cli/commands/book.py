"""`exchange book`."""

import rich_click as click

from cli.console import console, plain_table, print_json, running_settings
from cli.lookup import known_market, looking_back, replay_bar
from history.past import parse_time, time_text
from history.time_travel import PastBook, book_at
from protocol.market import Market
from protocol.units import PriceTicks, QuantityLots


@click.command()
@click.option("--market", "symbol", required=True, help="Such as BTCUSDT.")
@click.option("--sequence", type=click.IntRange(min=0), help="As it was at this sequence of the market.")
@click.option("--time", "moment", help="As it was at this time: 2026-01-31T12:00:00Z, or milliseconds.")
@click.option(
    "--depth",
    "levels",
    default=20,
    show_default=True,
    type=click.IntRange(min=1),
    help="Levels of each side.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: market, sequence, time, bids, asks.")
def book(symbol: str, sequence: int | None, moment: str | None, levels: int, as_json: bool) -> None:
    """Show a market's book as it was at any sequence or time since the archive begins.

    Without either, as it is now.

    The shard's commands are replayed from the nearest snapshot before.
    """
    if sequence is not None and moment is not None:
        raise click.UsageError("Name a sequence or a time, not both.")
    settings = running_settings()
    with looking_back(settings) as (past, _), replay_bar(console, quiet=as_json) as progress:
        symbol = known_market(past.market_map, symbol)
        past_book = book_at(past, symbol, sequence, parse_time(moment) if moment else None, progress)
    market = past.market_map.by_symbol[symbol]
    bids, asks = _shown(market, past_book.bids[:levels]), _shown(market, past_book.asks[:levels])
    if as_json:
        print_json(
            {
                "market": symbol,
                "sequence": past_book.sequence,
                "time": past_book.time,
                "position": str(past_book.stream_id),
            }
            | {"bids": bids, "asks": asks}
        )
        return
    _show(past_book, bids, asks)


def _shown(market: Market, levels: list[tuple[int, int]]) -> list[tuple[str, str]]:
    return [
        (market.format_price(PriceTicks(price)), market.format_quantity(QuantityLots(quantity)))
        for price, quantity in levels
    ]


def _show(past_book: PastBook, bids: list[tuple[str, str]], asks: list[tuple[str, str]]) -> None:
    console.print(
        f"{past_book.symbol} at sequence {past_book.sequence}, {time_text(past_book.time)} "
        f"(after {past_book.stream_id})\n",
        highlight=False,
    )
    table = plain_table("", "quantity", "price", "quantity")
    for price, quantity in reversed(asks):
        table.add_row("ask", "", price, quantity)
    for price, quantity in bids:
        table.add_row("bid", quantity, price, "")
    console.print(table)
    if not bids and not asks:
        console.print("It was empty.")
