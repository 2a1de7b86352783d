"""`exchange logs`."""

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import rich_click as click

from cli.console import CommandError, own_settings
from cli.state import log_file, log_folder

FOLLOW_EVERY_S = 0.2


@click.command()
@click.argument("process", required=False)
@click.option("--follow", "-f", is_flag=True, help="Go on with what is written from now on.")
@click.option("--lines", "-n", default=50, show_default=True, help="Lines from the end to begin with.")
def logs(process: str | None, follow: bool, lines: int) -> None:
    """Show what a process has written; without a name, the end of every log.

    The processes are those of `exchange status`.
    """
    settings = own_settings()
    names = sorted(file.stem for file in log_folder(settings).glob("*.log"))
    if process is not None and process not in names:
        raise CommandError(f"There is no log of {process!r}; there are: {', '.join(names) or 'none yet'}.")
    files = {name: log_file(settings, name) for name in names if process in (None, name)}
    for name, file in files.items():
        for line in file.read_text("utf-8", errors="replace").splitlines()[-lines:]:
            _show(name, line, alone=process is not None)
    if follow:
        try:
            for name, line in _new_lines(files):
                _show(name, line, alone=process is not None)
        except KeyboardInterrupt:
            return


def _show(name: str, line: str, *, alone: bool) -> None:
    sys.stdout.write(f"{line}\n" if alone else f"{name:>14} | {line}\n")
    sys.stdout.flush()


def _new_lines(files: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    opened = {name: file.open(encoding="utf-8", errors="replace") for name, file in files.items()}
    for file in opened.values():
        file.seek(0, 2)
    while True:
        for name, file in opened.items():
            for line in file:
                yield name, line.rstrip("\n")
        time.sleep(FOLLOW_EVERY_S)
