"""`exchange logs`."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import rich_click as click
import structlog

from cli.console import CommandError, own_settings
from cli.local.state_file import log_file, log_folder

FOLLOW_EVERY_S = 0.2


@click.command()
@click.argument("process", required=False)
@click.option("--follow", "-f", is_flag=True, help="Follow the log as it is written.")
@click.option("--lines", "-n", default=50, show_default=True, help="Lines to show from the end.")
@click.option("--raw", is_flag=True, help="Print the lines unformatted; most are JSON.")
def logs(process: str | None, follow: bool, lines: int, raw: bool) -> None:
    """Show a process's log; without a name, the end of every log.

    The processes are those of `exchange status`.
    """
    render = str if raw else _readable
    settings = own_settings()
    names = sorted(file.stem for file in log_folder(settings).glob("*.log"))
    if process is not None and process not in names:
        raise CommandError(f"There is no log of {process!r}; there are: {', '.join(names) or 'none yet'}.")
    files = {name: log_file(settings, name) for name in names if process in (None, name)}
    for name, file in files.items():
        for line in file.read_text("utf-8", errors="replace").splitlines()[-lines:]:
            _show(name, render(line), alone=process is not None)
    if follow:
        try:
            for name, line in _new_lines(files):
                _show(name, render(line), alone=process is not None)
        except KeyboardInterrupt:
            return


def _show(name: str, line: str, *, alone: bool) -> None:
    sys.stdout.write(f"{line}\n" if alone else f"{name:>14} | {line}\n")
    sys.stdout.flush()


def _readable(line: str) -> str:
    """Return a line of JSON as it would be on a terminal, in local time; any other line as it is."""
    try:
        entry = msgspec.json.decode(line, type=dict[str, Any])
        written = datetime.fromisoformat(entry.pop("timestamp")).astimezone()
        entry["event"]
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        return line
    entry.pop("process", None)
    return str(
        _render(
            None, "", {"timestamp": f"{written:%m-%d %H:%M:%S}.{written.microsecond // 1000:03}", **entry}
        )
    )


_render: Callable[[Any, str, dict[str, Any]], Any] = structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty())


def _new_lines(files: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    opened = {name: file.open(encoding="utf-8", errors="replace") for name, file in files.items()}
    for file in opened.values():
        file.seek(0, 2)
    while True:
        for name, file in opened.items():
            for line in file:
                yield name, line.rstrip("\n")
        time.sleep(FOLLOW_EVERY_S)
