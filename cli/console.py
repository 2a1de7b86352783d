"""What every command needs: the settings, where and how to print, and how to fail."""

import sys
from typing import Any

import msgspec
import rich_click as click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cli.local.state_file import settings_of_running
from runtime.settings import Settings, SettingsError, load_settings

_WIDTH_OF_FILES = 160
"""Columns of output that is not on a terminal."""

console = Console(width=None if sys.stdout.isatty() else _WIDTH_OF_FILES)


class CommandError(click.ClickException):
    """A command failed; the message says why, and what to do."""


def database_away(error: Exception) -> CommandError:
    """Return the error of a command that needs the database and does not reach it."""
    return CommandError(
        f"The database does not answer; is the exchange running? `exchange up` starts it.\n{error}".strip()
    )


def own_settings() -> Settings:
    """Return the settings of the environment alone.

    Raises:
        CommandError: some are wrong.
    """
    try:
        return load_settings()
    except SettingsError as error:
        raise CommandError(f"The settings are wrong:\n{error}") from error


def running_settings() -> Settings:
    """Return the settings of the running exchange; where none runs, those of the environment.

    Raises:
        CommandError: some are wrong.
    """
    try:
        return settings_of_running()
    except SettingsError as error:
        raise CommandError(f"The settings are wrong:\n{error}") from error


def plain_table(*columns: str) -> Table:
    """Return a table without a frame, as narrow as its contents.

    The first column is text, the others are numbers.
    """
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    return table


def short_decimal(text: str) -> str:
    """Return a decimal without trailing zeros."""
    return text.rstrip("0").rstrip(".") if "." in text else text


def print_json(value: Any) -> None:
    """Print `value` as one line of JSON on standard output."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
