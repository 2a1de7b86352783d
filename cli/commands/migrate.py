"""`exchange migrate`."""

import psycopg
import rich_click as click

from cli.console import CommandError, console, running_settings
from persist.migrate import MigrationError, RoleLogins
from persist.migrate import migrate as bring_up_to_date
from runtime.settings import SettingsError


@click.command()
def migrate() -> None:
    """Migrate the database's schema and the rights of its roles, as `up` does when it starts.

    Use it for an external database (EXCHANGE_DATABASE_URL), before the processes are started, or while those
    of the previous version still run: it blocks no table for longer than a second. It shows what it waits
    for, and its progress. After an interruption, run it again to continue.
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
