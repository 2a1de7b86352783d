"""`exchange formats`."""

import rich_click as click

from cli.console import CommandError, console, plain_table, print_json
from cli.formats import read_readers, release_text
from cli.inquiries import connect
from cli.operating import Operator, operating
from protocol.commands import ConfigureShard
from protocol.configuration import Role, ShardConfig
from protocol.release import release_of
from protocol.switching import Reader, Switch, plan_switch, switched


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: shards, processes, newest, lacking.")
@click.pass_context
def formats(context: click.Context, as_json: bool) -> None:
    """Show the format, kinds and rules that each shard writes and follows, and those processes read.

    A new release writes the formats that the previous one reads, until all processes are of the new release
    and the shards are switched. Until then an upgrade can be undone.
    """
    if context.invoked_subcommand is not None:
        return
    with operating() as operator:
        readers = _readers(operator)
        switch_plan = plan_switch(operator.configs, readers)
    if as_json:
        print_json(
            {
                "shards": {shard: release_of(config)._asdict() for shard, config in operator.configs.items()},
                "processes": {
                    reader.name: reader.reads._asdict() if reader.reads is not None else None
                    for reader in readers
                },
                "newest": switch_plan.newest._asdict(),
                "lacking": [reader.name for reader in switch_plan.lacking],
            }
        )
        return
    _show(operator.configs, readers)
    if not switch_plan.shards:
        console.print("\nEvery shard writes the newest that any process reads.", highlight=False)
    elif switch_plan.lacking:
        console.print(f"\n{_lacking_text(switch_plan)}", markup=False, highlight=False, soft_wrap=True)
    else:
        console.print(
            f"\n`exchange formats switch` switches to {release_text(switch_plan.newest)}.", highlight=False
        )


@formats.command()
@click.option(
    "--without",
    multiple=True,
    help="A process without a heartbeat that will not return. May be repeated.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def switch(without: tuple[str, ...], yes: bool) -> None:
    """Let every shard write the newest formats that all processes read.

    This is irreversible: earlier releases then refuse to start.

    Refused while a process reads only older formats, or has sent no heartbeat.
    """
    with operating() as operator:
        readers = _readers(operator)
        planned = plan_switch(operator.configs, readers, without)
        if planned.lacking:
            raise CommandError(_lacking_text(planned))
        if not planned.shards:
            console.print(f"Every shard writes {release_text(planned.newest)} already.", highlight=False)
            return
        if not yes:
            click.confirm(
                f"Switch to {release_text(planned.newest)}? Earlier releases cannot run this exchange any "
                "more.",
                abort=True,
            )
        for shard in planned.shards:
            _switch(operator, shard, switched(operator.configs[shard], planned.newest))
            console.print(f"shard {shard}: {release_text(planned.newest)}", highlight=False)


def _switch(operator: Operator, shard: int, config: ShardConfig) -> None:
    def command(request_id: int, reply_to: str) -> ConfigureShard:
        return ConfigureShard(request_id, reply_to, config)

    operator.tell(shard, Role.OPERATOR, command, f"switch to {release_text(release_of(config))}")


def _readers(operator: Operator) -> list[Reader]:
    with connect(operator.settings) as client:
        return read_readers(client, operator.settings)


def _lacking_text(planned: Switch) -> str:
    named = ", ".join(f"{reader.name} ({release_text(reader.reads)})" for reader in planned.lacking)
    return (
        f"The newest is {release_text(planned.newest)}. Not every process reads it: {named}. Restart those "
        "with the new release; one that was not heard and will not come back is left out with --without."
    )


def _show(configs: dict[int, ShardConfig], readers: list[Reader]) -> None:
    table = plain_table("", "format", "kinds", "rules")
    for shard, config in configs.items():
        table.add_row(f"shard {shard} writes", *map(str, release_of(config)))
    for reader in readers:
        table.add_row(
            f"{reader.name} reads",
            *(map(str, reader.reads) if reader.reads is not None else ("not heard", "", "")),
        )
    console.print(table)
