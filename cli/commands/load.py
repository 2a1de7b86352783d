"""`exchange load`."""

import importlib.util
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import msgspec
import rich_click as click
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from benchmarks.report import commit, machine
from cli.api import ApiError, request
from cli.console import CommandError, console, plain_table, print_json, running_settings
from loadtests.steps import Plan
from loadtests.summary import Summary, figure, markdown
from runtime.settings import Settings

_USUAL = Plan()
_ERRORS_SHOWN = 5
_LOG_TAIL_LINES = 15
_FILES = "%Y%m%d-%H%M%S"


@click.command()
@click.option("--seconds", default=int(_USUAL.seconds), show_default=True, type=click.IntRange(1), help="How long.")
@click.option("--users", default=_USUAL.traders, show_default=True, type=click.IntRange(1), help="Traders at the end.")
@click.option("--watchers", default=_USUAL.watchers, show_default=True, type=click.IntRange(0), help="Stream watchers.")
@click.option("--steps", default=_USUAL.steps, show_default=True, type=click.IntRange(1), help="Steps to all traders.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the summary.")
@click.option("--report-dir", type=click.Path(path_type=Path), help="Where summaries go; usually `load` in the data folder.")
def load(seconds: int, users: int, watchers: int, steps: int, as_json: bool, report_dir: Path | None) -> None:
    """Put load on the running exchange, and measure it: traders on the REST API, watchers on the streams.

    Traders come in steps. Each signs up, then places orders near the touch, cancels most of them, and looks around.
    Half of the watchers measure how old trades are when they arrive, the others how long an order takes until its
    owner hears of it. Ends with 1 when anything failed; what rate limits refused is counted apart.
    """
    settings = running_settings()
    _check(settings)
    folder = report_dir or settings.data_dir / "load"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"{folder}: {error.strerror}; name another folder with --report-dir") from error
    began = datetime.now(UTC)
    plan = Plan(users, watchers, seconds, min(steps, users))
    measured = _run(plan, folder / f"{began:{_FILES}}.log", quiet=as_json)
    summary = msgspec.structs.replace(
        measured, began=f"{began:%Y-%m-%d %H:%M} UTC", machine=machine(), commit=commit()
    )
    pages = _write(summary, folder / f"{began:{_FILES}}")
    if as_json:
        print_json(summary)
    else:
        console.print(_view(summary))
        console.print(_steps(summary))
        for page in pages:
            console.print(f"{page.suffix[1:]:>4}  {page}", highlight=False, soft_wrap=True)
    if summary.failures:
        sys.exit(1)


def _check(settings: Settings) -> None:
    """Refuse when the load could not even begin."""
    if importlib.util.find_spec("locust") is None:
        raise CommandError("Load tests need the development tools; `make setup` installs them.")
    try:
        request(f"{settings.rest_url()}/api/v3/ping")
    except ApiError as error:
        raise CommandError(str(error)) from error


def _run(plan: Plan, log: Path, *, quiet: bool) -> Summary:
    """Run the load test in a process of its own, show how it goes, and return what came of it."""
    arguments = [part for name, value in plan._asdict().items() for part in (f"--{name}", str(value))]
    summary: Summary | None = None
    with log.open("wb") as errors, _show(quiet=quiet) as show:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "loadtests.main", *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            for summary in _summaries(process.stdout, process):
                show(summary)
        finally:
            process.terminate()
            process.wait()
    if summary is None or not summary.finished:
        tail = log.read_text("utf-8", errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        raise CommandError("\n".join((f"The load test broke off; the end of {log}:", *tail)))
    return summary
