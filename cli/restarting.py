"""`exchange restart`: restarts the processes of a running exchange one by one, in the order of an upgrade.

A process is asked to stop, hands over and finishes its work; it is started from the code on disk; and the
next one follows when it is ready.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress

import msgspec
import psycopg
import redis

from cli import inquiries
from cli.local.embedded_redis import CACHE
from cli.local.processes import clients, edges, engines, feeds, gateways, pages, persist_workers, readers
from cli.local.state_file import (
    ProcessState,
    ProcessStatus,
    RestartRequest,
    read_state,
    request_restart,
    trading_processes,
)
from cli.rest_client import request
from engine_worker.core_fast.build import CannotBuild, build_all
from engine_worker.cores import OBJECTS, chosen_core
from persist.migrate import MigrationError, RoleLogins, migrate
from runtime.settings import PREFIX, Settings, SettingsError

READY_TIMEOUT_S = 60.0
LOOK_EVERY_S = 0.05
LAG_MS_MAX = 500
"""Who is no further behind is in step."""
DEATHS_MAX = 3
"""A process that ends by itself more often while it is waited for will not get better."""
SERVERS = ("redis", "postgres", "sentinel")
"""How the names of those begin that hold the data."""


class RestartError(RuntimeError):
    """A process cannot be restarted; the message says why and what to do."""


class Restarted(msgspec.Struct, frozen=True):
    """A process that was restarted. Times are seconds since the epoch."""

    process: str
    pid: int
    began: float
    """When it was asked to stop."""
    ready: float


Say = Callable[[str], None]


def restart(
    settings: Settings, names: Collection[str], say: Say, core: str | None = None
) -> Iterator[Restarted]:
    """Restart the named processes (none: all) one after the other, each when the previous one is ready.

    With `core` these are engine workers (none: all of them), which then run that core.

    Raises:
        RestartError: there is no such process, or one is not ready in time; the remaining ones are left
            alone. Or the core cannot be run.
    """
    state = read_state(settings)
    if state is None:
        raise RestartError("The exchange is not running; `exchange up` starts it.")
    running = {process.name for process in state.processes}
    _check_cache(settings, running)
    _check(names, state.processes)
    if core is not None:
        names = _workers_for(settings, names, core)
    wanted = set(names) or running
    if not names:
        say("bringing the database up to date")
        try:
            migrate(settings.resolved_database_url(), tell=say, logins=RoleLogins.of(settings))
        except (MigrationError, psycopg.Error) as error:
            raise RestartError(
                f"The database cannot be brought up to date; nothing was restarted: {error}"
            ) from error
    left = [name for name in _in_order(settings) if name in wanted & running]
    _build_core(settings, left, say)
    try:
        while left:
            name = _next(settings, left)
            say(f"restarting {name}")
            yield _restart(settings, name, left, core)
            left.remove(name)
    except redis.RedisError as error:
        raise RestartError(f"Redis does not answer: {error}\n{_rest(left)}") from error


def _check_cache(settings: Settings, running: Collection[str]) -> None:
    """Refuse if the running `exchange up`, of an earlier release, lacks a server that this release needs."""
    if settings.has_own_cache() and CACHE not in running:
        raise RestartError(
            f"The running `exchange up` is of a release that starts no {CACHE}, which this one's processes "
            "need: `exchange down`, `exchange up`, once. Nothing was restarted."
        )


def _check(names: Collection[str], processes: Collection[ProcessState]) -> None:
    for name in names:
        if name.startswith(SERVERS):
            raise RestartError(
                f"{name} holds data, so it is restarted with everything: `exchange down`, `exchange up`."
            )
        if name not in (
            existing := [process.name for process in processes if not process.name.startswith(SERVERS)]
        ):
            raise RestartError(f"There is no process {name!r}. There are: {', '.join(existing)}.")
    needed = trading_processes(processes)
    if not names and (
        down := [process.name for process in needed if process.state is not ProcessStatus.RUNNING]
    ):
        raise RestartError(
            f"Not everything runs: {', '.join(down)}. `exchange logs {down[0]}` may say why; "
            f"`exchange restart {down[0]}` restarts it alone."
        )


def _build_core(settings: Settings, names: Collection[str], say: Say) -> None:
    """Build the compiled core from the sources on disk, which are new in an upgrade, if workers may run it.

    Otherwise they would run the objects from now on.
    """
    if settings.core == OBJECTS or not any(spec.name in names for spec in engines(settings)):
        return
    say("bringing the compiled core up to date")
    with suppress(CannotBuild):
        build_all()


def _workers_for(settings: Settings, names: Collection[str], core: str) -> Collection[str]:
    """Return which engine workers are restarted with another core."""
    try:
        chosen_core(msgspec.structs.replace(settings, core=core))
    except SettingsError as error:
        raise RestartError(f"{error}. Nothing was restarted.") from error
    workers = [spec.name for spec in engines(settings)]
    if others := sorted(set(names) - set(workers)):
        raise RestartError(f"{others[0]} has no core; engine workers are: {', '.join(workers)}.")
    return names or workers


def _in_order(settings: Settings) -> list[str]:
    """Return all names: deciding processes first, so that no process talks to one older than itself.

    Clients last.
    """
    workers = [spec.name for spec in persist_workers(settings)]
    fronts = [spec.name for spec in (*gateways(settings), *edges(settings))]
    rest = [spec.name for spec in readers(settings) if spec.name not in (*workers, *fronts)]
    shards = sorted(engines(settings), key=lambda spec: _shard(spec.environment))
    return [
        *(spec.name for spec in shards),
        *(*rest, *workers, *fronts),
        *(spec.name for spec in (*clients(settings), *pages(settings))),
    ]


def _shard(environment: Mapping[str, str]) -> int:
    return int(environment[f"{PREFIX}SHARD"])


def _next(settings: Settings, left: list[str]) -> str:
    """Return the next name: of a shard's engine workers the leader comes last, if another can take over."""
    shards = {spec.name: _shard(spec.environment) for spec in engines(settings)}
    if left[0] not in shards:
        return left[0]
    shard = shards[left[0]]
    mine = [name for name in left if shards.get(name) == shard]
    leader = inquiries.leader_of(settings, shard)
    others = [name for name in mine if leader is None or name != leader.process]
    if others:
        return others[0]
    if settings.standbys:
        _wait(
            lambda: bool(inquiries.standbys_in_step(settings, shard, LAG_MS_MAX)),
            f"No standby of shard {shard} is in step; `exchange shards` shows how far they are.",
            left,
        )
    return mine[0]


