"""`exchange down`."""

import rich_click as click

from cli import running
from cli.console import CommandError, console, own_settings


@click.command()
def down() -> None:
    """Stop a running exchange. Its data stay, and the next start goes on from there."""
    try:
        stopped = running.down(own_settings(), console)
    except running.StartError as error:
        raise CommandError(str(error)) from error
    console.print("The exchange has stopped." if stopped else "The exchange was not running.")
