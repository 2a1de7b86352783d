"""`exchange chaos`."""

import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
import rich_click as click
from rich.console import Console
from rich.live import Live

from cli.console import CommandError, console, print_json
from cli.local.embedded import ServerError
from cli.local.own_exchange import OwnExchangeError
from lab.chaos import report
from lab.chaos.run import Result, Scenario, Show, Status, run
from lab.chaos.sabotage import Break
from lab.chaos.scenarios import CONTROLS, Counts, mixed, rolling, rolling_without_drain
from runtime.settings import SettingsError

SAY_EVERY_S = 10.0


@click.command()
@click.option(
    "--kills", type=click.IntRange(min=0), help="kill -9 of processes of the exchange, and of PostgreSQL."
)
@click.option("--pauses", type=click.IntRange(min=0), help="SIGSTOP of processes for longer than any lease.")
@click.option("--redis-kills", type=click.IntRange(min=0), help="kill -9 of Redis.")
@click.option(
    "--db-outages", type=click.IntRange(min=0), help="The database stopped, every other time paused."
)
@click.option("--outage-s", default=30.0, show_default=True, help="Length of a database outage.")
@click.option(
    "--operations",
    type=click.IntRange(min=0),
    help="So many of each thing that an operator does, and of forgeries.",
)
@click.option(
    "--rolling", "is_rolling", is_flag=True, help="Instead of faults: restart all processes, one by one."
)
@click.option("--orders", type=click.IntRange(min=1), help="Orders to place.")
@click.option("--rate", type=click.FloatRange(min=1), help="Orders per second, at most.")
@click.option("--seed", type=int, help="Draws faults and orders; left out: a new one.")
@click.option(
    "--shards", default=1, show_default=True, type=click.IntRange(1, 100), help="Shards of the exchange."
)
@click.option(
    "--standbys", default=1, show_default=True, type=click.IntRange(min=0), help="Standbys of each shard."
)
@click.option(
    "--redis-mode",
    default="single",
    show_default=True,
    type=click.Choice(["single", "sentinel", "cluster"]),
    help="What Redis is; under Sentinel the master is killed, and a replica must have what is acknowledged.",
)
@click.option(
    "--break-fence", "broken", flag_value="fence", help="Control: who was replaced may still write."
)
@click.option(
    "--break-dedup",
    "broken",
    flag_value="dedup",
    help="Control: requests and idempotency keys are not remembered.",
)
@click.option(
    "--break-wait", "broken", flag_value="wait", help="Control: Redis acknowledges before it is on disk."
)
@click.option(
    "--break-signature", "broken", flag_value="signature", help="Control: nobody's signature is looked at."
)
@click.option(
    "--break-drain", "broken", flag_value="drain", help="Control of --rolling: nobody finishes anything."
)
@click.option("--keep", is_flag=True, help="Keep the exchange's data and logs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: verdict, figures.")
@click.option(
    "--report", "record", is_flag=True, help="Record the result in docs/explanation/reliability.md."
)
def chaos(
    kills: int | None,
    pauses: int | None,
    redis_kills: int | None,
    db_outages: int | None,
    outage_s: float,
    operations: int | None,
    is_rolling: bool,
    orders: int | None,
    rate: float | None,
    seed: int | None,
    shards: int,
    standbys: int,
    redis_mode: str,
    broken: str | None,
    keep: bool,
    as_json: bool,
    record: bool,
) -> None:
    """Break a separate exchange while it trades, and judge the outcome of every order.

    Starts a whole exchange on free ports, places orders by many accounts over HTTP and WebSocket, kills and
    pauses its processes at random moments, and then compares every answer with the database, the shards and
    the subscribers' messages. Exit code 1 if a promise was broken. A control (--break-...) disables a
    safeguard, with a short scenario that needs it: the verdict must not be clean.
    """
    seed = secrets.randbelow(2**31) if seed is None else seed
    counts = {
        "kills": kills,
        "pauses": pauses,
        "redis_kills": redis_kills,
        "database_outages": db_outages,
        "operations": operations,
        "orders": orders,
        "rate": rate,
        "outage_s": outage_s,
        "shards": shards,
        "standbys": standbys,
        "redis_mode": redis_mode,
    }
    given = msgspec.convert({name: value for name, value in counts.items() if value is not None}, Counts)
    control = Break(f"--break-{broken}") if broken else None
    if is_rolling or control is Break.DRAIN:
        scenario = _rolling_scenario(seed, counts, control)
    else:
        make = CONTROLS[control] if control else mixed
        scenario = make(seed, **given)
    try:
        with _shown() as show:
            result = run(scenario, show, keep=keep)
    except (OwnExchangeError, ServerError, SettingsError) as error:
        raise CommandError(f"The exchange to be broken could not be run: {error}") from error
    _tell(result, scenario, as_json=as_json, record=record, keep=keep)
    sys.exit(0 if result.verdict.clean else 1)


def _rolling_scenario(seed: int, counts: Mapping[str, Any], control: Break | None) -> Scenario:
    if any(
        counts[name] is not None
        for name in ("kills", "pauses", "redis_kills", "database_outages", "operations")
    ):
        raise CommandError("--rolling restarts, and breaks nothing; leave out the counts of faults.")
    if control not in (None, Break.DRAIN):
        raise CommandError(f"{control} is a control of the faults; --rolling has --break-drain.")
    given = {
        name: counts[name] for name in ("orders", "rate", "shards", "standbys") if counts[name] is not None
    }
    return (rolling_without_drain if control else rolling)(seed, **given)


def _tell(result: Result, scenario: Scenario, *, as_json: bool, record: bool, keep: bool) -> None:
    if as_json:
        print_json({"clean": result.verdict.clean, "result": result})
    else:
        report.show(result, console)
        if keep:
            console.print(f"Its data and logs are in {result.folder}", highlight=False, soft_wrap=True)
    if record:
        arguments = [
            argument for argument in sys.argv[1:] if argument not in ("--report", "--json", "--keep")
        ]
        seed = [] if "--seed" in arguments else ["--seed", str(scenario.seed)]
        report.write(result, " ".join(["exchange", *arguments, *seed]))


@contextmanager
def _shown() -> Iterator[Show]:
    """Show how far it is: a changing picture on a terminal, a line now and then elsewhere."""
    screen = Console(stderr=True)
    if screen.is_terminal:
        with Live(console=screen, transient=True) as picture:
            yield lambda status: picture.update(report.live(status))
        return
    last_said: tuple[str, float] = ("", 0.0)

    def say(status: Status) -> None:
        nonlocal last_said
        if status.step != last_said[0] or time.monotonic() > last_said[1] + SAY_EVERY_S:
            last_said = (status.step, time.monotonic())
            screen.print(report.live(status))

    yield say
