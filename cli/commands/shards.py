"""`exchange shards`."""

import redis
import rich_click as click
from rich.table import Table

from cli.console import CommandError, console, print_json, running_settings
from cli.probes import ShardReport, shard_reports
from protocol.units import format_decimal
from runtime.settings import SettingsError


@click.command()
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON: a list, an object per shard, money in units of 10**-8."
)
def shards(as_json: bool) -> None:
    """Show every shard: its markets, position, backlog, logs, readers, and whether its money adds up."""
    settings = running_settings()
    try:
        reports = shard_reports(settings)
    except (redis.RedisError, SettingsError) as error:
        raise CommandError(
            f"Redis does not answer ({error}); is the exchange running? `exchange up` starts it."
        ) from error
    if as_json:
        print_json(reports)
        return
    for report in reports:
        _show(report)


def _show(report: ShardReport) -> None:
    answers = "answers" if report.answers else "[bold red]does not answer[/]"
    console.print(f"shard {report.shard}: {', '.join(report.markets)} – {answers}", highlight=False)
    facts = Table(show_header=False)
    facts.add_row("position", f"{report.position}, epoch {report.epoch}")
    facts.add_row("oldest command not committed", f"{report.waiting_ms} ms")
    facts.add_row("commands so far, open orders", f"{report.command_count}, {report.open_orders}")
    facts.add_row("entries kept: input, events", f"{report.input_entries}, {report.event_entries}")
    facts.add_row("entries kept: outbox, dead letters", f"{report.outbox_entries}, {report.dead_letters}")
    for reader, stream_id in report.passed.items():
        facts.add_row(f"events passed by {reader}", stream_id)
    console.print(facts, highlight=False)
    if not report.answers:
        return
    money = Table("asset")
    for name in ("available", "held", "fees", "deposited", "withdrawn", "settled"):
        money.add_column(name, justify="right", overflow="fold")
    for asset, *amounts in report.rows:
        money.add_row(asset, *map(format_decimal, amounts))
    console.print(money)
    verdict = "[green]adds up[/]" if report.conserved else "[bold red]does not add up[/]"
    console.print(f"available + held + fees = deposited - withdrawn + settled: {verdict}\n", highlight=False)
