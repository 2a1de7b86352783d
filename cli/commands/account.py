"""`exchange account`."""

import rich_click as click

from cli.console import console, plain_table, print_json, running_settings
from cli.lookup import account_of_email, known_market, looking_back, replay_bar
from history.past import parse_time, time_text
from history.time_travel import account_at
from protocol.market import MarketMap
from protocol.orders import OrderState, Side


@click.command()
@click.option("--account", "account_id", type=click.IntRange(min=1), help="The account's number.")
@click.option("--email", help="Or the address that its owner signed up with.")
@click.option("--market", "symbol", help="With --sequence: whose sequence.")
@click.option(
    "--sequence", type=click.IntRange(min=0), help="As it was when the market stood at this sequence."
)
@click.option("--time", "moment", help="As it was at this time: 2026-01-31T12:00:00Z, or milliseconds.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: account, time, balances, openOrders.")
def account(
    account_id: int | None,
    email: str | None,
    symbol: str | None,
    sequence: int | None,
    moment: str | None,
    as_json: bool,
) -> None:
    """Show an account's balances, holds and open orders at any sequence or time since the archive begins.

    Without either, show them now. If the account is on another shard than the market, it is shown at the end
    of that sequence's millisecond.
    """
    if (account_id is None) == (email is None):
        raise click.UsageError("Name an account by --account or --email.")
    if (symbol is None) != (sequence is None) or (sequence is not None and moment is not None):
        raise click.UsageError("Name --market with --sequence, or --time, or neither.")
    settings = running_settings()
    with looking_back(settings) as (past, connection), replay_bar(console, quiet=as_json) as progress:
        market_map = past.market_map
        market = known_market(market_map, symbol) if symbol else ""
        number = account_id if account_id is not None else account_of_email(connection, str(email))
        past_account = account_at(
            past, number, market, sequence, parse_time(moment) if moment else None, progress
        )
    orders = [_order(market_map, order) for order in past_account.open_orders]
    balances = [
        {
            "asset": balance.asset,
            "available": market_map.format_amount(balance.available, balance.asset),
            "held": market_map.format_amount(balance.held, balance.asset),
        }
        for balance in past_account.balances
    ]
    if as_json:
        print_json(
            {"account": number, "time": past_account.time, "position": str(past_account.stream_id)}
            | {"balances": balances, "openOrders": orders}
        )
        return
    console.print(
        f"account {number}, {time_text(past_account.time)} (after {past_account.stream_id})\n",
        highlight=False,
    )
    _show(balances, orders)


def _show(balances: list[dict[str, str]], orders: list[dict[str, object]]) -> None:
    money = plain_table("asset", "available", "held")
    for row in balances:
        money.add_row(*row.values())
    console.print(money)
    if not orders:
        console.print("\nNo open orders.")
        return
    table = plain_table("order", "market", "side", "price", "quantity", "filled", "held")
    for order in orders:
        table.add_row(
            *(
                str(order[name])
                for name in ("orderId", "market", "side", "price", "quantity", "filled", "held")
            )
        )
    console.print()
    console.print(table)


def _order(market_map: MarketMap, order: OrderState) -> dict[str, object]:
    market = market_map.by_symbol[order.market]
    return {
        "orderId": order.order_id,
        "clientOrderId": order.client_order_id,
        "market": order.market,
        "side": order.side.name,
        "type": order.order_type.name,
        "status": order.status.name,
        "price": market.format_price(order.price),
        "quantity": market.format_quantity(order.quantity),
        "filled": market.format_quantity(order.cum_quantity),
        "held": market.format_amount(order.held, market.quote if order.side is Side.BUY else market.base),
    }
