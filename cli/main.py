"""The `exchange` command."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import redis
import rich_click as click
from rich.console import Console
from rich.table import Table

from benchmarks.main import bench
from cli import probes
from cli import up as running
from cli.api import ApiError, funded_account, request
from cli.processes import urls
from cli.state import log_file, read_state
from protocol.units import PPM, format_decimal
from runtime.settings import Settings, SettingsError, load_settings

DEMO_FUNDS = {"USDT": "100000", "BTC": "2", "ETH": "20", "SOL": "500"}
FOLLOW_EVERY_S = 0.2

_console = Console()


class _Failed(click.ClickException):
    """Says what went wrong in plain words, without the usage."""

    def show(self, file: Any = None) -> None:
        Console(stderr=True).print(f"[bold red]Error:[/] {self.message}", highlight=False, soft_wrap=True)


def _settings() -> Settings:
    try:
        return load_settings()
    except SettingsError as error:
        raise _Failed(f"the settings are wrong:\n{error}") from error


def _print_json(value: Any) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


@click.group()
def main() -> None:
    """Run and watch a spot exchange.

    Settings are environment variables that begin with EXCHANGE_, such as EXCHANGE_REST_PORT or EXCHANGE_DATA_DIR; see
    runtime/settings.py.
    """


main.add_command(bench)


@main.command()
@click.option("--detach", is_flag=True, help="Run in the background; return when the exchange is ready.")
def up(detach: bool) -> None:
    """Start everything and run until Ctrl-C.

    Starts Redis and PostgreSQL, unless the settings name others, brings the database up to date, starts every process, and starts
    anew what dies.
    """
    try:
        (running.detach if detach else running.up)(_settings(), _console)
    except running.StartError as error:
        raise _Failed(str(error)) from error


@main.command()
def down() -> None:
    """Stop a running exchange. Its data stays, and the next start goes on from there."""
    try:
        stopped = running.down(_settings(), _console)
    except running.StartError as error:
        raise _Failed(str(error)) from error
    _console.print("The exchange has stopped." if stopped else "The exchange was not running.")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON: ready, urls, processes.")
def status(as_json: bool) -> None:
    """Show every process, its state and lag, and the URLs.

    Ready means: every process runs, the gateway answers, and so does every shard. Exits with 1 when the exchange does not run.
    """
    settings = _settings()
    state = read_state(settings)
    processes = state.processes if state else []
    lags: dict[str, int | None] = {}
    ready = bool(processes) and all(process.state == "running" for process in processes)
    if ready:
        try:
            lags = probes.lags(settings, [process.name for process in processes])
            with probes.connect(settings) as client:
                shards = list(range(settings.shard_count))
                ready = probes.gateway_answers(settings) and len(probes.audit(client, shards)) == len(shards)
        except redis.RedisError:
            ready = False
    if as_json:
        rows = [
            {**msgspec.to_builtins(process), "pid": process.pid or None, "lagMs": lags.get(process.name)}
            for process in processes
        ]
        _print_json({"ready": ready, "urls": urls(settings), "processes": rows})
        return
    if state is None:
        _console.print("The exchange is not running; `exchange up` starts it.")
        sys.exit(1)
    table = Table(title="ready" if ready else "not ready", title_justify="left")
    for column in ("process", "state", "pid", "restarts", "behind"):
        table.add_column(column)
    for process in processes:
        lag = lags.get(process.name)
        behind = "" if lag is None else f"{lag} ms"
        table.add_row(process.name, process.state, str(process.pid or ""), str(process.restarts), behind)
    _console.print(table)
    for name, url in urls(settings).items():
        _console.print(f"{name:>18}  {url}", highlight=False)


@main.command()
@click.argument("process", required=False)
@click.option("--follow", "-f", is_flag=True, help="Go on with what is written from now on.")
@click.option("--lines", "-n", default=50, show_default=True, help="Lines from the end to begin with.")
def logs(process: str | None, follow: bool, lines: int) -> None:
    """Show what a process has written; without a name, the end of every log."""
    settings = _settings()
    folder = log_file(settings, "x").parent
    names = sorted(file.stem for file in folder.glob("*.log")) if folder.exists() else []
    if process is not None and process not in names:
        raise _Failed(f"there is no log of {process!r}; there are: {', '.join(names) or 'none yet'}")
    files = {name: log_file(settings, name) for name in names if process in (None, name)}
    for name, file in files.items():
        for line in file.read_text("utf-8", errors="replace").splitlines()[-lines:]:
            _show_line(name, line, alone=process is not None)
    if follow:
        try:
            for name, line in _new_lines(files):
                _show_line(name, line, alone=process is not None)
        except KeyboardInterrupt:
            return


def _show_line(name: str, line: str, *, alone: bool) -> None:
    sys.stdout.write(f"{line}\n" if alone else f"{name:>15} | {line}\n")


def _new_lines(files: dict[str, Path]) -> Iterator[tuple[str, str]]:
    opened = {name: file.open(encoding="utf-8", errors="replace") for name, file in files.items()}
    for file in opened.values():
        file.seek(0, 2)
    while True:
        for name, file in opened.items():
            for line in file:
                yield name, line.rstrip("\n")
        time.sleep(FOLLOW_EVERY_S)


@main.command("demo-account")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: apiKey, secret.")
def demo_account(as_json: bool) -> None:
    """Make a new account with money on it, and print its API key and secret."""
    settings = _settings()
    try:
        key, secret = funded_account(settings.rest_url(), DEMO_FUNDS, "demo")
    except ApiError as error:
        raise _Failed(str(error)) from error
    if as_json:
        _print_json({"apiKey": key, "secret": secret})
        return
    _console.print(f"API key  {key}\nsecret   {secret}", highlight=False, soft_wrap=True)
    funds = ", ".join(f"{amount} {asset}" for asset, amount in DEMO_FUNDS.items())
    _console.print(f"It has {funds}. The secret is shown only now.", highlight=False)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON: a list, an object per shard.")
def shards(as_json: bool) -> None:
    """Show every shard: its markets, epoch, position, backlog, logs, readers, and whether its money adds up."""
    settings = _settings()
    try:
        reports = probes.shard_reports(settings)
    except (redis.RedisError, SettingsError) as error:
        raise _Failed(f"Redis does not answer ({error}); is the exchange running? `exchange up` starts it") from error
    if as_json:
        _print_json(reports)
        return
    for report in reports:
        answers = "answers" if report.answers else "[bold red]does not answer[/]"
        table = Table(title=f"shard {report.shard}: {', '.join(report.markets)} – {answers}", title_justify="left")
        for column in ("epoch", "position", "waiting", "in", "ev", "out", "dead", "commands", "open orders", "passed"):
            table.add_column(column, overflow="fold")
        passed = " ".join(f"{reader}={stream_id}" for reader, stream_id in report.passed.items())
        counts = (report.input_entries, report.event_entries, report.outbox_entries, report.dead_letters)
        rest = (report.command_count, report.open_orders)
        table.add_row(
            str(report.epoch), report.position, f"{report.waiting_ms} ms", *map(str, counts), *map(str, rest), passed
        )
        _console.print(table)
        money = Table()
        columns = ("asset", "available", "held", "fees", "deposited", "withdrawn", "settled")
        for column in columns:
            money.add_column(column, justify="left" if column == "asset" else "right")
        for asset, *amounts in report.rows:
            money.add_row(asset, *(format_decimal(amount) for amount in amounts))
        _console.print(money)
        verdict = "[green]adds up[/]" if report.conserved else "[bold red]does not add up[/]"
        _console.print(f"available + held + fees = deposited - withdrawn + settled: {verdict}", highlight=False)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON: a list, an object per market.")
def markets(as_json: bool) -> None:
    """Show the markets: grid, limits and fees, and the best prices when the exchange runs."""
    settings = _settings()
    market_map = settings.market_map()
    try:
        tickers = {row["symbol"]: row for row in request(f"{settings.rest_url()}/api/v3/ticker/bookTicker")}
    except ApiError:
        tickers = {}
    rows = [
        {
            "symbol": market.symbol,
            "shard": market_map.shard_of_market(market.symbol),
            "tickSize": format_decimal(market.tick_size),
            "lotSize": format_decimal(market.lot_size),
            "notionalMin": format_decimal(market.notional_min),
            "makerFee": f"{market.maker_fee_ppm / PPM:.4%}",
            "takerFee": f"{market.taker_fee_ppm / PPM:.4%}",
            "bestBid": tickers.get(market.symbol, {}).get("bidPrice"),
            "bestAsk": tickers.get(market.symbol, {}).get("askPrice"),
        }
        for market in market_map.markets
    ]
    if as_json:
        sys.stdout.write(json.dumps(rows) + "\n")
        return
    table = Table()
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*("–" if value is None else str(value) for value in row.values()))
    _console.print(table)


if __name__ == "__main__":
    main()
