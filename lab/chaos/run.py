"""One run: a separate exchange, load on it, faults, and the verdict."""

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop

from cli.local.own_exchange import EXCHANGE, OwnExchange, own_environment, own_exchange
from lab.chaos import collecting
from lab.chaos.database import Database
from lab.chaos.evidence import CatchUp, Ending, Evidence, Outcome
from lab.chaos.faults import Faults
from lab.chaos.operations import Operation, Operations
from lab.chaos.plan import Fault
from lab.chaos.quiet import Progress, Quiet
from lab.chaos.rolling import Rolling, Step, longest_wait_s, restart_of
from lab.chaos.sabotage import Break, command_of
from lab.chaos.traders import KEYED_SHARE_MAX, Load, Trader
from lab.chaos.trading import DEPOSIT_SHARE
from lab.chaos.verdict import Verdict, judge
from lab.chaos.watchers import Watchers
from runtime.settings import Settings, load_settings
from runtime.tasks import end_tasks

LOOK_EVERY_S: Final = 0.25
SETTLE_EVERY_S: Final = 0.3
QUIET_S: Final = 1.5
"""How long nothing may happen before everything is complete: longer than a message between shards takes."""
CAUGHT_UP_MS: Final = 1_000
"""A database that is less behind has caught up."""


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of a run, drawn from its seed."""

    seed: int
    plan: list[Fault]
    orders: int
    rate: float
    shards: int = 1
    standbys: int = 1
    gateways: int = 1
    ws_edges: int = 1
    persist_workers: int = 1
    redis_mode: str = "single"
    """As EXCHANGE_REDIS_MODE."""
    operations: list[Operation] = []
    """What an operator does meanwhile."""
    rolling: bool = False
    """Instead of faults, restart the processes one after the other: those of `restart`, all when it is empty.
    """
    restart: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    """Of a rolling run: what is done instead of one restart."""
    stops: bool = False
    """A step stops everything for a while, so clients are turned away."""
    up: tuple[str, ...] = ()
    """The command that starts the exchange; empty: `exchange up` of this program."""
    accounts: int = 12
    lanes: int = 48
    watchers: int = 2
    double_share: float = 0.01
    """Of the orders, those that are sent twice at once."""
    keyed_share_max: float = KEYED_SHARE_MAX
    """Of the orders, those that have an idempotency key."""
    deposit_share: float = DEPOSIT_SHARE
    """Of what the load does, the deposits."""
    settings: Mapping[str, str] = {}
    """Further settings of the exchange."""
    only: str = ""
    """Kills and pauses hit only processes with this in their name."""
    broken: Break | None = None
    stall_s: float = 60.0
    """Without any answer for so long, the load is given up."""
    settle_s: float = 180.0
    """How long everything may take to come to its end."""


class Status(msgspec.Struct):
    """The progress of a run, for display."""

    step: str
    orders: int = 0
    orders_max: int = 0
    rate: float = 0.0
    seconds: float = 0.0
    faults: dict[str, int] = {}
    faults_max: int = 0
    operations: int = 0
    operations_max: int = 0
    down: dict[str, str] = {}
    behind_ms: int | None = None


class RestartResult(msgspec.Struct):
    """The cost of one restart, in seconds."""

    process: str
    seconds: float
    """From being told to stop until it was ready again."""
    wait_s: float
    """The longest time without an accepted order meanwhile."""


class Result(msgspec.Struct, kw_only=True):
    """The verdict and the figures of a run."""

    seed: int
    verdict: Verdict
    operations: dict[str, int]
    operation_retries: int
    """Operations that were tried again, because nobody answered or somebody else was faster."""
    orders: int
    attempts: int
    doubled: int
    unknown: int
    """Attempts whose answer was lost, or said that nobody knows."""
    trades: int
    seconds: float
    """Of load."""
    faults: dict[str, int]
    by_process: dict[str, int]
    restarts: dict[str, int]
    fenced: int
    """Workers that woke up, found another in their place, and left."""
    settle_s: float
    behind_ms_max: int
    """By how much the database was behind at most while it was there and nothing was paused."""
    catch_ups: list[CatchUp]
    answers: dict[str, int]
    folder: str
    restarted: list[RestartResult] = []
    """Of a rolling restart."""
    retries: dict[str, int] = {}
    """Requests without an answer that says what became of them, by channel and why."""
    wait_s_before: float = 0.0
    """The longest time without an accepted order before the first restart."""

    @property
    def rate(self) -> float:
        """The answered orders per second."""
        return self.orders / self.seconds if self.seconds else 0.0


Show = Callable[[Status], None]


def run(scenario: Scenario, show: Show, *, keep: bool) -> Result:
    """Run a scenario from start to verdict; `keep` leaves the exchange's data and logs where they are.

    Raises:
        OwnExchangeError: the exchange does not start.
        ServerError: there is no usable server.
        SettingsError: it is asked for what this exchange does not have.
    """
    show(Status("starting an exchange"))
    with _folder(keep=keep) as folder:
        environment = own_environment(folder, **_settings(scenario))
        settings = load_settings(environment)
        database = Database(settings)
        database.start()
        try:
            database.wait()
            environment["EXCHANGE_DATABASE_URL"] = database.url
            broken = scenario.broken
            up = command_of("cli.main", "up", broken=broken) if broken else scenario.up or (*EXCHANGE, "up")
            with own_exchange(environment, up) as exchange:
                return uvloop.run(_Run(scenario, exchange, database, show).run())
        finally:
            database.stop()


@contextmanager
def _folder(*, keep: bool) -> Iterator[Path]:
    if keep:
        folder = Path(tempfile.mkdtemp(prefix="exchange-chaos-"))
        folder.chmod(0o755)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="exchange-chaos-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def _settings(scenario: Scenario) -> Mapping[str, str]:
    return {
        "shard_count": str(scenario.shards),
        "gateways": str(scenario.gateways),
        "ws_edges": str(scenario.ws_edges),
        "persist_workers": str(scenario.persist_workers),
        "rate_limits_enabled": "false",
        "mm_enabled": "false",
        "frontend_enabled": "false",
        "log_level": "warning",
        "log_format": "json",
        "redis_mode": scenario.redis_mode,
        "redis_replicas_min": "1" if scenario.redis_mode == "sentinel" else "0",
        **({"standbys": str(scenario.standbys)} if scenario.standbys else {}),
        **scenario.settings,
    }


class _Run:
    """The parts of a run that is under way."""

    def __init__(self, scenario: Scenario, exchange: OwnExchange, database: Database, show: Show) -> None:
        self._scenario = scenario
        self._exchange = exchange
        self._settings: Settings = exchange.settings
        self._show = show
        self._evidence = Evidence(
            self._settings.market_map(), [], graceful=scenario.rolling and not scenario.stops
        )
        self._faults: Faults | Rolling = (
            Rolling(exchange, scenario.steps or (restart_of(scenario.restart),))
            if scenario.rolling
            else Faults(exchange, database, scenario.plan, scenario.only, scenario.broken)
        )
        self._operations = Operations(self._settings, self._evidence, scenario.operations)
        self._accepted: list[float] = []
        self._status = Status(
            "making accounts",
            orders_max=scenario.orders,
            faults_max=len(scenario.plan),
            operations_max=len(scenario.operations),
        )
        self._progress: Progress | None = None
        self._behind_ms_max = 0

    async def run(self) -> Result:
        self._show(self._status)
        evidence = self._evidence
        traders = await asyncio.to_thread(
            collecting.new_traders, self._settings, evidence, self._scenario.accounts
        )
        evidence.accounts += [trader.account_id for trader in traders]
        watchers = Watchers(self._settings, evidence, traders, self._scenario.watchers)
        watchers.start()
        lag = asyncio.create_task(self._watch_lag())
        began = time.monotonic()
        try:
            load = await self._trade(traders, watchers, began)
            seconds = load.last_answer_s - began
            self._accepted = load.accepted
            await self._settle(watchers)
            self._say("asking for everything")
            evidence.stored = await asyncio.to_thread(collecting.stored, self._settings)
            evidence.answered = await asyncio.to_thread(
                collecting.answered, self._settings, evidence, traders
            )
            await asyncio.to_thread(collecting.replay, self._exchange.environment, evidence.answered)
            planned = sorted({operation.kind for operation in self._scenario.operations})
            evidence.operations = {str(kind): self._operations.done[kind] for kind in planned}
        finally:
            await end_tasks([lag])
            self._faults.close()
            await watchers.stop()
        self._say("judging")
        return await asyncio.to_thread(self._result, seconds)

    def _say(self, step: str) -> None:
        self._status.step = step
        self._show(self._status)

    async def _trade(self, traders: list[Trader], watchers: Watchers, began: float) -> Load:
        scenario = self._scenario
        load = Load(
            self._settings,
            traders,
            self._evidence,
            seed=scenario.seed,
            orders_max=scenario.orders,
            rate=scenario.rate,
            lanes=scenario.lanes,
            double_share=scenario.double_share,
            keyed_share_max=scenario.keyed_share_max,
            deposit_share=scenario.deposit_share,
            may_end=lambda: self._faults.is_over and self._operations.is_over,
        )
        self._operations.trading = load.trading
        trading = asyncio.create_task(load.run())
        faults = asyncio.create_task(self._faults.run(lambda: load.settled / scenario.orders))
        operations = asyncio.create_task(self._operations.run(lambda: load.settled / scenario.orders))
        self._status.step = "trading"
        try:
            while not trading.done():
                await asyncio.sleep(LOOK_EVERY_S)
                self._show_trading(load, began)
                watchers.check()
                for task in (faults, operations):
                    # Raises what has gone wrong: a run whose faults have stopped would look clean.
                    if task.done():
                        task.result()
                if (
                    time.monotonic() - load.last_answer_s > scenario.stall_s
                    and not self._evidence.ending.stalled
                ):
                    self._evidence.ending.stalled = f"no order got an answer for {scenario.stall_s:.0f} s"
                    load.end(give_up_s=0)
            trading.result()
        finally:
            await end_tasks((trading, faults, operations))
        return load

    def _show_trading(self, load: Load, began: float) -> None:
        status, now = self._status, time.monotonic()
        seconds = now - began
        if seconds > status.seconds:
            current = (load.settled - status.orders) / (seconds - status.seconds)
            status.rate += 0.2 * (current - status.rate)
        status.orders, status.seconds = load.settled, seconds
        status.faults = {str(kind): count for kind, count in self._faults.done.items()}
        status.operations = sum(self._operations.done.values())
        restarting = {process.name: "restarting" for process in self._exchange.processes() if not process.pid}
        status.down = {**restarting, **self._faults.down}
        status.behind_ms = self._progress.behind_ms if self._progress else None
        self._show(status)

    async def _watch_lag(self) -> None:
        """Measure the lag of every process, and how fast the database catches up after an outage."""
        measured = 0
        begun: tuple[float, int, int] | None = None
        while True:
            self._progress = progress = await asyncio.to_thread(collecting.progress, self._settings)
            now = time.monotonic()
            if progress is not None and not self._faults.down and len(self._faults.back) == measured:
                self._behind_ms_max = max(self._behind_ms_max, progress.behind_ms)
            if progress is not None and len(self._faults.back) > measured:
                reached = min(stream_id.ms for stream_id in progress.stored)
                if begun is None:
                    begun = (now, reached, progress.behind_ms)
                if progress.behind_ms < CAUGHT_UP_MS:
                    if begun[2] >= CAUGHT_UP_MS:
                        self._evidence.catch_ups.append(CatchUp(reached - begun[1], now - begun[0]))
                    measured, begun = len(self._faults.back), None
            await asyncio.sleep(LOOK_EVERY_S)

    async def _settle(self, watchers: Watchers) -> None:
        """Wait until nothing is on its way any more, subscribers included."""
        self._say("waiting until everything has come to its end")
        ending: Ending = self._evidence.ending
        began = time.monotonic()
        quiet, is_quiet = Quiet(QUIET_S), False
        stream = self._evidence.stream
        while not is_quiet:
            await asyncio.sleep(SETTLE_EVERY_S)
            watchers.check()
            if time.monotonic() > began + self._scenario.settle_s:
                ending.settled = False
                break
            happened = (stream.events - stream.ticks, self._heard())
            progress = await asyncio.to_thread(collecting.progress, self._settings)
            if progress is not None and progress.errors:
                ending.settled = False
                break
            if progress is not None:
                progress.heard = list(watchers.heard.values())
            is_quiet = quiet.look(time.monotonic(), happened, progress) and self._books_are_done()
        ending.settle_s = time.monotonic() - began
        progress = await asyncio.to_thread(collecting.progress, self._settings)
        ending.standing_still += (
            progress.errors if progress is not None else ["Redis or the database does not answer"]
        )
        ending.dead_letters = await asyncio.to_thread(collecting.dead_letters, self._settings)

    def _heard(self) -> tuple[int, ...]:
        return tuple(watch.reports for watch in self._evidence.report_watches)

    def _books_are_done(self) -> bool:
        last = self._evidence.stream.last_sequences
        return all(
            book.update_id == last.get(symbol, 0)
            for watch in self._evidence.market_watches
            for symbol, book in watch.books.items()
        )

    def _result(self, seconds: float) -> Result:
        evidence = self._evidence
        critical, fenced = collecting.log_lines(self._settings)
        evidence.ending.standing_still += critical
        outcomes = [answer.outcome for order in evidence.orders for answer in order.answers]
        return Result(
            seed=self._scenario.seed,
            verdict=judge(evidence),
            operations={str(kind): count for kind, count in sorted(self._operations.done.items())},
            operation_retries=self._operations.retries,
            orders=len(evidence.orders),
            attempts=len(outcomes),
            doubled=sum(1 for order in evidence.orders if len(order.answers) > 1),
            unknown=outcomes.count(Outcome.UNKNOWN),
            trades=len(evidence.stored.trades),
            seconds=seconds,
            faults={str(kind): count for kind, count in sorted(self._faults.done.items())},
            by_process=dict(sorted(self._faults.by_process.items())),
            restarts={process.name: process.restarts for process in self._exchange.processes()},
            fenced=fenced,
            settle_s=evidence.ending.settle_s,
            behind_ms_max=self._behind_ms_max,
            catch_ups=evidence.catch_ups,
            answers={
                f"{kind.channel} {kind.status}" + (f" {kind.code}" if kind.code is not None else ""): count
                for kind, count in sorted(evidence.said.items(), key=lambda item: -item[1])
            },
            folder=str(self._settings.data_dir),
            **self._rolling_result(),
        )

    def _rolling_result(self) -> dict[str, Any]:
        if not isinstance(self._faults, Rolling) or not self._faults.restarted:
            return {}
        restarted, accepted = self._faults.restarted, self._accepted
        return {
            "restarted": [
                RestartResult(
                    restart.process,
                    restart.ready - restart.began,
                    longest_wait_s(accepted, restart.began, restart.ready),
                )
                for restart in restarted
            ],
            "retries": {
                f"{channel}: {why}": count
                for (channel, why), count in sorted(self._evidence.unanswered.items())
            },
            "wait_s_before": longest_wait_s(accepted, accepted[0], restarted[0].began),
        }
