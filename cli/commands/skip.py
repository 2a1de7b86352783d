"""`exchange skip`."""

import time
from contextlib import closing
from typing import NamedTuple

import msgspec
import redis
import rich_click as click

from cli.console import CommandError, console, running_settings
from cli.entry_text import entry_lines
from cli.inquiries import audit, connect
from protocol import streams
from protocol.codec import LaterFormatError, decode_message_items, encode_skip, format_of
from protocol.commands import Signed, SkipEntry
from protocol.configuration import OperatorKey, Role
from protocol.listing import decode_configuration
from protocol.signing import sign
from protocol.streams import COMMANDS_FIELD, MESSAGES_FIELD
from protocol.units import TimeMs
from runtime.operator_keys import key_name, private_key, public_half
from runtime.settings import Settings, SettingsError
from stream_log.halt import read_halt
from stream_log.interface import Entry
from stream_log.redis_log import RedisStreamLog

_WARNING = """\
Nothing of this entry will ever be applied, by this program or a later one.
"""
_SENT = """\
Shard {source} has sent these messages. Their settlements do not happen here: an order may stay in flight,
and the difference has to be booked by hand (docs/how-to/respond-to-alerts.md).
"""
_FORGED = """Shard {source} has not sent these messages: they are forged, and do not count as received.
"""


class _Stop(NamedTuple):
    entry: Entry
    reason: str


