"""Carries the faults of a plan out on a running exchange: signals to its processes, and to its servers."""

import asyncio
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final

from cli.local import embedded_redis
from cli.local.own_exchange import OwnExchange
from cli.local.processes import ProcessSpec, engines
from cli.local.state_file import ProcessState
from cli.local.supervisor import end_with_parent
from lab.chaos import collecting
from lab.chaos.database import Database
from lab.chaos.plan import Fault, FaultKind, choose
from lab.chaos.sabotage import Break, command_of
from runtime import redis_clients
from runtime.settings import PREFIX, Settings

LOOK_EVERY_S: Final = 0.02
SPARED: Final = ("mm", "frontend")
"""Who is no part of the promise."""
POSTGRES: Final = "postgres"
REDIS: Final = "redis"
SENTINEL: Final = "redis-sentinel"
RIVAL_STOP_S: Final = 20.0
RIVAL_LEADS_S: Final = 30.0
"""How long another leader may take to take over; the paused one is paused for so long."""
AFTERMATH_SHARE: Final = 0.05
"""The share of the orders that are placed after the last fault."""


def redis_to_kill(settings: Settings) -> list[str]:
    """Return the names of the servers that may be killed now; none: Redis has not recovered yet.

    Under Sentinel that is the master, once its replica has all its data: one of two copies may be lost at a
    time. The servers of a cluster have no replicas; each returns with the data on its disk.
    """
    if settings.redis_mode == "single":
        return [REDIS]
    if not embedded_redis.redis_ready(settings):
        return []
    names = [name for name in embedded_redis.redis_commands(settings) if not name.startswith(SENTINEL)]
    if settings.redis_mode == "cluster":
        return names
    try:
        with redis_clients.client(settings.resolved_redis_url()) as client:
            port = int(client.config_get("port")["port"])
    except redis_clients.RedisOutage:
        return []
    return [names[settings.redis_ports().index(port)]]


