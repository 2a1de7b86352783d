"""`exchange markets`."""

import sys
from typing import TextIO

import redis
import rich_click as click

from cli.console import CommandError, console, plain_table, print_json, running_settings, short_decimal
from cli.inquiries import connect
from cli.listed_markets import listing_of
from cli.market_configs import Change, apply, by_symbol, known_configs, plan, with_status
from cli.operating import OperatingError, tell
from cli.rest_client import request
from client.blocking import RequestError
from protocol.commands import CancelOrders
from protocol.configuration import MarketConfig, MarketStatus, Role
from protocol.market import Market
from protocol.replies import Canceling
from protocol.units import AccountId, format_decimal
from runtime.settings import Settings, SettingsError, markets_of

_COLUMNS = {
    "symbol": "market",
    "status": "status",
    "tickSize": "tick",
    "lotSize": "lot",
    "notionalMin": "minimum",
    "makerFee": "maker",
    "takerFee": "taker",
    "lastPrice": "last",
    "bestBid": "bid",
    "bestAsk": "ask",
}


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: a list, an object per market.")
@click.pass_context
def markets(context: click.Context, as_json: bool) -> None:
    """Show the markets: status, grid, limits and fees, and the last and best prices if the exchange runs.

    A market's configuration is in the log of its shard, and changes by commands: `plan` shows the differences
    from the settings, `apply` applies them, `halt`, `cancel-only` and `resume` change a market's status.
    EXCHANGE_MARKETS_FILE names the file of the settings, with which a new exchange begins.
    """
    if context.invoked_subcommand is not None:
        return
    settings = running_settings()
    listing = listing_of(settings)
    market_map = listing.listed
    prices: dict[str, dict[str, str]] = {}
    try:
        for path in ("ticker/price", "ticker/bookTicker"):
            for row in request(f"{settings.rest_url()}/api/v3/{path}"):
                prices.setdefault(row["symbol"], {}).update(row)
    except RequestError:
        prices = {}
    rows = [
        {
            "shard": market_map.shard_of_market(market.symbol),
            "status": _words(listing.statuses[market.symbol]),
            **_row(market, prices.get(market.symbol, {})),
        }
        for market in market_map.markets
    ]
    if as_json:
        print_json(rows)
        return
    table = plain_table(*_COLUMNS.values())
    for row in rows:
        table.add_row(*("–" if row[name] is None else str(row[name]) for name in _COLUMNS))
    console.print(table)
    console.print(
        "\nAn order is worth at least the minimum; maker and taker are the fees' parts of what is received."
    )


def _row(market: Market, prices: dict[str, str]) -> dict[str, str | None]:
    return {
        "symbol": market.symbol,
        "tickSize": short_decimal(format_decimal(market.tick_size)),
        "lotSize": short_decimal(format_decimal(market.lot_size)),
        "notionalMin": short_decimal(market.format_quote(market.notional_min)),
        "makerFee": short_decimal(format_decimal(market.maker_fee_ppm, 6)),
        "takerFee": short_decimal(format_decimal(market.taker_fee_ppm, 6)),
        "lastPrice": _price(prices, "price"),
        "bestBid": _price(prices, "bidPrice"),
        "bestAsk": _price(prices, "askPrice"),
    }


def _price(prices: dict[str, str], name: str) -> str | None:
    return short_decimal(prices[name]) if name in prices else None


_file_option = click.option(
    "--file",
    "file",
    type=click.File("r", encoding="utf-8"),
    help="The markets file to go by instead of that of the settings; - reads it from standard input.",
)


@markets.command(name="plan")
@_file_option
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON: a list, an object per market that would change."
)
def plan_command(file: TextIO | None, as_json: bool) -> None:
    """Show what `apply` would change; exit 1 when some of it is impossible."""
    changes, _ = _changes(file)
    if as_json:
        print_json([_change_row(change) for change in changes])
    else:
        _show(changes)
    if not all(change.is_possible for change in changes):
        sys.exit(1)


@markets.command(name="apply")
@_file_option
@click.option(
    "--announced", is_flag=True, help="List new markets as announced: shown, and opened by `resume`."
)
def apply_command(file: TextIO | None, announced: bool) -> None:
    """Configure the markets as in the markets file, while the exchange runs.

    Markets that are not in the file are unchanged.
    """
    changes, settings = _changes(file, MarketStatus.ANNOUNCED if announced else MarketStatus.TRADING)
    _show(changes)
    if not all(change.is_possible for change in changes):
        raise CommandError("Nothing was changed.")
    with connect(settings) as client:
        for change in changes:
            _configure(client, settings, change.config)


@markets.command()
@click.argument("symbols", nargs=-1, required=True)
def halt(symbols: tuple[str, ...]) -> None:
    """Stop markets: new orders and cancels are refused; what rests stays."""
    _set_status(symbols, MarketStatus.HALTED)


