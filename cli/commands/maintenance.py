"""`exchange maintenance`."""

import time

import msgspec
import rich_click as click

from cli.console import console, print_json
from cli.operating import Operator, operating
from history.past import parse_time, time_text
from protocol.commands import ConfigureShard
from protocol.configuration import Role
from protocol.units import TimeMs


@click.group(invoke_without_command=True)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print JSON: shard -> from when (milliseconds; 0: no maintenance).",
)
@click.pass_context
def maintenance(context: click.Context, as_json: bool) -> None:
    """Close the whole exchange for new orders, or announce it. Cancels are still taken.

    Clients see it at /sapi/v1/system/status.
    """
    if context.invoked_subcommand is not None:
        return
    with operating() as operator:
        since = {shard: config.maintenance_from for shard, config in operator.configs.items()}
    if as_json:
        print_json(since)
        return
    for shard, moment in since.items():
        console.print(f"shard {shard}: {'no maintenance' if not moment else 'from ' + time_text(moment)}")


@maintenance.command()
@click.option(
    "--at", "moment", help="From this time on: 2026-01-31T12:00:00Z, or milliseconds. Without: from now on."
)
def begin(moment: str | None) -> None:
    """Close the exchange for new orders, now or at a time to come."""
    since = TimeMs(parse_time(moment) if moment else time.time_ns() // 1_000_000)
    with operating() as operator:
        _set(operator, since)
    console.print(f"maintenance from {time_text(since)} on")


@maintenance.command()
def end() -> None:
    """Open the exchange again, or take an announcement back."""
    with operating() as operator:
        _set(operator, TimeMs(0))
    console.print("no maintenance")


def _set(operator: Operator, since: TimeMs) -> None:
    for shard, current in operator.configs.items():
        config = msgspec.structs.replace(current, maintenance_from=since, version=current.version + 1)

        def command(request_id: int, reply_to: str) -> ConfigureShard:
            return ConfigureShard(request_id, reply_to, config)  # noqa: B023 - it is called at once

        operator.tell(shard, Role.OPERATOR, command, "set the maintenance")