class Faults:
    """What was done so far, and what is down now."""

    def __init__(
        self,
        exchange: OwnExchange,
        database: Database,
        plan: Sequence[Fault],
        only: str,
        broken: Break | None,
    ) -> None:
        """`only` bounds kills and pauses to processes of that name; empty: all.

        `broken` is what the exchange runs without.
        """
        self._exchange = exchange
        self._database = database
        self._plan = plan
        self._only = only
        self._broken = broken
        self._rivals: list[subprocess.Popen[bytes]] = []
        self._running: set[asyncio.Task[None]] = set()
        self.done: Counter[FaultKind] = Counter()
        self.by_process: Counter[str] = Counter()
        self.down: dict[str, str] = {}
        """Name -> what was done to it, until it is over."""
        self.back: list[float] = []
        """When the database came back, on the monotonic clock."""
        self.is_over = not plan

    async def run(self, progress: Callable[[], float]) -> None:
        """Carry the plan out; `progress` is the share of the orders that have their answer."""
        for fault in self._plan:
            while progress() < fault.share:
                self.look()
                await asyncio.sleep(LOOK_EVERY_S)
            while not await self._carry_out(fault):
                self.look()
                await asyncio.sleep(LOOK_EVERY_S)
        while self._running:
            self.look()
            await asyncio.sleep(LOOK_EVERY_S)
        # What the last fault led to must be able to show.
        enough = progress() + AFTERMATH_SHARE
        while progress() < enough:
            self.look()
            await asyncio.sleep(LOOK_EVERY_S)
        self.is_over = True

    def look(self) -> None:
        """Let an error of a fault end the run, and keep the database up when it should be."""
        for task in [task for task in self._running if task.done()]:
            self._running.discard(task)
            task.result()
        if POSTGRES not in self.down:
            self._database.keep_up()

    def close(self) -> None:
        """End the faults in progress and the rivals, and resume what is paused."""
        for task in self._running:
            task.cancel()
        self._database.resume()
        for process in self._alive():
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
        for rival in self._rivals:
            if rival.poll() is None:
                rival.terminate()
        for rival in self._rivals:
            try:
                rival.wait(RIVAL_STOP_S)
            except subprocess.TimeoutExpired:
                rival.kill()
                rival.wait()

    def _alive(self) -> list[ProcessState]:
        return [
            process for process in self._exchange.processes() if process.pid and process.name not in SPARED
        ]

    async def _carry_out(self, fault: Fault) -> bool:
        """Begin a fault; return whether it could be."""
        match fault.kind:
            case FaultKind.DATABASE_STOP | FaultKind.DATABASE_PAUSE:
                if POSTGRES in self.down:
                    return False
                self._begin(self._database_outage(fault))
            case FaultKind.REDIS_KILL:
                names = await asyncio.to_thread(redis_to_kill, self._exchange.settings)
                chosen = choose(names, fault.draw) if names else ""
                if not self._kill([process for process in self._alive() if process.name == chosen]):
                    return False
            case FaultKind.KILL | FaultKind.PAUSE:
                if not self._hit(fault):
                    return False
        self.done[fault.kind] += 1
        return True

    def _hit(self, fault: Fault) -> bool:
        """Kill or pause a process; return whether there was one."""
        standing = {
            process.name: process
            for process in self._alive()
            if process.name not in self.down and not process.name.startswith(REDIS)
        }
        names = [name for name in standing if self._only in name]
        if fault.kind is FaultKind.KILL and POSTGRES not in self.down and self._only in POSTGRES:
            names.append(POSTGRES)
        if not names:
            return False
        name = choose(names, fault.draw)
        if name == POSTGRES:
            self._database.kill()
            self._database.start()
            self.by_process[POSTGRES] += 1
        elif fault.kind is FaultKind.PAUSE:
            self._begin(self._pause(standing[name], fault.seconds))
        else:
            return self._kill([standing[name]])
        return True

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self._running.add(asyncio.create_task(work))

    def _kill(self, processes: list[ProcessState]) -> bool:
        for process in processes:
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                return False
            self.by_process[process.name] += 1
        return bool(processes)

    async def _pause(self, process: ProcessState, seconds: float) -> None:
        self.down[process.name] = "paused"
        self.by_process[process.name] += 1
        try:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGSTOP)
            replaced = await asyncio.to_thread(self._start_rival, process.name)
            await asyncio.sleep(seconds)
            deadline = time.monotonic() + RIVAL_LEADS_S
            while replaced is not None and time.monotonic() < deadline:
                if await asyncio.to_thread(replaced):
                    break
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
            del self.down[process.name]

    def _start_rival(self, name: str) -> Callable[[], bool] | None:
        """Start another leader beside the paused one if there is no standby, like an orchestrator.

        Returns a function that tells whether the paused one was replaced; None: there is no successor.
        """
        specs = {spec.name: spec for spec in engines(self._exchange.settings)}
        if name not in specs or any("standby" in process.name for process in self._exchange.processes()):
            return None
        shard = int(specs[name].environment[f"{PREFIX}SHARD"])
        before = collecting.epoch(self._exchange.settings, shard)
        self._rivals = [rival for rival in self._rivals if rival.poll() is None]
        self._rivals.append(self._start(specs[name]))
        return lambda: collecting.epoch(self._exchange.settings, shard) > before

    def _start(self, spec: ProcessSpec) -> "subprocess.Popen[bytes]":
        module = spec.command.arguments[-1]
        with (self._exchange.settings.data_dir / "logs" / f"{spec.name}-rival.log").open("ab") as output:
            return subprocess.Popen(
                command_of(module, broken=self._broken),
                env={**self._exchange.environment, **spec.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent(signal.SIGTERM),
            )

    async def _database_outage(self, fault: Fault) -> None:
        stopped = fault.kind is FaultKind.DATABASE_STOP
        self.down[POSTGRES] = "stopped" if stopped else "paused"
        self.by_process[POSTGRES] += 1
        try:
            (self._database.kill if stopped else self._database.pause)()
            await asyncio.sleep(fault.seconds)
        finally:
            if stopped:
                self._database.start()
            else:
                self._database.resume()
            del self.down[POSTGRES]
            self.back.append(time.monotonic())
