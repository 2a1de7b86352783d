"""`exchange restore`."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Final

import msgspec
import psycopg
import redis
import rich_click as click
from rich.progress import Progress as ProgressBar

from cli import inquiries
from cli.console import CommandError, console, own_settings, plain_table, print_json
from cli.local.processes import engines
from cli.needed_servers import servers_of_stopped
from cli.running import StartError
from history.past import Past, Progress, time_text
from history.restore import Plan, RestoreError, loss_text, plan_restore, write_database, write_redis
from persist.migrate import MigrationError, RoleLogins
from persist.migrate import migrate as bring_up_to_date
from runtime import redis_clients
from runtime.settings import Settings, SettingsError
from stream_log.redis_log import RedisStreamLog

GO_ON: Final = (
    "Redis is restored. Start the exchange again, and it continues from here: `exchange up` where it runs by "
    "itself, `docker compose up` with Compose; on Kubernetes apply the manifests again."
)


@click.command()
@click.option(
    "--dry-run", is_flag=True, help="Only compute what would be restored and what would be missing."
)
@click.option(
    "--accept-loss",
    is_flag=True,
    help="Restore even if the database has orders or trades that its archive does not lead to.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: restored, shards, losses.")
def restore(dry_run: bool, accept_loss: bool, as_json: bool) -> None:
    """Rebuild Redis's data from the database, after Redis was wiped or has lost its end.

    The exchange must be stopped. Every shard is restored to the last archived entry of its log; the exchange
    continues from there when it is started again. Redis's data of the shards is replaced; users must sign in
    again, API keys remain.
    """
    settings = own_settings()
    say = (lambda _text: None) if as_json else (lambda text: console.print(f"{text} …", highlight=False))
    try:
        with servers_of_stopped(settings, say):
            plan, restored = _restore(settings, dry_run, accept_loss, quiet=as_json)
    except (RestoreError, StartError, SettingsError, MigrationError) as error:
        raise CommandError(str(error)) from error
    except (psycopg.Error, redis.RedisError) as error:
        raise CommandError(f"A server returned an error: {str(error).strip()}") from error
    if as_json:
        print_json({"restored": restored, "shards": _rows(plan), "losses": msgspec.to_builtins(plan.losses)})
        return
    _show(plan)
    if plan.losses and not restored and not dry_run:
        raise CommandError(
            "Nothing was restored: the database knows of orders and trades that its archive does not lead to "
            "(above). Bring Redis's own data back if there are any; --accept-loss restores without them, and "
            "marks them as lost."
        )
    console.print(GO_ON if restored else "Nothing was written.")


def _restore(settings: Settings, dry_run: bool, accept_loss: bool, *, quiet: bool) -> tuple[Plan, bool]:
    database_url, market_map = settings.resolved_database_url(), settings.market_map()
    if not dry_run:
        bring_up_to_date(database_url, logins=RoleLogins.of(settings))
    url = settings.resolved_redis_url()
    with (
        redis_clients.client(url) as client,
        redis_clients.client(settings.resolved_cache_url()) as cache,
        closing(RedisStreamLog.connect(url)) as log,
        psycopg.connect(database_url) as connection,
        _bars(quiet) as progress,
    ):
        _refuse_running(settings, log)
        epochs = {shard: log.position(shard).epoch for shard in range(settings.shard_count)}
        past = Past(None, connection, market_map)
        plan = plan_restore(past, connection, database_url, epochs, progress)
        if dry_run or (plan.losses and not accept_loss):
            connection.rollback()
            return plan, False
        now_ms = time.time_ns() // 1_000_000
        write_database(connection, plan, now_ms)
        connection.commit()
        write_redis(client, cache, log, connection, plan, now_ms)
    return plan, True


def _refuse_running(settings: Settings, log: RedisStreamLog) -> None:
    """Refuse while engine workers, of whatever machine, use this Redis."""
    running = [spec.name for spec in engines(settings) if inquiries.say_health(settings, [spec])]
    if alive := sorted({*running, *running_engines(log, settings.shard_count)}):
        raise RestoreError(
            f"{', '.join(alive)} still runs, or did a few seconds ago; stop the exchange first."
        )


def running_engines(log: RedisStreamLog, shard_count: int) -> set[str]:
    """Return the workers that lead a shard or stand by, whatever they are called."""
    standbys = {standby.process for shard in range(shard_count) for standby in log.standbys(shard)}
    leaders = (log.lease(shard).leader for shard in range(shard_count))
    return standbys | {leader.process for leader in leaders if leader is not None}


@contextmanager
def _bars(quiet: bool) -> Iterator[Callable[[int], Progress]]:
    with ProgressBar(console=console, transient=True, disable=quiet) as bars:

        def of_shard(shard: int) -> Progress:
            task = bars.add_task(f"shard {shard}")
            return lambda done, total: bars.update(task, completed=done, total=total)

        yield of_shard


def _rows(plan: Plan) -> list[dict[str, object]]:
    return [
        {
            "shard": restored.shard.state.index,
            "position": str(restored.position),
            "time": time_text(restored.position.ms),
            "snapshot": str(restored.snapshot_id),
            "entriesReplayed": restored.entries,
            "eventsToStore": len(restored.events),
            "openOrders": sum(
                len(orders)
                for account in restored.shard.state.accounts.values()
                for orders in account.open_orders.values()
            ),
            "accounts": len(restored.shard.state.accounts),
            "epoch": restored.epoch,
        }
        for restored in plan.shards
    ]


def _show(plan: Plan) -> None:
    table = plain_table("shard", "as of", "position", "replayed", "accounts", "open orders")
    for row in _rows(plan):
        table.add_row(
            *(
                str(row[name])
                for name in ("shard", "time", "position", "entriesReplayed", "accounts", "openOrders")
            )
        )
    console.print(table)
    console.print("\nWhat was acknowledged after these positions is in no archive, and lost.")
    for loss in plan.losses:
        console.print(f"[bold red]lost[/] {loss_text(loss)}", highlight=False, soft_wrap=True)
