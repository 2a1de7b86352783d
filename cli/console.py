"""What every command needs: the settings, where to print, and how to fail."""

import sys
from typing import Any

import msgspec
import rich_click as click
from rich.console import Console

from cli.state import settings_of_running
from runtime.settings import Settings, SettingsError, load_settings

_WIDTH_OF_FILES = 160
"""Columns of what is not printed on a terminal."""

console = Console(width=None if sys.stdout.isatty() else _WIDTH_OF_FILES)


class CommandError(click.ClickException):
    """A command cannot do what it should; the message says why, and what to do."""


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


def print_json(value: Any) -> None:
    """Print one line of JSON."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
