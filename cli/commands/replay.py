"""`exchange replay`."""

import time

import msgspec
import redis
import rich_click as click
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from cli.console import CommandError, console, print_json, running_settings
from cli.inquiries import audit, connect
from engine_worker.core.invariants import InvariantBroken
from engine_worker.core.snapshot import SnapshotError
from engine_worker.cores import CORES, chosen_core
from engine_worker.replay import Replay, SourceTrimmed, StreamLogSource, Verdict, Verifier
from protocol.replies import AuditReply
from protocol.stream_id import STREAM_START, StreamId
from runtime.settings import Settings, SettingsError
from stream_log.redis_log import RedisStreamLog

ATTEMPTS_MAX = 3
"""Maximum of attempts: a replay whose log is trimmed meanwhile starts again from a newer snapshot."""


class _Report(msgspec.Struct, frozen=True):
    """A verdict, for --json."""

    same: bool
    asked_the_shard: bool
    seconds: float
    commands_per_second: int
    verdict: Verdict


@click.command()
@click.option(
    "--verify",
    is_flag=True,
    required=True,
    help="Compare with the exchange's output (required).",
)
@click.option(
    "--shard", type=click.IntRange(min=0), help="Only this shard; otherwise all, one after the other."
)
@click.option(
    "--from-beginning/--from-snapshot",
    "from_beginning",
    default=None,
    help="Where to begin; otherwise at the beginning if Redis still has it, and at the older snapshot if "
    "not.",
)
@click.option(
    "--core",
    type=click.Choice(["auto", "objects", "compiled"]),
    help="The core that replays; otherwise that of EXCHANGE_CORE. All must write the same.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: a list, an object per shard.")
def replay(
    verify: bool, shard: int | None, from_beginning: bool | None, core: str | None, as_json: bool
) -> None:
    """Rebuild shards from their log, and compare events, state hashes and snapshots with the originals.

    It only reads: the exchange may run meanwhile, or be stopped. Exit code 1 at the first difference, which
    is shown.
    """
    settings = running_settings()
    if core is not None:
        settings = msgspec.structs.replace(settings, core=core)
    try:
        chosen_core(settings)
    except SettingsError as error:
        raise CommandError(str(error)) from error
    if shard is not None and shard >= settings.shard_count:
        raise click.BadParameter(f"there are {settings.shard_count} shards, from 0 on", param_hint="--shard")
    shards = range(settings.shard_count) if shard is None else [shard]
    try:
        reports = [_verify(settings, index, from_beginning, quiet=as_json) for index in shards]
    except (redis.RedisError, SettingsError) as error:
        raise CommandError(
            f"Redis does not answer ({error}); is the exchange running? `exchange up` starts it."
        ) from error
    if as_json:
        print_json(reports)
    else:
        for report in reports:
            _show(report)
    if not all(report.same for report in reports):
        raise SystemExit(1)


def _verify(settings: Settings, shard: int, from_beginning: bool | None, *, quiet: bool) -> _Report:
    """Replay one shard; where its log is trimmed meanwhile, once more from a newer snapshot."""
    attempts = 0
    while True:
        attempts += 1
        try:
            return _verify_once(settings, shard, from_beginning, quiet=quiet)
        except SourceTrimmed as error:
            if from_beginning or attempts == ATTEMPTS_MAX:
                raise CommandError(f"This cannot be replayed: {error}.") from error


def _verify_once(settings: Settings, shard: int, from_beginning: bool | None, *, quiet: bool) -> _Report:
    log = RedisStreamLog.connect(settings.resolved_redis_url())
    checksum = log.checksum(shard)  # before the goal is known, so that it is not beyond
    with connect(settings) as client:
        reply = audit(client, [shard]).get(shard)
    goal = StreamId.parse(reply.position) if reply is not None else log.position(shard).stream_id
    source = StreamLogSource(log, shard)
    try:
        start = _start(settings, source, shard, from_beginning)
        verifier = Verifier(source, start, goal, checksum=checksum)
        began = time.monotonic()
        _run(verifier, reply, shard, quiet=quiet)
        seconds = time.monotonic() - began
    except InvariantBroken as error:
        raise CommandError(f"Replaying shard {shard} breaks an invariant: {error}") from error
    if reply is not None:
        verifier.compare_digest(reply.command_count, reply.digest)
    verdict = verifier.verdict()
    rate = int(verdict.commands / seconds) if seconds else 0
    return _Report(verdict.difference is None, reply is not None, round(seconds, 3), rate, verdict)


def _start(settings: Settings, source: StreamLogSource, shard: int, from_beginning: bool | None) -> Replay:
    cores = CORES[chosen_core(settings)]
    if from_beginning is not False:
        replay = Replay(source, shard, settings.shard_count, cores=cores)
        try:
            source.entries(replay.position, 1)
        except SourceTrimmed:
            if from_beginning:
                raise
        else:
            return replay
    reasons = ["there is none"]
    for snapshot in reversed(source.snapshots()):
        try:
            return Replay(source, shard, settings.shard_count, snapshot, cores)
        except SnapshotError as error:
            reasons = [str(error)]
    raise CommandError(f"Shard {shard} has no snapshot that can be used: {reasons[-1]}.")


def _run(verifier: Verifier, reply: AuditReply | None, shard: int, *, quiet: bool) -> None:
    first = verifier.replay.core.command_count
    total = reply.command_count - first if reply is not None else None
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=quiet or not console.is_terminal
    ) as progress:
        task = progress.add_task(f"shard {shard}", total=total, rate="")
        began = time.monotonic()
        for commands in verifier.run():
            rate = commands / max(time.monotonic() - began, 0.001)
            progress.update(task, completed=commands, rate=f"{rate:,.0f} commands/s")


def _show(report: _Report) -> None:
    verdict = report.verdict
    begin = f"from {verdict.start}" if verdict.start != str(STREAM_START) else "from the beginning"
    result = "[green]the same[/]" if report.same else "[bold red]not the same[/]"
    compared = (
        f"{verdict.events:,} events, {verdict.state_hashes} state hashes, {verdict.snapshots} snapshots, "
        f"{verdict.checksums} checksums of commits"
    )
    end = "and the shard's own state" if report.asked_the_shard else "(the shard itself does not answer)"
    facts = {
        f"shard {verdict.shard}": f"{result}, {begin} to {verdict.end}",
        "replayed": (
            f"{verdict.commands:,} commands in {verdict.entries:,} entries; {report.commands_per_second:,} "
            "commands/s"
        ),
        "compared": f"{compared} {end}",
    }
    if verdict.dead_letters or verdict.foreign:
        facts["garbage"] = (
            f"{verdict.dead_letters} entries of the input, {verdict.foreign} of the events that are no one's"
        )
    if (difference := verdict.difference) is not None:
        first, last = difference.commands
        facts["first"] = (
            f"difference: {escape(difference.what)} of {difference.stream} {difference.stream_id},"
        )
        facts[""] = f"between commands {first:,} and {last:,}"
        facts["expected"] = escape(difference.expected)
        facts["found"] = escape(difference.found)
    for name, fact in facts.items():
        console.print(f"{name:<9} {fact}", highlight=False)
    console.print()