@click.command()
@click.option("--shard", type=click.IntRange(min=0), required=True, help="The halted shard.")
@click.option("--id", "stream_id", required=True, help="The entry's id, as the reason of the halt names it.")
@click.option("--operator", required=True, help="Your name; it is kept with the entry.")
@click.option("--reason", required=True, help="Why the entry is passed over; it is kept, too.")
@click.option(
    "--mail",
    type=click.Choice(["sent", "forged"]),
    help="Whether the shard that the entry's messages name has sent them; otherwise it is asked.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def skip(shard: int, stream_id: str, operator: str, reason: str, mail: str | None, yes: bool) -> None:
    """Let a halted shard skip the entry of its input that halts it.

    First look at `exchange shards` for the reason, and run `exchange replay --verify` to check the log up to
    there. The entry becomes a dead letter, and every reader of the log skips it, too. Refused unless the
    entry is the very next one.
    """
    settings = running_settings()
    if shard >= settings.shard_count:
        raise click.BadParameter(f"there are {settings.shard_count} shards, from 0 on", param_hint="--shard")
    for value, name, longest in ((operator, "--operator", 200), (reason, "--reason", 1_000)):
        if not value.strip() or len(value) > longest:
            raise click.BadParameter(f"it must have 1 to {longest} characters", param_hint=name)
    try:
        with (
            closing(RedisStreamLog.connect(settings.resolved_redis_url(), shard=shard)) as log,
            connect(settings) as client,
        ):
            stop = _stop(log, client, shard, stream_id)
            console.print(
                f"Shard {shard} is halted: {stop.reason}\n\nEntry {stream_id}:",
                markup=False,
                soft_wrap=True,
            )
            for line in entry_lines(stop.entry.fields):
                console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
            console.print(f"\n{_WARNING}", markup=False, soft_wrap=True)
            is_sent = True
            if (claim := _claim(stop.entry, shard, settings.shard_count)) is not None:
                # A forged message must not count as received: the genuine one with its number would be
                # dropped (docs/decisions/0026).
                is_sent = mail == "sent" if mail else _is_sent(client, claim, shard)
                console.print(
                    (_SENT if is_sent else _FORGED).format(source=claim.source), markup=False, soft_wrap=True
                )
            if not yes:
                click.confirm("Skip it?", abort=True)
            instruction = SkipEntry(0, "", str(stop.entry.stream_id), operator, reason, is_sent)
            # The instruction names the entry: if another one is the next by then, the leader does not follow
            # it.
            log.order_skip(
                shard, encode_skip(_signed(log, settings, shard, instruction), time.time_ns() // 1_000)
            )
    except SettingsError as error:
        raise CommandError(str(error)) from error
    except redis.RedisError as error:
        raise CommandError(
            f"Redis does not answer ({error}); is the exchange running? `exchange up` starts it."
        ) from error
    console.print(
        "Ordered. The shard's worker skips the entry at its next start, within half a minute; `exchange "
        f"shards` shows it, and the entry is in `exchange dead --shard {shard}`.",
        markup=False,
        soft_wrap=True,
    )


def _signed(log: RedisStreamLog, settings: Settings, shard: int, instruction: SkipEntry) -> Signed:
    """Sign an instruction with the operator's key.

    Raises:
        CommandError: the shard does not know that key, so it would not follow the instruction.
        SettingsError: the key cannot be read.
    """
    key = private_key(settings, Role.OPERATOR)
    name = key_name(Role.OPERATOR, public_half(key))
    names = [key.name for key in _keys(log, shard) if key.role is Role.OPERATOR]
    if names and name not in names:
        raise CommandError(
            f"Shard {shard} does not know the key {name}; those of its operators: {', '.join(names)}."
        )
    return sign(key, name, shard, TimeMs(0), instruction)


def _keys(log: RedisStreamLog, shard: int) -> tuple[OperatorKey, ...]:
    """Return a shard's keys by its configuration; none: it has none that this program can read."""
    try:
        config = decode_configuration(log.configuration(shard) or b"").config
    except (msgspec.MsgspecError, LaterFormatError):
        return ()
    return config.keys if config is not None else ()


class _Claim(NamedTuple):
    """The origin of messages that an entry claims."""

    source: int
    last_sequence: int


def _claim(entry: Entry, shard: int, shard_count: int) -> _Claim | None:
    try:
        read = decode_message_items(entry.fields.get(MESSAGES_FIELD, b""))
    except (msgspec.MsgspecError, LaterFormatError):
        return None
    is_mail = 0 <= read.source < shard_count and read.source != shard and read.target == shard
    return _Claim(read.source, read.first_sequence + len(read.items) - 1) if is_mail else None


def _is_sent(client: redis.Redis, claim: _Claim, shard: int) -> bool:
    """Ask the shard that is named whether it has sent the messages.

    Raises:
        CommandError: it does not answer.
    """
    reply = audit(client, [claim.source]).get(claim.source)
    if reply is None:
        raise CommandError(
            f"Shard {claim.source} does not answer, so it is unknown whether it has sent these messages. "
            "Start it, or pass --mail."
        )
    return dict(reply.sent).get(shard, 0) >= claim.last_sequence


def _stop(log: RedisStreamLog, client: redis.Redis, shard: int, stream_id: str) -> _Stop:
    """Return the place where the shard is halted, if that is before this entry.

    Raises:
        CommandError: it is not.
    """
    halt = read_halt(client, shard)
    entries = log.read({streams.commands(shard): log.position(shard).stream_id}, 1, 0)
    held = _held(entries[0]) if entries else ""
    if halt is None and not held:
        raise CommandError(f"Shard {shard} has not halted; there is nothing to skip.")
    if not entries or str(entries[0].stream_id) != stream_id:
        comes = f"{entries[0].stream_id} does" if entries else "nothing does"
        raise CommandError(
            f"Entry {stream_id} does not come next in shard {shard}, {comes}. After a halt a shard is tried "
            "again by itself within half a minute, and then stops right before the entry that halts it: "
            "look again then."
        )
    return _Stop(entries[0], held if halt is None else halt.reason)


def _held(entry: Entry) -> str:
    """Return why a leader holds its input before this entry; empty: it does not."""
    try:
        for field in (COMMANDS_FIELD, MESSAGES_FIELD):
            format_of(entry.fields.get(field, b""))
    except LaterFormatError as error:
        return str(error)
    return ""
