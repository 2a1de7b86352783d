"""`exchange dead`."""

import msgspec
import psycopg
import redis
import rich_click as click
from rich.markup import escape

from cli.console import CommandError, console, plain_table, print_json, running_settings
from cli.dead_letters import DeadLetterReport, dead_events, dead_letters, number_of_dead_letters
from cli.probes import connect
from runtime.settings import SettingsError

_SHOWN_REASON = 60
_SHOWN_PAYLOAD = 200


class _Listing(msgspec.Struct, frozen=True):
    """What `--json` prints."""

    count: int
    letters: list[DeadLetterReport]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON: count, letters; a letter's payload is in base64.")
@click.option("--shard", type=click.IntRange(min=0), help="Only this shard's.")
@click.option("--payload", "with_payload", is_flag=True, help="Show also what could not be understood.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=100, show_default=True, help="The newest so many of each shard."
)
@click.option("--database/--no-database", default=True, help="List also the events that the database could not take.")
def dead(as_json: bool, shard: int | None, with_payload: bool, limit: int, database: bool) -> None:
    """List what nobody could understand: entries of streams, and events that the database refused.

    Nothing of it was applied, and everything else went on.
    """
    settings = running_settings()
    if shard is not None and shard >= settings.shard_count:
        raise click.BadParameter(f"there are {settings.shard_count} shards, from 0 on", param_hint="--shard")
    shards = list(range(settings.shard_count)) if shard is None else [shard]
    try:
        with connect(settings) as client:
            count = number_of_dead_letters(client, shards)
            found = dead_letters(client, shards, limit)
        if database:
            with psycopg.connect(settings.resolved_database_url()) as connection:
                refused = dead_events(connection, shards, limit)
            count, found = count + len(refused), found + refused
    except (redis.RedisError, SettingsError) as error:
        raise CommandError(
            f"Redis does not answer ({error}); is the exchange running? `exchange up` starts it."
        ) from error
    except psycopg.Error as error:
        raise CommandError(f"The database does not answer ({error}); --no-database lists without it.") from error
    found.sort(key=lambda letter: letter.age_s)
    if as_json:
        letters = found if with_payload else [msgspec.structs.replace(letter, payload=None) for letter in found]
        print_json(_Listing(count, letters))
        return
    if not found:
        console.print("There are no dead letters.")
        return
    table = plain_table("where", "id", "age", "bytes", "reason")
    table.columns[1].justify = table.columns[4].justify = "left"
    for letter in found:
        table.add_row(
            escape(letter.where),
            escape(letter.stream_id),
            _age(letter.age_s),
            str(letter.size),
            escape(letter.reason[:_SHOWN_REASON]),
        )
    console.print(table)
    if with_payload:
        for letter in found:
            text = repr((letter.payload or b"")[:_SHOWN_PAYLOAD])
            console.print(
                f"\n{letter.where} {letter.stream_id}\n  {text}", markup=False, highlight=False, soft_wrap=True
            )
    if count > len(found):
        console.print(f"\nThese are the newest {len(found)} of {count}; --limit shows more.", highlight=False)


def _age(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
