"""`exchange migrate`."""

import psycopg
import rich_click as click

from cli.console import CommandError, console, running_settings
from persist.migrate import MigrationError, RoleLogins
from persist.migrate import migrate as bring_up_to_date
from runtime.settings import SettingsError


@click.command()
def migrate() -> None:
    """Bring the database's schema and the rights of its roles up to date, as `up` does when it starts.

    Meant for a database of your own (EXCHANGE_DATABASE_URL), before the processes are started, or while those
    of the version before still run: it keeps nobody from a table for longer than a second. It shows what it
    waits for, and how far it is. Interrupted, it goes on where it was when it is run again.
    """
    try:
        settings = running_settings()
        flavour = bring_up_to_date(
            settings.resolved_database_url(), tell=_show, logins=RoleLogins.of(settings)
        )
    except (psycopg.Error, MigrationError, SettingsError) as error:
        raise CommandError(f"The database was not migrated: {str(error).strip()}") from error
    console.print(f"The database is up to date ({flavour}).")


def _show(progress: str) -> None:
    console.print(progress, markup=False, highlight=False)
