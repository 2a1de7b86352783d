"""`exchange up`."""

import rich_click as click

from cli import running
from cli.console import CommandError, console, own_settings


@click.command()
@click.option("--detach", is_flag=True, help="Run in the background; return when the exchange is ready.")
def up(detach: bool) -> None:
    """Start everything and run until Ctrl-C.

    Starts Redis and PostgreSQL, unless the settings name others, migrates the database, starts every process,
    and restarts processes that die. The data in EXCHANGE_DATA_DIR is kept when it stops.
    """
    try:
        (running.detach if detach else running.up)(own_settings(), console)
    except running.StartError as error:
        raise CommandError(str(error)) from error
