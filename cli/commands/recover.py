"""`exchange recover`."""

from datetime import UTC, datetime
from pathlib import Path

import psycopg
import rich_click as click

from cli.commands.backup import bar
from cli.console import CommandError, console, own_settings, print_json
from cli.local.backups import BackupError, choose_base
from cli.local.embedded import ServerError
from cli.local.recovery import recover as recover_database
from cli.local.recovery import why_not
from cli.running import StartError, stop_leftovers
from history.past import PastError, parse_time
from runtime.settings import Settings


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option(
    "--to", "moment", help="A time such as 2026-01-31T12:00:00 (UTC), or milliseconds. Default: all there is."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: base, lastCommit.")
def recover(folder: Path, moment: str | None, as_json: bool) -> None:
    """Put the database back from a backup in FOLDER that `exchange backup` made.

    The data folder must have no database, and the exchange must be stopped. What was committed up to the end
    of the log comes back, or up to --to. Put the data folder's keys back as well (master.key, operator.key,
    …). Where Redis has lost its data, too, or --to was given, `exchange restore` then rebuilds it from the
    database; `exchange up` goes on.
    """
    settings = own_settings()
    try:
        to = datetime.fromtimestamp(parse_time(moment) / 1000, UTC) if moment else None
        if (reason := why_not(settings)) is not None:
            raise BackupError(reason)
        stop_leftovers(settings)
        base = choose_base(folder.resolve(), to)
        if not as_json:
            console.print(
                f"recovering from the base backup of {base.complete:%Y-%m-%dT%H:%M:%SZ} …", highlight=False
            )
        with bar(as_json, "copying") as (progress, tell):
            recovered = recover_database(settings, base, to, progress, tell)
    except (BackupError, ServerError, StartError, PastError, OSError) as error:
        raise CommandError(str(error)) from error
    except psycopg.Error as error:
        raise CommandError(f"PostgreSQL returned an error: {str(error).strip()}") from error
    until = recovered.last_commit or base.complete
    if as_json:
        print_json({"base": str(base.folder), "lastCommit": until.isoformat()})
        return
    console.print(
        "The database is recovered; its last transaction is of "
        f"{until.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}. {_next(settings, to)} This database has no backup "
        "yet: `exchange backup DIR` begins one.",
        highlight=False,
        soft_wrap=True,
    )


def _next(settings: Settings, to: datetime | None) -> str:
    if to is None and any(settings.data_dir.glob("redis*/appendonlydir")):
        return (
            f"Next: {settings.data_dir} still has Redis's data. If it is the newest, `exchange up` continues "
            "from it, and stores the data that the database lacks again; `exchange restore` would reverse "
            "that. If it is not, run `exchange restore` first."
        )
    return "Next: `exchange restore` rebuilds Redis from it, then `exchange up` continues."
