"""Results: several runs, the median, its reference and the ratio to it.

As a table, as JSON, and in docs/reference/benchmarks.md.
"""

import os
import platform
import re
import statistics
import subprocess
import textwrap
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

_DOCS = Path(__file__).parents[2] / "docs"
DOCUMENT = _DOCS / "reference" / "benchmarks.md"
RELIABILITY = _DOCS / "explanation" / "reliability.md"
DOCUMENT_COLUMNS = 100


class Result(msgspec.Struct, kw_only=True):
    """One figure: the median over `runs`, per `unit`, beside a reference measured in the same runs."""

    bench: str
    what: str
    unit: str
    runs: list[float]
    reference: str = ""
    reference_runs: list[float] = []
    notes: str = ""

    @property
    def median(self) -> float:
        """The median of the runs."""
        return statistics.median(self.runs)

    @property
    def reference_median(self) -> float:
        """The median of the reference's runs; 0 if there is none."""
        return statistics.median(self.reference_runs) if self.reference_runs else 0.0

    def row(self) -> tuple[str, ...]:
        """Return the cells of the result's row in a table."""
        ratio = f"{self.median / self.reference_median:.2f}" if self.reference_median else "–"
        spread = f"{_figure(min(self.runs))} – {_figure(max(self.runs))}"
        reference = f"{self.reference}: {_figure(self.reference_median)}" if self.reference else "–"
        return (
            self.bench,
            self.what,
            f"{_figure(self.median)} {self.unit}",
            spread,
            reference,
            ratio,
            self.notes,
        )


COLUMNS = ("bench", "what", "median", "min – max", "reference", "ratio", "notes")


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def repeated(label: str, runs: int, once: Callable[[], list[Result]]) -> list[Result]:
    """Measure `runs` times, with a progress bar, and return the results with all their runs."""
    merged: list[Result] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=runs)
        for _ in range(runs):
            for index, result in enumerate(once()):
                if index == len(merged):
                    merged.append(result)
                else:
                    merged[index].runs += result.runs
                    merged[index].reference_runs += result.reference_runs
                    merged[index].notes = result.notes
            progress.advance(task)
    return merged


def machine() -> str:
    """Return the machine of the measurement: cores, processor, system, and the version of Python."""
    model = (
        re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        if platform.system() == "Linux"
        else None
    )
    name = model.group(1) if model else platform.processor()
    return (
        f"{os.cpu_count()} cores of {name}, {platform.system()} {platform.release()}, Python "
        f"{platform.python_version()}"
    )


def commit() -> str:
    """Return the commit that was measured, marked when anything but the documents differs from it."""
    name = _git("rev-parse", "--short=12", "HEAD") or "unknown"
    return f"{name}-dirty" if _git("status", "--porcelain", "--", ".", ":!docs") else name


def _git(*arguments: str) -> str:
    answer = subprocess.run(
        ["git", *arguments],  # noqa: S607 - git is wherever it is
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip()


def show(results: list[Result]) -> None:
    """Print the results as a table on the terminal."""
    table = Table(title=f"{machine()}, commit {commit()}")
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    for result in results:
        table.add_row(*result.row())
    Console().print(table)


def write(results: list[Result], document: Path = DOCUMENT) -> None:
    """Put the results into a document, between the marks of their bench."""
    text = document.read_text("utf-8")
    for bench in dict.fromkeys(result.bench for result in results):
        rows = [result.row()[1:] for result in results if result.bench == bench]
        measured = (
            f"Measured {datetime.now(UTC):%Y-%m-%d} on {machine()}; commit {commit()}; "
            f"{len(results[0].runs)} runs."
        )
        lines = [
            "",
            *textwrap.wrap(measured, DOCUMENT_COLUMNS, break_on_hyphens=False),
            "",
            "| " + " | ".join(COLUMNS[1:]) + " |",
            "| " + " | ".join("---" for _ in COLUMNS[1:]) + " |",
            *("| " + " | ".join(row).strip() + " |" for row in rows),
            "",
        ]
        begin, end = f"<!-- {bench} -->", f"<!-- end of {bench} -->"
        before, found_begin, _ = text.partition(begin)
        _, ended, after = text.partition(end)
        if not found_begin or not ended:
            raise ValueError(f"{document} has no place for {bench}: add {begin} and {end}")
        text = before + "\n".join((begin, *lines, end)) + after
    document.write_text(text, "utf-8")
