"""`exchange simulate`."""

import signal
import sys
from collections import Counter
from statistics import median_low

import rich_click as click
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cli.console import console, plain_table, print_json
from engine_worker.cores import COMPILED, CORES, OBJECTS, why_not_compiled
from lab.simulation.campaign import (
    EMPTY,
    FEATURES,
    TRANSFERS,
    Failure,
    Tally,
    explain,
    simulate_on_all_processors,
)
from lab.simulation.run import run
from lab.simulation.schedule import MIXED, plan_of

_EXPLAINED_MAX = 3
"""Maximum of failures that are shrunk and shown; the others are only named."""
_INTERRUPTED = 130
_TROUBLES = ("crash", "disconnect", "pause")


@click.command()
@click.option(
    "--seeds", default=1_000, show_default=True, type=click.IntRange(min=1), help="How many seeds to run."
)
@click.option(
    "--first-seed", default=0, show_default=True, type=click.IntRange(min=0), help="The first of them."
)
@click.option(
    "--processes", default=0, type=click.IntRange(min=0), help="How many processes run them; 0: one per core."
)
@click.option(
    "--seed",
    "only",
    default=None,
    type=click.IntRange(min=0),
    help="Run this seed alone; shrink it if it fails.",
)
@click.option(
    "--commands-min",
    default=0,
    type=click.IntRange(min=0),
    help="Let each seed go on until its shards have had so many different commands; 0: as long as the seed "
    "says, about 150.",
)
@click.option(
    "--core",
    type=click.Choice((OBJECTS, COMPILED, MIXED)),
    default=OBJECTS,
    show_default=True,
    help="The core that engine workers run; mixed: each start of a worker draws its own. What they write is "
    "compared with a replay by objects.",
)
@click.option("--trace", is_flag=True, help="With --seed: print what happens, step by step.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print JSON: counts, what was injected, failures with their schedules.",
)
def simulate(
    seeds: int,
    first_seed: int,
    processes: int,
    only: int | None,
    commands_min: int,
    core: str,
    trace: bool,
    as_json: bool,
) -> None:
    """Run the whole pipeline in memory, under a simulated clock and with faults, once per seed.

    Exit 1 if a rule is broken.

    Gateways, shards with two workers each, feeds and ingests run on a stream log in memory. Processes crash
    before and after every call, stand still, lose connections and replies, take over from each other, find
    torn snapshots; at the end everything that was acknowledged must be there once, money must add up, and
    books, candles and database must agree. docs/explanation/simulation.md has the details.

    Ctrl-C, or SIGTERM, shows what the seeds came to that were run.
    """
    if core != OBJECTS and COMPILED not in CORES:
        raise click.UsageError(f"there is no compiled core: {why_not_compiled}")
    if only is not None:
        first_seed, seeds = only, 1
        if trace:
            run(
                plan_of(only, commands_min=commands_min, core=core),
                lambda line: console.print(line, highlight=False, markup=False),
            )
    tally = _run(
        range(first_seed, first_seed + seeds), processes, commands_min, core, show_progress=not as_json
    )
    if not tally.seeds:
        sys.exit(_INTERRUPTED)
    failures = [
        failure
        for seed, _ in sorted(tally.failures)[:_EXPLAINED_MAX]
        if (failure := _explained(seed, commands_min, core))
    ]
    if as_json:
        print_json(
            {
                "first_seed": first_seed,
                "seeds": tally.seeds,
                "commands": {"min": min(tally.commands), "median": median_low(tally.commands)},
                "seeds_with": {name: tally.seeds_of[name] for name in (*FEATURES, TRANSFERS)},
                "counts": tally.counts,
                "injected": tally.injected,
                "failed": [{"seed": seed, "what": violation} for seed, violation in sorted(tally.failures)],
                "explained": [{**failure._asdict(), "command": failure.command} for failure in failures],
            }
        )
    else:
        _show(tally)
        for failure in failures:
            _show_failure(failure)
        for seed, violation in sorted(tally.failures)[_EXPLAINED_MAX:]:
            console.print(f"[bold red]seed {seed}[/] {violation}", highlight=False)
    if tally.failures:
        sys.exit(1)
    if tally.seeds < seeds:
        sys.exit(_INTERRUPTED)


def _run(seeds: range, processes: int, commands_min: int, core: str, *, show_progress: bool) -> Tally:
    tally = EMPTY
    columns = (
        TextColumn("seeds"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not show_progress) as progress:
        task = progress.add_task("none failed", total=len(seeds))
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            for part in simulate_on_all_processors(seeds, processes, commands_min, core):
                tally = tally.add(part)
                failed = f"[bold red]{len(tally.failures)} failed[/]" if tally.failures else "none failed"
                progress.update(task, advance=part.seeds, description=failed)
        except KeyboardInterrupt:
            at = seeds[tally.seeds]
            click.echo(
                f"Stopped before seed {at}. Go on with: --first-seed {at} --seeds {len(seeds) - tally.seeds}",
                err=True,
            )
        finally:
            signal.signal(signal.SIGTERM, before)
    return tally


def _explained(seed: int, commands_min: int, core: str) -> Failure | None:
    with console.status(f"Shrinking the schedule of seed {seed} …") as status:
        return explain(
            seed,
            lambda left: status.update(f"Shrinking the schedule of seed {seed}: {left} actions …"),
            commands_min,
            core,
        )


def _show(tally: Tally) -> None:
    verdict = f"[bold red]{len(tally.failures)} failed[/]" if tally.failures else "[green]none failed[/]"
    console.print(f"{tally.seeds:,} seeds, {verdict}", highlight=False)
    least, middle = min(tally.commands), median_low(tally.commands)
    console.print(f"commands per seed: {least:,} at least, {middle:,} in the median", highlight=False)
    console.print()
    had = plain_table("seeds with", "seeds")
    for name in FEATURES:
        had.add_row(name, f"{tally.seeds_of[name]:,}")
    had.add_row(TRANSFERS, f"{tally.seeds_of[TRANSFERS]:,}")
    console.print(had)
    console.print()
    happened = plain_table("what happened", "times", "per seed")
    for event_name, count in tally.counts.most_common():
        happened.add_row(event_name, f"{count:,}", f"{count / tally.seeds:,.1f}")
    console.print(happened)
    console.print()
    by_place: dict[str, Counter[str]] = {}
    others = plain_table("injected, and what came of it", "times", "seeds")
    for trouble_at, count in tally.injected.most_common():
        trouble, _, place = trouble_at.partition(" ")
        if trouble in _TROUBLES and place.startswith(("before ", "after ")):
            by_place.setdefault(place, Counter())[trouble] += count
        else:
            others.add_row(trouble_at, f"{count:,}", f"{tally.seeds_with[trouble_at]:,}")
    console.print(others)
    console.print()
    places = plain_table("in the middle of a step", *_TROUBLES)
    for place in sorted(by_place, key=lambda trouble_place: trouble_place.split()[::-1]):
        places.add_row(place, *(f"{by_place[place][trouble]:,}" for trouble in _TROUBLES))
    console.print(places)


def _show_failure(failure: Failure) -> None:
    console.print()
    console.print(f"[bold red]seed {failure.seed}[/] {failure.what}", highlight=False)
    console.print(f"again: {failure.command}", highlight=False)
    console.print(
        f"The smallest of its schedules, {len(failure.schedule)} of {failure.actions} actions, as it ran:"
    )
    for line in failure.trace:
        console.print(f"  {line}", highlight=False, markup=False)
