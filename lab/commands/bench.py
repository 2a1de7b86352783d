"""`exchange bench`: measures, prints, and with `--write` records in docs/reference/benchmarks.md."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import rich_click as click
import structlog
from rich.console import Console

from lab.benchmarks import attacks as attacks_bench
from lab.benchmarks import core as core_benches
from lab.benchmarks import counts as counts_bench
from lab.benchmarks import depth as depth_bench
from lab.benchmarks import door as door_bench
from lab.benchmarks import failover as failover_bench
from lab.benchmarks import fanout as fanout_bench
from lab.benchmarks import flood as flood_bench
from lab.benchmarks import http as http_bench
from lab.benchmarks import klines as klines_bench
from lab.benchmarks import persist as persist_bench
from lab.benchmarks import pipeline as pipeline_bench
from lab.benchmarks import replay as replay_bench
from lab.benchmarks import share as share_bench
from lab.benchmarks.report import DOCUMENT, RELIABILITY, Result, repeated, show, write
from lab.chaos.sabotage import Break, command_of
from runtime.settings import load_settings


def _finish(results: list[Result], *, as_json: bool, record: bool, document: Path = DOCUMENT) -> None:
    if as_json:
        sys.stdout.write(msgspec.json.encode(results).decode() + "\n")
    else:
        show(results)
    if record:
        write(results, document)


def _reports(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option(
            "--write", "record", is_flag=True, help="Record the results in docs/reference/benchmarks.md."
        ),
        click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table."),
    ):
        command = option(command)
    return command


def _options(command: Callable[..., None]) -> Callable[..., None]:
    runs = click.option(
        "--runs", default=5, show_default=True, help="How often to measure; the median counts."
    )
    return runs(_reports(command))


@click.group()
def bench() -> None:
    """Measure the exchange, part by part, each figure beside a reference from the same run.

    Run it on an otherwise idle machine: the load generator needs its share of the same cores.
    """
    # What parts of the exchange that run in this process have to say is no result.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))


@bench.command()
@click.option("--count", default=1_000_000, show_default=True, help="Operations per run.")
@_options
def core(count: int, runs: int, as_json: bool, record: bool) -> None:
    """Measure the order book alone."""
    _finish(repeated("core", runs, partial(core_benches.core, count)), as_json=as_json, record=record)


@bench.command()
@click.option("--count", default=200_000, show_default=True, help="Commands per run.")
@_options
def shard(count: int, runs: int, as_json: bool, record: bool) -> None:
    """Measure a whole shard in memory: accounts, holds, matching, fees, framing."""
    _finish(repeated("shard", runs, partial(core_benches.shard, count)), as_json=as_json, record=record)


@bench.command()
@_reports
def counts(as_json: bool, record: bool) -> None:
    """Count the calls that a command costs in each stage, beside the budgets; needs no idle machine."""
    _finish(counts_bench.count_results(), as_json=as_json, record=record)


@bench.command()
@click.option("--seconds", default=20, show_default=True, help="Length of the market's time per run.")
@_options
def depth(seconds: int, runs: int, as_json: bool, record: bool) -> None:
    """Measure the feeds' cost of the depth of a busy market, and a gateway's cost of showing it."""
    _finish(repeated("depth", runs, partial(depth_bench.depth, seconds)), as_json=as_json, record=record)


@bench.command()
@click.option("--count", default=200_000, show_default=True, help="Commands per run.")
@_options
def replay(count: int, runs: int, as_json: bool, record: bool) -> None:
    """Measure how fast a shard is rebuilt from its log, and compared with what was written."""
    _finish(repeated("replay", runs, partial(replay_bench.replay, count)), as_json=as_json, record=record)


@bench.command()
@click.option("--count", default=200_000, show_default=True, help="Commands per run.")
@_options
def pipeline(count: int, runs: int, as_json: bool, record: bool) -> None:
    """Measure an engine worker from stream to stream, on a separate Redis that syncs every commit to disk."""
    _finish(
        repeated("pipeline", runs, partial(pipeline_bench.pipeline, count)), as_json=as_json, record=record
    )


@bench.command()
@click.option("--seconds", default=8, show_default=True, help="Length of each measurement.")
@click.option(
    "--connections", default="1,16,64", show_default=True, help="Numbers of connections, comma separated."
)
@_options
def http(seconds: int, connections: str, runs: int, as_json: bool, record: bool) -> None:
    """Measure signed orders over HTTP against a separate exchange with feeds and persistence."""
    counts = [int(count) for count in connections.split(",")]
    with http_bench.exchange_of_its_own() as target:
        results = repeated("http", runs, partial(http_bench.http, target, seconds, counts))
    _finish(results, as_json=as_json, record=record)


@bench.command()
@click.option("--seconds", default=10, show_default=True, help="Length of each measurement.")
@click.option("--subscribers", default=1_000, show_default=True, help="Subscribers, the stuck ones included.")
@_options
def fanout(seconds: int, subscribers: int, runs: int, as_json: bool, record: bool) -> None:
    """Measure one WebSocket edge: frames per second, memory per subscriber, latency with stuck ones."""
    with http_bench.exchange_of_its_own() as target:
        results = repeated("fanout", runs, partial(fanout_bench.fanout, target, subscribers, seconds))
    _finish(results, as_json=as_json, record=record)


@bench.command()
@click.option("--count", default=200_000, show_default=True, help="Commands whose events are stored.")
@_options
def persist(count: int, runs: int, as_json: bool, record: bool) -> None:
    """Measure the ingest from a Redis stream into plain PostgreSQL, and TimescaleDB if available.

    EXCHANGE_POSTGRES_BIN names the programs of a PostgreSQL with TimescaleDB.
    """
    once = partial(persist_bench.persist, count, load_settings().postgres_bin)
    _finish(repeated("persist", runs, once), as_json=as_json, record=record)


@bench.command()
@click.option(
    "--trades", default=10_000_000, show_default=True, help="Trades in the database, over three years."
)
@click.option("--queries", default=100, show_default=True, help="Queries of each kind and interval.")
@_reports
def klines(trades: int, queries: int, as_json: bool, record: bool) -> None:
    """Measure a thousand candles out of years of trades, on plain PostgreSQL, and TimescaleDB if available.

    EXCHANGE_POSTGRES_BIN names the programs of a PostgreSQL with TimescaleDB. Fewer trades make a run
    shorter; 10,000,000 take about ten minutes and 5 GB.
    """
    say = Console(stderr=True).print
    results = klines_bench.klines(trades, queries, load_settings().postgres_bin, say)
    _finish(results, as_json=as_json, record=record)


@bench.command()
@click.option(
    "--kills", default=20, show_default=True, help="How often to stop the leader by each signal; 0: never."
)
@click.option("--resting", default=0, show_default=True, help="Orders that rest in the book meanwhile.")
@click.option("--lease-ms", default=1_000, show_default=True, help="Length of the lease.")
@click.option(
    "--redis-mode",
    default="single",
    show_default=True,
    type=click.Choice(["single", "sentinel", "cluster"]),
    help="What Redis is; under Sentinel a replica must have what is acknowledged.",
)
@click.option("--pauses", is_flag=True, help="Also measure how long snapshots hold matching up.")
@click.option(
    "--write", "record", is_flag=True, help="Record the results in docs/explanation/reliability.md."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def failover(
    kills: int, resting: int, lease_ms: int, redis_mode: str, pauses: bool, as_json: bool, record: bool
) -> None:
    """Kill the leading engine worker of a separate exchange with a standby, and time how long orders fail."""
    results: list[Result] = []
    if kills:
        own = {
            "log_level": "error",
            "standbys": "1",
            "lease_ms": str(lease_ms),
            "redis_mode": redis_mode,
            "redis_replicas_min": str(int(redis_mode == "sentinel")),
        }
        with http_bench.exchange_of_its_own(**own) as target:
            results += failover_bench.failover(target, kills, resting, lease_ms)
    if pauses:
        results += failover_bench.pauses(resting)
    _finish(results, as_json=as_json, record=record, document=RELIABILITY)


@bench.command()
@click.option(
    "--pairs", default=10, show_default=True, help="Times with an attack, and as many without, in turn."
)
@click.option("--seconds", default=8.0, show_default=True, help="Length of each of these times.")
@click.option(
    "--write", "record", is_flag=True, help="Record the results in docs/explanation/reliability.md."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def attacks(pairs: int, seconds: float, as_json: bool, record: bool) -> None:
    """Attack a separate exchange with the most expensive requests, and measure the effect on others.

    The book has 60,000 orders on 30,000 levels, and the shard a standby that would take over from a leader
    that is silent for too long.
    """
    with http_bench.exchange_of_its_own(standbys="1", log_level="error") as target:
        results = attacks_bench.attack_results(target, pairs, seconds)
    _finish(results, as_json=as_json, record=record, document=RELIABILITY)


@bench.command()
@click.option("--orders", default=1_000_000, show_default=True, help="Orders that arrive during each fault.")
@click.option("--rate", default=8_000.0, show_default=True, help="Orders per second.")
@click.option(
    "--http", "over_http", is_flag=True, help="As clients send them; a gateway takes some 2,000 a second."
)
@click.option(
    "--write", "record", is_flag=True, help="Record the results in docs/explanation/reliability.md."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def flood(orders: int, rate: float, over_http: bool, as_json: bool, record: bool) -> None:
    """Send orders to a separate exchange while a part stands still, and check that memory stays bounded.

    The persistence stands still, then the feeds, the cache is lost, the log's Redis is at its limit. Redis
    may use 512 MB.
    """
    own = {
        "redis_memory_mb": str(flood_bench.MAXMEMORY_MB),
        "log_level": "error",
        "pending_requests_max": "100000",
    }
    with http_bench.exchange_of_its_own(**own) as target:
        results = flood_bench.flood(target, orders, rate, flood_bench.quiet, over_http=over_http)
    _finish(results, as_json=as_json, record=record, document=RELIABILITY)


@bench.command()
@click.option(
    "--pairs",
    default=10,
    show_default=True,
    help="Times with an account that sends too much, and as many without, in turn.",
)
@click.option("--seconds", default=8.0, show_default=True, help="Length of each of these times.")
@click.option(
    "--write", "record", is_flag=True, help="Record the results in docs/explanation/reliability.md."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def share(pairs: int, seconds: float, as_json: bool, record: bool) -> None:
    """Let one account send ten times its share to a busy shard, and measure the effect on others."""
    with http_bench.exchange_of_its_own(log_level="error", pending_requests_max="100000") as target:
        results = share_bench.share(target, pairs, seconds)
    _finish(results, as_json=as_json, record=record, document=RELIABILITY)


@bench.command()
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(door_bench.KINDS),
    help="Only attacks of this kind; repeatable.",
)
@click.option(
    "--pairs", default=10, show_default=True, help="Times with an attack, and as many without, in turn."
)
@click.option("--seconds", default=12.0, show_default=True, help="Length of each of these times.")
@click.option(
    "--times",
    default=1,
    show_default=True,
    help="Attacks so many times as large; 4: the review's own size, or more.",
)
@click.option(
    "--open",
    "is_open",
    is_flag=True,
    help="With limits so wide that none bites, and without the turns of sign-ups and streams.",
)
@click.option(
    "--write", "record", is_flag=True, help="Record the results in docs/explanation/reliability.md."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def door(
    kinds: tuple[str, ...], pairs: int, seconds: float, times: int, is_open: bool, as_json: bool, record: bool
) -> None:
    """Attack gateway and edge of a separate exchange from a network without an account; measure the effect.

    Compression bombs, endless bodies and headers, silent connections, guesses of passwords, sign-ups,
    thousands of streams: against as many ordinary orders of the same network.
    """
    own = {"rate_limits_enabled": "true", "orders_per_10s": "1000000", "orders_per_day": "100000000"}
    own |= door_bench.WIDE if is_open else {}
    up = command_of("cli.main", "up", broken=Break.DOOR if is_open else None)
    with http_bench.exchange_of_its_own(up, log_level="error", **own) as target:
        results = door_bench.door(
            target, kinds or door_bench.KINDS, door_bench.Sizes().times(times), pairs, seconds
        )
    _finish(results, as_json=as_json, record=record, document=RELIABILITY)
