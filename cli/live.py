"""What the processes' metrics say at the moment: `exchange status --watch`.

Two looks at them make a rate, or a latency.
"""

import re
import time
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

import msgspec

from cli.inquiries import front_doors
from cli.local.processes import metrics_urls
from cli.local.state_file import State
from runtime.settings import Settings

TIMEOUT_S: Final = 1.0
"""A process that takes longer has no figures this time."""
_PREFIXES: Final = ("exchange_ready", "gateway_", "engine_", "feeds_", "ws_edge_", "persist_", "mm_")
_PROCESS: Final = ("process_cpu_seconds_total", "process_resident_memory_bytes")
_LINE: Final = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_PLACE: Final = 'function="POST /api/v3/order"'

STAGES: Final = {
    "parse": ("gateway_stage_seconds", {"stage": "parse"}),
    "append": ("gateway_stage_seconds", {"stage": "append"}),
    "wait": ("engine_stage_seconds", {"stage": "wait"}),
    "apply": ("engine_stage_seconds", {"stage": "apply"}),
    "commit": ("engine_stage_seconds", {"stage": "commit"}),
    "reply": ("gateway_stage_seconds", {"stage": "reply"}),
    "published": ("feeds_delay_seconds", {}),
    "stored": ("persist_delay_seconds", {}),
}
"""Of an order's way, in its order: the histogram of each, and its labels."""

Labels = tuple[tuple[str, str], ...]
Values = Mapping[tuple[str, Labels], float]
"""(metric, labels) -> value, of one process."""


class Latency(msgspec.Struct, frozen=True):
    """The time that half of all, and 99 of a hundred, do not exceed."""

    p50_s: float
    p99_s: float


