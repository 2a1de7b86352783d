"""`exchange restart`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rich_click as click
from rich.console import Console

from cli import restarting
from cli.console import CommandError, console, plain_table, print_json, running_settings


@click.command()
@click.argument("processes", nargs=-1, metavar="[PROCESS]...")
@click.option(
    "--core",
    type=click.Choice(["auto", "objects", "compiled"]),
    help="Restart engine workers only, to run this core until `exchange down`.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON: the processes, in their order, with times."
)
def restart(processes: tuple[str, ...], core: str | None, as_json: bool) -> None:
    """Restart the processes of a running exchange, one after the other.

    Without names: all but Redis and PostgreSQL, in the order of an upgrade: the database is migrated; then
    each shard's standbys and leader; feeds, persistence, gateways, WebSocket edges, market maker, frontend.
    Each process hands over, finishes its work and is started from the code on disk; the next one follows when
    it is ready. With more than one gateway and edge (EXCHANGE_GATEWAYS, EXCHANGE_WS_EDGES) and a standby
    (EXCHANGE_STANDBYS) trading continues meanwhile.

    --core changes which implementation of the core runs (EXCHANGE_CORE); a shard may change it at any time.
    """
    restarted: list[restarting.Restarted] = []
    try:
        with _progress() as say:
            restarted.extend(restarting.restart(running_settings(), processes, say, core))
    except restarting.RestartError as error:
        raise CommandError(str(error)) from error
    if as_json:
        print_json(restarted)
        return
    table = plain_table("process", "pid", "seconds")
    for restarted_process in restarted:
        table.add_row(
            restarted_process.process,
            str(restarted_process.pid),
            f"{restarted_process.ready - restarted_process.began:.1f}",
        )
    console.print(table)
    is_part = bool(processes) or core is not None
    console.print(
        "\nEverything named has been restarted and is ready." if is_part else "\nEverything is ready again."
    )


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Show the current step: one changing line on a terminal, otherwise one line per step.

    Nothing is shown with JSON output.
    """
    screen = Console(stderr=True)
    if screen.is_terminal:
        with screen.status("") as status:
            yield lambda text: status.update(f"{text} …")
    else:
        yield lambda text: screen.print(f"{text} …", highlight=False)
