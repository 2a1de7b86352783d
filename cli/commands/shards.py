"""`exchange shards`."""

from collections.abc import Mapping

import redis
import rich_click as click
from rich.markup import escape

from cli.console import CommandError, console, plain_table, print_json, running_settings, short_decimal
from cli.inquiries import ShardReport, StandbyReport, shard_reports
from cli.listed_markets import listing_of
from protocol.market import Asset
from protocol.units import SCALE_MAX, format_amount
from runtime.settings import SettingsError

_AMOUNTS = ("available", "held", "fees", "deposited", "withdrawn", "settled")
"""The columns of an asset's row, in this order."""
_ASSETS_PER_TABLE = 4
"""As many fit beside each other into 80 columns."""


@click.command()
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print JSON: a list, an object per shard, money in units of 10**-scale of each asset.",
)
def shards(as_json: bool) -> None:
    """Show every shard: markets, leader and standbys, position, backlog, logs, readers, accounting."""
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
    assets = listing_of(settings).known.by_asset
    for report in reports:
        _show(report, assets)


def _leader(report: ShardReport) -> str:
    if report.leader is None:
        return "[bold red]nobody[/]"
    gone = "" if report.leader_connected else ", [bold red]its connection is gone[/]"
    return f"{report.leader}, process {report.leader_pid}; its lease has {report.lease_left_ms} ms left{gone}"


def _standby(standby: StandbyReport) -> str:
    behind = f"{standby.behind_ms} ms behind" if standby.behind_ms else "in step"
    return f"{standby.process} ({standby.pid}) {behind}"


def _show(report: ShardReport, assets: Mapping[str, Asset]) -> None:
    answers = "[green]answers[/]" if report.answers else "[bold red]does not answer[/]"
    if report.halted:
        answers = "[bold red]halted[/]"
    facts = {
        f"shard {report.shard}": f"{', '.join(report.markets)}: {answers}",
        "leader": _leader(report),
        "standbys": ", ".join(_standby(standby) for standby in report.standbys) or "none",
        "snapshot": "none yet"
        if report.snapshot_age_ms is None
        else f"saved {report.snapshot_age_ms} ms ago",
        "position": f"{report.position}, epoch {report.epoch}; the oldest command waits {report.waiting_ms} "
        "ms",
        "streams": f"{report.input_entries} input, {report.event_entries} events, {report.outbox_entries} "
        "outbox, "
        f"{report.dead_letters} dead letters",
        "passed": ", ".join(f"{reader} {stream_id}" for reader, stream_id in report.passed.items())
        or "nobody reads yet",
    }
    if report.halted:
        facts["halted"] = escape(report.halted)
    if report.answers:
        verdict = "[green]adds up[/]" if report.conserved else "[bold red]does not add up[/]"
        facts["orders"] = f"{report.open_orders} open, after {report.command_count} commands"
        facts["money"] = f"{verdict}: available + held + fees = deposited - withdrawn + settled"
    for name, fact in facts.items():
        console.print(f"{name:<9} {fact}", highlight=False)
    console.print()
    for first in range(0, len(report.rows), _ASSETS_PER_TABLE):
        rows = report.rows[first : first + _ASSETS_PER_TABLE]
        money = plain_table("", *(asset for asset, *_ in rows))
        scales = [assets[asset].scale if asset in assets else SCALE_MAX for asset, *_ in rows]
        for name, *amounts in zip(_AMOUNTS, *(amounts for _, *amounts in rows), strict=True):
            texts = (format_amount(amount, scale) for amount, scale in zip(amounts, scales, strict=True))
            money.add_row(name, *map(short_decimal, texts))
        console.print(money)
        console.print()
