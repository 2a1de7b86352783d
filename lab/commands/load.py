"""`exchange load`."""

import importlib.util
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import rich_click as click
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cli.console import CommandError, console, plain_table, print_json, running_settings
from cli.rest_client import request
from client.blocking import RequestError
from lab.benchmarks.report import commit, machine
from loadtests.steps import Plan
from loadtests.summary import Summary, figure, markdown
from runtime.settings import Settings

_USUAL = Plan()
_WIDTH = 60
_ERRORS_SHOWN = 5
_LOG_TAIL_LINES = 15
_FILES = "%Y%m%d-%H%M%S"


@click.command()
@click.option(
    "--seconds", default=int(_USUAL.seconds), show_default=True, type=click.IntRange(1), help="How long."
)
@click.option(
    "--users", default=_USUAL.traders, show_default=True, type=click.IntRange(1), help="Traders at the end."
)
@click.option(
    "--watchers", default=_USUAL.watchers, show_default=True, type=click.IntRange(0), help="Stream watchers."
)
@click.option(
    "--steps", default=_USUAL.steps, show_default=True, type=click.IntRange(1), help="Steps to all traders."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the summary.")
@click.option(
    "--report-dir",
    type=click.Path(path_type=Path),
    help="Where summaries go; usually `load` in the data folder.",
)
def load(seconds: int, users: int, watchers: int, steps: int, as_json: bool, report_dir: Path | None) -> None:
    """Put load on the running exchange, and measure it: traders on the REST API, watchers on the streams.

    Traders come in steps. Each signs up, then places orders near the touch, cancels most of them, and looks
    around. Half of the watchers measure how old trades are when they arrive, the others how long an order
    takes until its owner hears of it. Ends with 1 when anything failed; what rate limits refused is counted
    apart.
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
    except RequestError as error:
        raise CommandError(str(error)) from error


def _run(plan: Plan, log: Path, *, quiet: bool) -> Summary:
    """Run the load test in a separate process, show its progress, and return its result.

    Ctrl-C ends it early.
    """
    arguments = [part for name, value in plan._asdict().items() for part in (f"--{name}", str(value))]
    summary: Summary | None = None
    with log.open("wb") as errors, _showing(quiet=quiet) as show:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "loadtests.main", *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        with _interrupts(process.terminate):
            assert process.stdout is not None
            for line in process.stdout:
                summary = msgspec.json.decode(line, type=Summary)
                show(summary)
            process.wait()
    if summary is None or not summary.finished:
        tail = log.read_text("utf-8", errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        raise CommandError("\n".join((f"The load test broke off; the end of {log}:", *tail)))
    return summary


@contextmanager
def _interrupts(end: Callable[[], None]) -> Iterator[None]:
    """Answer SIGINT and SIGTERM by calling `end`."""
    before = {number: signal.signal(number, lambda *_: end()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _showing(*, quiet: bool) -> Iterator[Callable[[Summary], None]]:
    """Show how it goes: a changing table on a terminal, a line per step elsewhere."""
    if quiet:
        yield lambda summary: None
    elif console.is_terminal:
        with Live(Text("starting …"), console=console, transient=True, refresh_per_second=2) as live:
            yield lambda summary: live.update(Group(_bar(summary), _view(summary)))
    else:
        told = 0

        def tell(summary: Summary) -> None:
            nonlocal told
            for step in summary.steps[told : len(summary.steps) if summary.finished else -1]:
                told += 1
                console.print(
                    f"{step.traders} traders: {step.per_second:.1f} requests/s, {step.failures} failures, "
                    f"order p50 {figure(step.place_p50)} ms, p99 {figure(step.place_p99)} ms",
                    highlight=False,
                )

        yield tell


def _bar(summary: Summary) -> Group:
    elapsed = min(summary.elapsed, summary.seconds)
    traders = f"{summary.traders} of {summary.traders_max} traders"
    state = (
        "the traders leave"
        if summary.elapsed > summary.seconds
        else f"{traders}, {summary.watchers} watchers"
    )
    bar = Table.grid()
    bar.add_row(ProgressBar(summary.seconds, elapsed, width=_WIDTH))
    return Group(
        Text(f"{elapsed:.0f} of {summary.seconds:.0f} s: {state}. Ctrl-C ends it early."), bar, Text()
    )


def _view(summary: Summary) -> Group:
    """Return the summary's figures as they are on the terminal."""
    table = plain_table("latency in ms of", "count", "per s", "failed", "p50", "p95", "p99", "max")
    for kind in summary.kinds:
        table.add_row(
            *(kind.kind, f"{kind.count:,}", f"{kind.per_second:.1f}", str(kind.failures or "")),
            *(figure(ms) for ms in (kind.p50, kind.p95, kind.p99, kind.max)),
        )
    lines = [
        f"{summary.requests:,} requests, {summary.per_second:.1f}/s; {summary.failures} failures; "
        f"{summary.limited} told to wait (429)",
        f"The load generator itself was late by {figure(summary.own_delay_p99)} ms (p99), "
        f"{figure(summary.own_delay_max)} ms at most.",
        *(
            f"failed {error.count}×: {error.kind}: {error.message}"
            for error in summary.errors[:_ERRORS_SHOWN]
        ),
    ]
    return Group(table, Text(), *(Text(line) for line in lines))


def _steps(summary: Summary) -> Group:
    table = plain_table(
        "traders", "requests", "per s", "failed", "order p50", "p99", "trade p99", "own order p99"
    )
    for step in summary.steps:
        table.add_row(
            *(str(step.traders), f"{step.requests:,}", f"{step.per_second:.1f}", str(step.failures or "")),
            *(figure(ms) for ms in (step.place_p50, step.place_p99, step.trade_p99, step.own_order_p99)),
        )
    return Group(Text(), table, Text())


def _write(summary: Summary, stem: Path) -> list[Path]:
    """Write the summary as Markdown and as JSON, and return where."""
    pages = {
        stem.with_suffix(".md"): markdown(summary).encode(),
        stem.with_suffix(".json"): msgspec.json.format(msgspec.json.encode(summary)),
    }
    for path, text in pages.items():
        path.write_bytes(text)
    return list(pages)