@markets.command(name="cancel-only")
@click.argument("symbols", nargs=-1, required=True)
def cancel_only(symbols: tuple[str, ...]) -> None:
    """Let orders be canceled in markets, and refuse new ones."""
    _set_status(symbols, MarketStatus.CANCEL_ONLY)


@markets.command()
@click.argument("symbols", nargs=-1, required=True)
def resume(symbols: tuple[str, ...]) -> None:
    """Let markets trade again."""
    _set_status(symbols, MarketStatus.TRADING)


@markets.command()
@click.argument("symbols", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
def delist(symbols: tuple[str, ...], yes: bool) -> None:
    """Close markets for good: cancel all that rests there, step by step, and forget the markets.

    Accounts keep their funds and their history. A market may be listed again later, on the same grid, by
    `resume`.
    """
    if not yes:
        click.confirm(f"Cancel every order in {', '.join(symbols)}, and close them for good?", abort=True)
    _set_status(symbols, MarketStatus.DELISTING)


@markets.command(name="cancel-orders")
@click.argument("symbol")
@click.option("--yes", is_flag=True, help="Do not ask.")
def cancel_orders(symbol: str, yes: bool) -> None:
    """Cancel every order in a market that was halted, or put into cancel-only, before."""
    settings = running_settings()
    config = _known(settings).get(symbol.upper())
    if config is None:
        raise CommandError(f"There is no market {symbol}.")
    name = config.market.symbol
    if not yes:
        click.confirm(f"Cancel every order in {name}?", abort=True)

    def command(request_id: int, reply_to: str) -> CancelOrders:
        return CancelOrders(request_id, reply_to, AccountId(0), name)

    try:
        with connect(settings) as client:
            reply = tell(
                client, settings, config.shard, Role.OPERATOR, command, f"cancel the orders in {name}"
            )
    except (OperatingError, SettingsError, redis.RedisError) as error:
        raise CommandError(str(error)) from error
    assert isinstance(reply, Canceling)
    console.print(f"{name}: {reply.orders} orders are being canceled")


def _changes(
    file: TextIO | None, status: MarketStatus = MarketStatus.TRADING
) -> tuple[list[Change], Settings]:
    settings = running_settings()
    try:
        wanted = markets_of(file.read(), settings.shard_count, file.name) if file else settings.market_map()
    except (SettingsError, UnicodeDecodeError) as error:
        raise CommandError(str(error)) from error
    return plan(_known(settings), wanted, status), settings


def _known(settings: Settings) -> dict[str, MarketConfig]:
    shards = range(settings.shard_count)
    try:
        with connect(settings) as client:
            replies = known_configs(client, shards)
    except redis.RedisError as error:
        raise CommandError(f"Redis does not answer ({error}); is the exchange running?") from error
    if missing := [shard for shard in shards if shard not in replies]:
        raise CommandError(f"Shard {missing[0]} does not answer; `exchange shards` says how it stands.")
    return by_symbol(replies.values())


def _set_status(symbols: tuple[str, ...], status: MarketStatus) -> None:
    settings = running_settings()
    configs = _known(settings)
    for symbol in symbols:
        if symbol.upper() not in configs:
            raise CommandError(f"There is no market {symbol}; there are: {', '.join(sorted(configs))}.")
    with connect(settings) as client:
        for symbol in symbols:
            config = configs[symbol.upper()]
            if config.status is status:
                console.print(f"{config.market.symbol} is {_words(status)} already")
            else:
                _configure(client, settings, with_status(config, status))


def _configure(client: redis.Redis, settings: Settings, config: MarketConfig) -> None:
    try:
        apply(client, settings, config)
    except (OperatingError, SettingsError, redis.RedisError) as error:
        raise CommandError(str(error)) from error
    console.print(f"{config.market.symbol} is {_words(config.status)}, version {config.version}")


def _words(status: MarketStatus) -> str:
    return status.name.lower().replace("_", "-")


def _show(changes: list[Change]) -> None:
    if not changes:
        console.print("The markets are configured as the settings say.")
    for change in changes:
        market = change.config.market
        if not change.differences and not change.contradiction:
            console.print(f"{market.symbol} is listed on shard {change.config.shard}")
        for name, now, then in change.differences:
            console.print(f"{market.symbol} {name} from {now} to {then}")
        if change.contradiction:
            console.print(f"[bold red]{market.symbol}: {change.contradiction}")
        elif not change.is_possible:
            console.print(
                f"[bold red]{market.symbol}: what a market is traded against, its grid, and its assets' "
                "scales stay for as long as it is listed; list another market under another name"
            )


def _change_row(change: Change) -> dict[str, object]:
    return {
        "symbol": change.config.market.symbol,
        "shard": change.config.shard,
        "version": change.config.version,
        "possible": change.is_possible,
        "contradiction": change.contradiction or None,
        "differences": {name: {"now": now, "then": then} for name, now, then in change.differences},
    }
