"""What came of a run: on the terminal, and between marks in docs/explanation/reliability.md."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.text import Text

from cli.console import plain_table
from lab.benchmarks.report import commit, machine
from lab.chaos.plan import FaultKind
from lab.chaos.run import Result, Status

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "explanation" / "reliability.md"
MARKED: Final = "chaos"
MARKED_OUTAGES: Final = "database outage"
MARKED_ROLLING: Final = "rolling restart"
"""Where a run is recorded: between `<!-- this -->` and `<!-- end of this -->`.

The second is for a run whose only faults are outages.
"""
CATCH_UP_TARGET: Final = 5.0
_BREACHES_SHOWN: Final = 5


def live(status: Status) -> RenderableType:
    """Return the lines that show a run's progress."""
    lines = [f"{status.step} …"]
    if status.orders_max and status.seconds:
        behind = "unknown" if status.behind_ms is None else f"{status.behind_ms / 1000:.1f} s"
        faults = ", ".join(f"{count} {kind}" for kind, count in status.faults.items()) or "none yet"
        down = ", ".join(f"{name} ({reason})" for name, reason in status.down.items()) or "nothing"
        lines += [
            f"orders   {status.orders:,} of {status.orders_max:,}, {status.rate:,.0f}/s, after "
            f"{status.seconds:,.0f} s",
            f"faults   {sum(status.faults.values())} of {status.faults_max}: {faults}",
            *([f"operator {status.operations} of {status.operations_max}"] if status.operations_max else []),
            f"down     {down}",
            f"behind   the database by {behind}",
        ]
    return Group(*(Text(line) for line in lines))


def show(result: Result, console: Console) -> None:
    """Print the verdict and the figures of a run."""
    table = plain_table("promise", "looked at", "broken")
    for check in result.verdict.checks:
        broken = f"[bold red]{check.breach_count:,}[/]" if check.breach_count else "[green]0[/]"
        table.add_row(
            check.promise, f"{check.examined:,}" if check.examined else "[bold red]nothing[/]", broken
        )
    console.print(table)
    console.print()
    for check in result.verdict.checks:
        for breach in check.breaches[:_BREACHES_SHOWN]:
            console.print(
                f"{check.name}: {breach}", style="red", highlight=False, markup=False, soft_wrap=True
            )
    for name, fact in _facts(result).items():
        console.print(f"{name:<10} {fact}", highlight=False, markup=False, soft_wrap=True)
    if result.restarted:
        console.print()
        restarts = plain_table("restarted", "seconds", "longest time without an accepted order")
        for restart in result.restarted:
            restarts.add_row(restart.process, f"{restart.seconds:.1f}", _ms(restart.wait_s))
        console.print(restarts)
    console.print()
    verdict = "[bold green]clean[/]" if result.verdict.clean else "[bold red]not clean[/]"
    console.print(f"The verdict is {verdict} (seed {result.seed}).", highlight=False)


def _facts(result: Result) -> dict[str, str]:
    facts = {
        "orders": f"{result.orders:,} in {result.seconds:,.0f} s, {result.rate:,.0f}/s; {result.attempts:,} "
        "attempts, "
        f"{result.doubled:,} orders sent more than once, {result.unknown:,} answers lost; {result.trades:,} "
        "trades",
        "faults": _counts(result.faults),
        "hit": _counts(result.by_process),
        **({"operator": _operations(result)} if result.operations else {}),
        "restarts": _counts(result.restarts),
        "fenced": f"{result.fenced} workers that had been replaced wrote nothing and left",
        "answers": _counts(result.answers),
        "settled": f"{result.settle_s:.1f} s after the last answer",
        "behind": f"the database by at most {result.behind_ms_max / 1000:.1f} s while it was there and "
        "nothing was paused",
    }
    if result.restarted:
        facts["retries"] = _counts(result.retries)
        facts["before"] = (
            f"at most {_ms(result.wait_s_before)} without an accepted order before the first restart"
        )
    if result.catch_ups:
        facts["catch-up"] = _catch_up(result)
    return facts


def _catch_up(result: Result) -> str:
    outages = "; ".join(
        f"{catch_up.backlog_ms / 1000:.0f} s of events in {catch_up.seconds:.1f} s ({catch_up.speed:.0f} ×)"
        for catch_up in result.catch_ups
    )
    slowest = min(catch_up.speed for catch_up in result.catch_ups)
    return f"{outages}; target {CATCH_UP_TARGET:.0f} × {'met' if slowest >= CATCH_UP_TARGET else 'MISSED'}"


def _operations(result: Result) -> str:
    return f"{_counts(result.operations)}; {result.operation_retries} tried again"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


def write(result: Result, command: str) -> None:
    """Put the result into docs/explanation/reliability.md, between its marks."""
    text = DOCUMENT.read_text("utf-8")
    only_outages = set(result.faults) <= {FaultKind.DATABASE_STOP, FaultKind.DATABASE_PAUSE}
    mark = (
        MARKED_ROLLING if result.restarted else MARKED_OUTAGES if result.faults and only_outages else MARKED
    )
    begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    before, marker, _ = text.partition(begin)
    _, ended, after = text.partition(end)
    if not marker or not ended:
        raise ValueError(f"{DOCUMENT} has no place for this: add {begin} and {end}")
    verdict = "clean" if result.verdict.clean else "**not clean**"
    restarts = [
        "",
        "| restarted | ready again after | longest time without an accepted order |",
        "| --- | --- | --- |",
        *(
            f"| {restart.process} | {restart.seconds:.1f} s | {_ms(restart.wait_s)} |"
            for restart in result.restarted
        ),
    ]
    lines = [
        begin,
        f"Measured {datetime.now(UTC):%Y-%m-%d} on {machine()}; commit {commit()}; `{command}`. Verdict: "
        f"{verdict}.",
        "",
        "| promise | looked at | broken |",
        "| --- | --- | --- |",
        *(
            f"| {check.promise} | {check.examined:,} | {check.breach_count:,} |"
            for check in result.verdict.checks
        ),
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {fact} |" for name, fact in _facts(result).items()),
        *(restarts if result.restarted else ()),
        end,
    ]
    DOCUMENT.write_text(before + "\n".join(lines) + after, "utf-8")
