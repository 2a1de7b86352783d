"""`exchange dead`."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import psycopg
import redis
import rich_click as click
from rich.markup import escape

from cli.console import CommandError, console, plain_table, print_json, running_settings
from cli.dead_letters import (
    DEAD_EVENTS,
    DeadLetterReport,
    Letter,
    RefusedError,
    dead_events,
    dead_events_named,
    dead_letters,
    late_commands,
    letters_named,
    number_of_dead_letters,
    pass_dead_event,
    pass_letter,
    requeue_letter,
    requeueable_frame,
)
from cli.entry_text import command_lines
from cli.inquiries import connect
from cli.listed_markets import listing_of
from persist.ingest import NotPutAsideError, ShardIngest
from persist.rows import TradeGapError
from protocol.codec import events_put_aside
from protocol.stream_id import StreamId
from protocol.violations import UnknownMarketError
from runtime.settings import Settings, SettingsError
from stream_log.redis_log import RedisStreamLog

_SHOWN_REASON = 60
_SHOWN_PAYLOAD = 200
_APPLIED_NOW = """\
These commands are applied now, to the present books and balances, not to those when they were sent.
Their senders got a refusal or no answer, and no longer wait: they may have sent them again since.
"""


class _Listing(msgspec.Struct, frozen=True):
    """What `--json` prints."""

    count: int
    letters: list[DeadLetterReport]


@click.group(invoke_without_command=True)
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON: count, letters; a letter's payload is in base64."
)
@click.option("--shard", type=click.IntRange(min=0), help="Only this shard's.")
@click.option("--payload", "with_payload", is_flag=True, help="Also show the undecodable bytes.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Maximum number of letters per shard, the newest ones.",
)
@click.option(
    "--database/--no-database", default=True, help="List also the events that the database could not take."
)
@click.pass_context
def dead(
    context: click.Context, as_json: bool, shard: int | None, with_payload: bool, limit: int, database: bool
) -> None:
    """List undecodable entries of streams, and events that the database refused.

    Nothing of them was applied, and everything else continued. `pass` and `requeue` remove one from the list,
    by its name.
    """
    settings = running_settings()
    if shard is not None and shard >= settings.shard_count:
        raise click.BadParameter(f"there are {settings.shard_count} shards, from 0 on", param_hint="--shard")
    shards = list(range(settings.shard_count)) if shard is None else [shard]
    context.obj = (settings, shards)
    if context.invoked_subcommand is None:
        _list(settings, shards, limit, as_json=as_json, with_payload=with_payload, database=database)


@dead.command("pass")
@click.argument("where")
@click.argument("name", metavar="ID")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def pass_by_name(chosen: tuple[Settings, list[int]], where: str, name: str, yes: bool) -> None:
    """Remove a dead letter from the list for good, after it was examined.

    WHERE and ID are those of the list; for an event that the database refused, WHERE is dead_events.
    """
    settings, shards = chosen
    with _servers_answer():
        if where == DEAD_EVENTS:
            with psycopg.connect(settings.resolved_database_url()) as connection:
                report = _only_dead_event(connection, shards, name)
                _show(report)
                _ask("Remove it?", yes=yes)
                removed = pass_dead_event(connection, report)
        else:
            with connect(settings) as client:
                letters = _letters(client, shards, where, name)
                for letter in letters:
                    _show(letter.report)
                _ask("Remove it?" if len(letters) == 1 else f"Remove these {len(letters)}?", yes=yes)
                removed = sum(pass_letter(client, letter) for letter in letters) > 0
    console.print("Removed." if removed else "Another process has removed it meanwhile.")


@dead.command()
@click.argument("where")
@click.argument("name", metavar="ID")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def requeue(chosen: tuple[Settings, list[int]], where: str, name: str, yes: bool) -> None:
    """Requeue a dead letter that is decodable now, and remove it from the list, in one step.

    Commands are appended to their shard's input and applied now. An event of dead_events is stored in the
    database. A letter that is still undecodable remains.
    """
    settings, shards = chosen
    try:
        with _servers_answer():
            if where == DEAD_EVENTS:
                _requeue_events(settings, shards, name, yes=yes)
            else:
                _requeue_commands(settings, shards, where, name, yes=yes)
    except RefusedError as error:
        raise CommandError(str(error)) from error


def _requeue_commands(settings: Settings, shards: list[int], where: str, name: str, *, yes: bool) -> None:
    with connect(settings) as client:
        letters = _letters(client, shards, where, name)
        if len(letters) > 1:
            raise CommandError(f"{len(letters)} letters have this id; `exchange dead pass` removes them.")
        (letter,) = letters
        _show(letter.report)
        now_us = time.time_ns() // 1_000
        frame = requeueable_frame(letter, listing_of(settings).known, now_us)
        for line in command_lines(frame):
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"\n{_APPLIED_NOW}", markup=False, soft_wrap=True)
        if late := late_commands(frame, now_us // 1_000):
            console.print(f"{late} of them will be refused: their deadline has passed.", highlight=False)
        _ask("Put it back?", yes=yes)
        added = requeue_letter(client, letter, frame)
    if added is None:
        raise CommandError("Another process has removed it meanwhile; nothing was put back.")
    console.print(f"Put back as {where} {added}.", markup=False, highlight=False)


def _requeue_events(settings: Settings, shards: list[int], stream_id: str, *, yes: bool) -> None:
    url = settings.resolved_database_url()
    with psycopg.connect(url) as connection:
        report = _only_dead_event(connection, shards, stream_id)
    _show(report)
    try:
        for number, event in events_put_aside(report.payload or b""):
            console.print(f"  event {number}: {event!r}", markup=False, highlight=False, soft_wrap=True)
        _ask("Store it?", yes=yes)
        log = RedisStreamLog.connect(settings.resolved_redis_url(), shard=report.shard)
        ingest = ShardIngest(report.shard, log, url, settings.shard_count, settings.ingest_batch_entries)
        try:
            count = ingest.requeue(StreamId.parse(stream_id))
        finally:
            ingest.close()
            log.close()
    except NotPutAsideError as error:
        raise CommandError("Another process has removed it meanwhile; nothing was stored.") from error
    except TradeGapError as error:
        raise CommandError(f"{error}: what was put aside before it comes first.") from error
    except (msgspec.MsgspecError, UnknownMarketError, psycopg.DataError, psycopg.IntegrityError) as error:
        raise CommandError(f"It still cannot be stored: {str(error).strip()}") from error
    console.print(f"{count} events stored.", highlight=False)


def _letters(client: redis.Redis, shards: list[int], where: str, name: str) -> list[Letter]:
    letters = letters_named(client, shards, where, name)
    if not letters:
        raise CommandError(f"There is no dead letter {where} {name}; `exchange dead` lists them.")
    return letters


def _only_dead_event(
    connection: psycopg.Connection[tuple[object, ...]], shards: list[int], stream_id: str
) -> DeadLetterReport:
    reports = dead_events_named(connection, shards, stream_id)
    if not reports:
        raise CommandError(f"There is no {stream_id} in {DEAD_EVENTS}; `exchange dead` lists what is.")
    if len(reports) > 1:
        which = ", ".join(str(report.shard) for report in reports)
        raise CommandError(f"Shards {which} each have a {stream_id}; say which: `exchange dead --shard K …`.")
    return reports[0]


def _show(report: DeadLetterReport) -> None:
    console.print(
        f"{report.where} {report.name}, {_age(report.age_s)} ago: {report.reason}\n  {_payload_text(report)}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _ask(question: str, *, yes: bool) -> None:
    if not yes:
        click.confirm(question, abort=True)


@contextmanager
def _servers_answer() -> Iterator[None]:
    try:
        yield
    except (redis.RedisError, SettingsError) as error:
        raise CommandError(
            f"Redis does not answer ({error}); is the exchange running? `exchange up` starts it."
        ) from error
    except psycopg.Error as error:
        raise CommandError(
            f"The database does not answer ({error}); --no-database lists without it."
        ) from error


def _list(
    settings: Settings, shards: list[int], limit: int, *, as_json: bool, with_payload: bool, database: bool
) -> None:
    with _servers_answer():
        with connect(settings) as client:
            count = number_of_dead_letters(client, shards)
            reports = dead_letters(client, shards, limit)
        if database:
            with psycopg.connect(settings.resolved_database_url()) as connection:
                refused = dead_events(connection, shards, limit)
            count, reports = count + len(refused), reports + refused
    reports.sort(key=lambda letter: letter.age_s)
    if as_json:
        letters = (
            reports if with_payload else [msgspec.structs.replace(letter, payload=None) for letter in reports]
        )
        print_json(_Listing(count, letters))
        return
    if not reports:
        console.print("There are no dead letters.")
        return
    table = plain_table("where", "id", "age", "bytes", "reason")
    table.columns[1].justify = table.columns[4].justify = "left"
    for letter in reports:
        table.add_row(
            escape(letter.where),
            escape(letter.name),
            _age(letter.age_s),
            str(letter.size),
            escape(letter.reason[:_SHOWN_REASON]),
        )
    console.print(table)
    if with_payload:
        for letter in reports:
            console.print(
                f"\n{letter.where} {letter.name}\n  {_payload_text(letter)}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
    if count > len(reports):
        console.print(
            f"\nThese are the newest {len(reports)} of {count}; --limit shows more.", highlight=False
        )


def _payload_text(letter: DeadLetterReport) -> str:
    return repr((letter.payload or b"")[:_SHOWN_PAYLOAD])


def _age(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