class ShardView(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a shard; a None is unknown. Rates are per second."""

    shard: int
    leader: str | None
    epoch: int | None
    standbys: int | None
    halted: bool
    conserved: bool | None
    waiting_s: float | None
    commands_rate: float
    trades_rate: float
    resting: int | None
    snapshot_age_s: float | None
    feeds_lag_s: float | None
    ingest_lag_s: float | None
    archive_lag_s: float | None
    dead_letters: int | None


class MarketView(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a market. Rates are per second."""

    market: str
    shard: int
    trades_rate: float
    resting: int | None
    spread_ratio: float | None
    """Between the market maker's own quotes."""
    quotes: int | None


class EdgeView(msgspec.Struct, frozen=True, kw_only=True):
    """The sums over all WebSocket edges. Rates are per second."""

    connections: int
    subscriptions: int
    messages_rate: float
    conflated_rate: float
    slow_closed: int
    """Since they started."""


class ProcessView(msgspec.Struct, frozen=True, kw_only=True):
    """The state, the resources and the readiness of a process."""

    name: str
    state: str
    pid: int | None
    restarts: int
    ready: bool | None
    """None: it does not say, or has no probes."""
    cpu: float | None
    """The part of a core that it uses."""
    memory_bytes: int | None


class View(msgspec.Struct, frozen=True, kw_only=True):
    """One screen of `exchange status --watch`: what has happened in the last `seconds`."""

    seconds: float
    orders_rate: float
    refused_rate: float
    trades_rate: float
    requests_rate: float
    failed_rate: float
    """Of requests that were answered with a 5xx."""
    latency: Latency | None
    """Of placing an order, from request to answer; None: none was placed."""
    stages: dict[str, Latency | None]
    shards: list[ShardView]
    markets: list[MarketView]
    edge: EdgeView
    maker_waits: list[str]
    processes: list[ProcessView]


class Look(msgspec.Struct, frozen=True):
    """What all processes said at one time (seconds, of a clock that never goes back)."""

    time_s: float
    values: dict[str, Values]
    """Process -> its metrics; processes that did not answer are missing."""
    silent: frozenset[str] = frozenset()
    """Processes that did not answer, or do not serve their clients."""


class Watcher:
    """Reads the metrics of all processes of one exchange, all at once."""

    def __init__(self, settings: Settings) -> None:
        self._urls = metrics_urls(settings)
        self._ask = partial(_ask, password=settings.metrics_password)
        self._doors = front_doors(settings)
        self._pool = ThreadPoolExecutor(len(self._urls) + len(self._doors))

    @property
    def has_metrics(self) -> bool:
        """Whether the settings let the processes serve metrics."""
        return bool(self._urls)

    def look(self) -> Look:
        """Read every process's metrics, and test servers as a client does."""
        doors = self._pool.map(lambda asks: asks(), self._doors.values())
        answers = dict(zip(self._urls, self._pool.map(self._ask, self._urls.values()), strict=True))
        silent = {name for name, values in answers.items() if values is None}
        silent |= {name for name, serves in zip(self._doors, doors, strict=True) if not serves}
        answered = {name: values for name, values in answers.items() if values is not None}
        return Look(time.monotonic(), answered, frozenset(silent))

    def close(self) -> None:
        """Stop the threads that read."""
        self._pool.shutdown(wait=False)


def _ask(url: str, *, password: str) -> Values | None:
    headers = {"Authorization": f"Bearer {password}"} if password else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - likewise
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310 - our own processes
            return dict(parsed(response.read().decode()))
    except OSError:
        return None


def parsed(text: str) -> Iterator[tuple[tuple[str, Labels], float]]:
    """Yield the wanted values of an exposition; the library's parser would take ten times as long."""
    for line in text.splitlines():
        if not line.startswith((*_PREFIXES, *_PROCESS)) or (
            line.startswith("gateway_request_s") and _PLACE not in line
        ):
            continue
        if match := _LINE.match(line):
            name, labels, value = match.groups()
            yield (name, tuple(sorted(_LABEL.findall(labels or "")))), float(value)


class Between:
    """The changes between two looks, and the state at the second.

    A process that was restarted in between counts from 0.
    """

    def __init__(self, before: Look, after: Look) -> None:
        self.seconds = max(after.time_s - before.time_s, 1e-9)
        self._before = before.values
        self._after = after.values
        self._silent = after.silent

    def found(self, name: str, labels: Mapping[str, str]) -> Iterator[tuple[str, Labels, float]]:
        """Yield (process, labels, value) of a metric with these labels at least."""
        items = set(labels.items())
        for process, values in self._after.items():
            for (metric, own), value in values.items():
                if metric == name and items <= set(own):
                    yield process, own, value

    def _increases(self, name: str, labels: Mapping[str, str]) -> Iterator[tuple[Labels, float]]:
        for process, own, value in self.found(name, labels):
            if process in self._before:
                earlier = self._before[process].get((name, own), 0.0)
                yield own, value - earlier if value >= earlier else value

    def rate(self, name: str, **labels: str) -> float:
        """Return how often something happened per second, of all processes."""
        return sum(increase for _, increase in self._increases(name, labels)) / self.seconds

    def values(self, name: str, **labels: str) -> list[float]:
        """Return the values of a gauge, one for each process and combination of labels."""
        return [value for _, _, value in self.found(name, labels)]

    def greatest(self, name: str, **labels: str) -> float | None:
        """Return the greatest value of a gauge over processes and labels; None if there is none."""
        return max(self.values(name, **labels), default=None)

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of a gauge over processes and labels."""
        return sum(self.values(name, **labels))

    def process_with(self, name: str, value: float, **labels: str) -> str | None:
        """Return the first process whose gauge has exactly this value, or None."""
        return next((process for process, _, sample in self.found(name, labels) if sample == value), None)

    def of_process(self, process: str, name: str) -> float | None:
        """Return the value of a process's metric without labels, or None."""
        return self._after.get(process, {}).get((name, ()))

    def rate_of_process(self, process: str, name: str) -> float | None:
        """Return the increase per second of a process's counter without labels, or None."""
        if process not in self._before or (value := self.of_process(process, name)) is None:
            return None
        earlier = self._before[process].get((name, ()), 0.0)
        return (value - earlier if value >= earlier else value) / self.seconds

    def is_ready(self, process: str) -> bool | None:
        """Return whether a process reports that it is ready and serves its clients; None: unknown."""
        if process in self._silent:
            return False
        value = self._after.get(process, {}).get(("exchange_ready", (("process", process),)))
        return None if value is None else value == 1

    def latency(self, name: str, **labels: str) -> Latency | None:
        """Return p50 and p99 of a histogram between the looks, in seconds; None if nothing was observed."""
        buckets: dict[float, float] = {}
        for own, increase in self._increases(f"{name}_bucket", labels):
            bound = float(dict(own)["le"])
            buckets[bound] = buckets.get(bound, 0.0) + increase
        p50_s, p99_s = (quantile(buckets, part) for part in (0.5, 0.99))
        return Latency(p50_s, p99_s) if p50_s is not None and p99_s is not None else None


def quantile(buckets: Mapping[float, float], part: float) -> float | None:
    """Return a quantile as Prometheus does, from upper bound -> how many were not above it.

    None when there was nothing.
    """
    bounds = sorted(buckets)
    if not bounds or not buckets[bounds[-1]]:
        return None
    target = part * buckets[bounds[-1]]
    lower = below = 0.0
    for bound in bounds:
        if buckets[bound] >= target:
            if bound == float("inf"):
                return lower
            return lower + (bound - lower) * (target - below) / (buckets[bound] - below)
        lower, below = bound, buckets[bound]
    raise AssertionError("the last bucket has all of them")


def view_of(between: Between, state: State, settings: Settings, now_s: float) -> View:
    """Return the view of the time between two looks. `now_s`: seconds since the epoch."""
    accepted = between.rate("gateway_orders_total", answer="accepted")
    return View(
        seconds=between.seconds,
        orders_rate=accepted,
        refused_rate=between.rate("gateway_orders_total") - accepted,
        trades_rate=between.rate("engine_trades_total"),
        requests_rate=between.rate("gateway_requests_total"),
        failed_rate=sum(
            between.rate("gateway_requests_total", status=str(status)) for status in range(500, 505)
        ),
        latency=between.latency("gateway_request_seconds"),
        stages={stage: between.latency(name, **labels) for stage, (name, labels) in STAGES.items()},
        shards=[_shard(between, shard, now_s) for shard in range(settings.shard_count)],
        markets=[_market(between, symbol, shard) for symbol, shard in sorted(_listed(between).items())],
        edge=EdgeView(
            connections=round(between.total("ws_edge_connections")),
            subscriptions=round(between.total("ws_edge_subscriptions")),
            messages_rate=between.rate("ws_edge_messages_total") + between.rate("ws_edge_own_messages_total"),
            conflated_rate=between.rate("ws_edge_messages_conflated_total"),
            slow_closed=round(between.total("ws_edge_slow_clients_closed_total")),
        ),
        maker_waits=[
            reason for reason in ("exchange", "keys") if between.greatest("mm_paused", reason=reason)
        ],
        processes=[
            _process(between, process.name, process.state, process.pid, process.restarts)
            for process in state.processes
        ],
    )


def _shard(between: Between, index: int, now_s: float) -> ShardView:
    shard = str(index)
    conserved = between.values("engine_money_conserved", shard=shard)
    saved_s = between.greatest("engine_snapshot_timestamp_seconds", shard=shard)
    leader = between.process_with("engine_leader", 1, shard=shard)
    resting = between.values("engine_resting_orders", shard=shard)
    symbols = len(resting)
    return ShardView(
        shard=index,
        leader=leader,
        epoch=_whole(between.greatest("engine_epoch", shard=shard)) if leader else None,
        standbys=_whole(between.greatest("engine_standbys", shard=shard)),
        halted=bool(between.greatest("gateway_shard_halted", shard=shard)),
        conserved=all(conserved) if conserved else None,
        waiting_s=between.greatest("gateway_backlog_age_seconds", shard=shard),
        commands_rate=between.rate("engine_commands_total", shard=shard),
        trades_rate=between.rate("engine_trades_total", shard=shard),
        resting=_resting(between, shard=shard) if symbols else None,
        snapshot_age_s=now_s - saved_s if saved_s is not None else None,
        feeds_lag_s=between.greatest("feeds_lag_seconds", shard=shard),
        ingest_lag_s=between.greatest("persist_ingest_lag_seconds", shard=shard),
        archive_lag_s=between.greatest("persist_archive_lag_seconds", shard=shard),
        dead_letters=_whole(between.greatest("engine_dead_letters", shard=shard)),
    )


def _listed(between: Between) -> dict[str, int]:
    """Return the markets, and the shard of each, as the engine workers show them."""
    labels_of_markets = (dict(labels) for _, labels, _ in between.found("engine_resting_orders", {}))
    return {labels["market"]: int(labels["shard"]) for labels in labels_of_markets}


def _market(between: Between, symbol: str, shard: int) -> MarketView:
    quotes = between.values("mm_open_quotes", market=symbol)
    return MarketView(
        market=symbol,
        shard=shard,
        trades_rate=between.rate("engine_trades_total", market=symbol),
        resting=_whole(between.greatest("engine_resting_orders", market=symbol)),
        spread_ratio=between.greatest("mm_spread_ratio", market=symbol),
        quotes=round(sum(quotes)) if quotes else None,
    )


def _resting(between: Between, shard: str) -> int:
    """Return the number of orders in a shard's books, by the worker with most; standbys have them, too."""
    by_process: dict[str, float] = {}
    for process, _, value in between.found("engine_resting_orders", {"shard": shard}):
        by_process[process] = by_process.get(process, 0.0) + value
    return round(max(by_process.values()))


def _process(between: Between, name: str, state: str, pid: int, restarts: int) -> ProcessView:
    return ProcessView(
        name=name,
        state=state,
        pid=pid or None,
        restarts=restarts,
        ready=between.is_ready(name),
        cpu=between.rate_of_process(name, "process_cpu_seconds_total"),
        memory_bytes=_whole(between.of_process(name, "process_resident_memory_bytes")),
    )


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)
