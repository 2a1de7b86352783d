"""`exchange convert`."""

from contextlib import closing
from typing import Any

import redis
import rich_click as click

from cli.commands.restore import running_engines
from cli.console import CommandError, console, own_settings, plain_table, print_json
from cli.needed_servers import servers_of_stopped
from engine_worker.conversion import Formats, counts_text, formats_of, why_not
from engine_worker.conversion import convert as convert_snapshot
from engine_worker.core.snapshot import FORMAT_VERSION, SnapshotError
from runtime.operator_keys import first_config
from runtime.settings import Settings, SettingsError
from stream_log.redis_log import RedisStreamLog


@click.command()
@click.option("--dry-run", is_flag=True, help="Only show the data, and what prevents its conversion.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print JSON: a list of shard, snapshots, input, events, converted, reason.",
)
def convert(dry_run: bool, as_json: bool) -> None:
    """Bring what an earlier release has left to what this one reads. The exchange must be stopped.

    Snapshots without a configuration get the one of the settings: markets file, windows and the operators'
    keys. It is refused where something was committed after the snapshot. What has the present format stays as
    it is. Workers do the same at their start.
    """
    settings = own_settings()
    say = (lambda _text: None) if as_json else (lambda text: console.print(f"{text} …", highlight=False))
    try:
        with (
            servers_of_stopped(settings, say),
            closing(RedisStreamLog.connect(settings.resolved_redis_url())) as log,
        ):
            rows = convert_all(settings, log, dry_run=dry_run)
    except SettingsError as error:
        raise CommandError(str(error)) from error
    except redis.RedisError as error:
        raise CommandError(f"Redis does not answer: {error}") from error
    if as_json:
        print_json(rows)
    else:
        _show(rows)
    if any(row["reason"] for row in rows):
        raise SystemExit(1)


def convert_all(settings: Settings, log: RedisStreamLog, *, dry_run: bool) -> list[dict[str, Any]]:
    """Convert every shard's data, and return the results.

    A result has shard, snapshots, input, events, converted, reason.

    Raises:
        CommandError: an engine worker is running.
    """
    if alive := running_engines(log, settings.shard_count):
        raise CommandError(
            f"{', '.join(sorted(alive))} still runs, or did a few seconds ago; stop the exchange first."
        )
    market_map, config = settings.market_map(), first_config(settings)
    rows = []
    for shard in range(settings.shard_count):
        shard_formats, converted = formats_of(log, shard), False
        reason = why_not(log, shard, market_map, config)
        if not shard_formats.is_present and not dry_run and not reason:
            try:
                convert_snapshot(log, shard, market_map, config, log.snapshots(shard)[0])
                shard_formats, converted = formats_of(log, shard), True
            except SnapshotError as error:
                reason = str(error)
        rows.append(_row(shard, shard_formats, reason, converted=converted))
    return rows


def _row(shard: int, shard_formats: Formats, reason: str, *, converted: bool) -> dict[str, Any]:
    return {
        "shard": shard,
        **shard_formats._asdict(),
        "isPresent": shard_formats.is_present,
        "converted": converted,
        "reason": reason,
    }


def _show(rows: list[dict[str, Any]]) -> None:
    table = plain_table("shard", "snapshots", "input", "events", "")
    for row in rows:
        verdict = "converted" if row["converted"] else "up to date" if row["isPresent"] else "to be converted"
        table.add_row(
            str(row["shard"]),
            ", ".join(map(str, row["snapshots"])) or "none",
            counts_text(row["input"]),
            counts_text(row["events"]),
            "cannot be converted" if row["reason"] else verdict,
        )
    console.print(table)
    for row in rows:
        if row["reason"]:
            console.print(
                f"Shard {row['shard']}: {row['reason']}.", markup=False, highlight=False, soft_wrap=True
            )
    console.print(f"Snapshots of this release have format {FORMAT_VERSION}.", highlight=False)
