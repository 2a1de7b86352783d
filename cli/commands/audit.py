"""`exchange audit`."""

import time

import msgspec
import psycopg
import redis
import rich_click as click

from cli.console import CommandError, console, plain_table, print_json, running_settings, short_decimal
from cli.exchange_audit import ExchangeAudit, NoConsistentCutError, audit_exchange
from protocol.units import format_amount
from runtime.settings import SettingsError

WATCH_PERIOD_S = 2.0
_ASSETS_PER_TABLE = 4
"""As many fit beside each other into 80 columns."""


class _Line(msgspec.Struct, frozen=True):
    """An audit, for --json."""

    ok: bool
    problems: list[str]
    audit: ExchangeAudit


@click.command()
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print JSON; with --watch a line per audit. Money is in units of 10**-scale (`scales`).",
)
@click.option("--watch", is_flag=True, help="Repeat until Ctrl-C or the first difference.")
@click.option(
    "--timeout",
    "timeout_s",
    default=10.0,
    show_default=True,
    help="Seconds to wait for a moment without messages between shards.",
)
@click.option(
    "--database/--no-database",
    default=True,
    help="Compare with the database's ledger, where it has caught up.",
)
def audit(as_json: bool, watch: bool, timeout_s: float, database: bool) -> None:
    """Add up all money of all shards, and compare it with deposits and withdrawals, here and in the database.

    Exit code 1 if an asset does not add up; the asset and the amounts are shown.
    """
    settings = running_settings()
    try:
        while True:
            result = audit_exchange(settings, timeout_s, with_database=database)
            _say(result, as_json=as_json)
            if result.problems():
                raise SystemExit(1)
            if not watch:
                return
            time.sleep(WATCH_PERIOD_S)
    except KeyboardInterrupt:
        return
    except NoConsistentCutError as error:
        raise CommandError(str(error)) from error
    except (redis.RedisError, SettingsError) as error:
        raise CommandError(
            f"Redis does not answer ({error}); is the exchange running? `exchange up` starts it."
        ) from error
    except psycopg.Error as error:
        raise CommandError(
            f"The database does not answer ({error}); --no-database audits without it."
        ) from error


def _say(result: ExchangeAudit, *, as_json: bool) -> None:
    problems = result.problems()
    if as_json:
        print_json(_Line(not problems, problems, result))
        return
    for first in range(0, len(result.assets), _ASSETS_PER_TABLE):
        assets = result.assets[first : first + _ASSETS_PER_TABLE]
        table = plain_table("", *(asset.asset for asset in assets))
        for name in ("available", "held", "fees", "deposited", "withdrawn"):
            table.add_row(
                name, *(_decimal(getattr(asset, name), result.scales[asset.asset]) for asset in assets)
            )
        table.add_row(
            "difference", *(_decimal(asset.difference(), result.scales[asset.asset]) for asset in assets)
        )
        console.print(table)
        console.print()
    for shard in result.shards:
        ledger = {None: "not compared", True: "the same", False: "differs"}[shard.ledger_is_same]
        note = f" ({shard.ledger_note})" if shard.ledger_note and shard.ledger_is_same is None else ""
        console.print(
            f"shard {shard.shard}   {shard.command_count:,} commands, up to {shard.position}", highlight=False
        )
        console.print(f"          the database's ledger: {ledger}{note}", highlight=False)
    for problem in problems:
        console.print(f"[bold red]{problem}[/]", highlight=False, soft_wrap=True)
    if not problems:
        console.print("[green]All money adds up.[/]")


def _decimal(units: int, scale: int) -> str:
    text = short_decimal(format_amount(abs(units), scale))
    return f"-{text}" if units < 0 else text