def _restart(settings: Settings, name: str, left: list[str], core: str | None) -> Restarted:
    before = _state_of(settings, name, left)
    began = time.time()
    # New feeds take over from the old ones, so they start first, and market data is not interrupted.
    is_feeds = name in {spec.name for spec in feeds(settings)}
    environment = {f"{PREFIX}CORE": core} if core is not None else {}
    if not request_restart(settings, RestartRequest(name, is_feeds, environment)):
        raise RestartError(
            "Another restart is under way; wait for it, or delete restart.json in the data folder."
        )

    def is_ready() -> bool:
        now = _state_of(settings, name, left)
        if now.restarts > before.restarts + DEATHS_MAX or now.state is ProcessStatus.HALTED:
            raise RestartError(f"{name} exited by itself; `exchange logs {name}` says why. {_rest(left)}")
        anew = now.pid not in (0, before.pid) and now.state is ProcessStatus.RUNNING
        return anew and _ready(settings, name, now.pid)

    timeout_s = READY_TIMEOUT_S + settings.drain_delay_ms / 1000
    otherwise = f"{name} is not ready after {timeout_s:.0f} s; `exchange logs {name}` may say why."
    _wait(is_ready, otherwise, left, timeout_s)
    return Restarted(name, _state_of(settings, name, left).pid, began, time.time())


def _ready(settings: Settings, name: str, pid: int) -> bool:
    ports = {spec.name: port for spec, port in zip(gateways(settings), settings.rest_ports(), strict=True)}
    edge_ports = {spec.name: port for spec, port in zip(edges(settings), settings.ws_ports(), strict=True)}
    shards = {spec.name: _shard(spec.environment) for spec in engines(settings)}
    if name in shards:
        leader = inquiries.leader_of(settings, shards[name])
        if leader is not None and leader.pid == pid:
            return inquiries.shards_answer(settings)
        return any(
            standby.pid == pid for standby in inquiries.standbys_in_step(settings, shards[name], LAG_MS_MAX)
        )
    if name in ports:
        return inquiries.answers_ping(settings, ports[name]) and inquiries.says_health(
            settings, name, pid, LAG_MS_MAX
        )
    if name in edge_ports:
        return inquiries.says_health(settings, name, pid, LAG_MS_MAX) and inquiries.answers_handshake(
            settings, edge_ports[name]
        )
    if name == "mm":
        return _is_quoted(settings)
    if name == "frontend":
        # As at a start, a build of the frontend is not waited for.
        return inquiries.frontend_answers(settings)
    # How far the database is behind is not for the nudger, which only tells, to make up for.
    if name in {spec.name for spec in feeds(settings)}:
        return inquiries.says_health(settings, name, pid, LAG_MS_MAX)
    return inquiries.says_health(settings, name, pid)


def _is_quoted(settings: Settings) -> bool:
    """Return whether there are bids and asks in every market."""
    try:
        tickers = request(f"{settings.rest_url()}/api/v3/ticker/bookTicker")
    except RuntimeError:
        return False
    return all(float(ticker["bidQty"]) and float(ticker["askQty"]) for ticker in tickers)


def _state_of(settings: Settings, name: str, left: list[str]) -> ProcessState:
    state = read_state(settings)
    if state is None:
        raise RestartError(f"The exchange has stopped meanwhile; `exchange up` starts it. {_rest(left)}")
    return next(process for process in state.processes if process.name == name)


def _wait(
    true: Callable[[], bool], otherwise: str, left: list[str], timeout_s: float = READY_TIMEOUT_S
) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            raise RestartError(f"{otherwise} {_rest(left)}")
        time.sleep(LOOK_EVERY_S)


def _rest(left: list[str]) -> str:
    return f"Not restarted yet: {', '.join(left)}; `exchange restart {' '.join(left)}` continues."
