"""Disables one of the exchange's safeguards: `python -m lab.chaos.sabotage --break-fence engine_worker.main`.

Runs the named module as `python -m` would, after replacing the safeguard in this process only; the exchange
itself has no such switch. With `cli.main up` it starts every process of the exchange in this way. What
follows on Redis's path is Redis's command line.
"""

import asyncio
import os
import runpy
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import msgspec

from adapters.passwords import ArgonPasswords
from cli.local import embedded, processes
from cli.local.embedded import ServerCommand
from engine_worker.core.operator_commands import OperatorCommands
from engine_worker.core.outcomes import AnsweredRequests
from engine_worker.core.shard import Shard
from engine_worker.cores import OBJECTS
from functions.users.password_rules import check_password
from gateway import connection
from protocol import streams
from protocol.commands import LoggedCommand, PlaceOrder, ShardMessage, Signed, SignedBody
from protocol.positions import ShardPosition
from protocol.signing import decode_signed_body
from protocol.units import TimeMs
from runtime import lifecycle
from runtime.settings import PREFIX, Settings
from stream_log import redis_log
from stream_log.interface import Entry, Fenced
from stream_log.redis_log import RedisStreamLog
from ws_edge.conflation import Update
from ws_edge.fanout import Fanout

LOST_BYTES = 65_536
"""What a power cut takes from the end of the log that was not brought to the disk."""


class Break(StrEnum):
    """A safeguard that can be disabled."""

    FENCE = "--break-fence"
    """The comparison in the commit: a replaced worker may still write."""
    DEDUP = "--break-dedup"
    """The memory of requests and idempotency keys: a repetition is a new order."""
    WAIT = "--break-wait"
    """The wait for the disk before an acknowledgement: a crash of Redis takes what was written last."""
    SIGNATURE = "--break-signature"
    """The signature of what configures, and of what moves money: anybody's word counts."""
    DRAIN = "--break-drain"
    """The end that finishes what is under way: who is told to stop is gone at once."""
    DOOR = "--break-door"
    """The protections of gateway and edge that no setting turns off.

    These are the maximum number of headers, turns and a low-priority process for the passwords of sign-ups,
    and turns for the delivery of updates.
    """


_IN_THE_OBJECTS: Final = frozenset({Break.DEDUP, Break.SIGNATURE})
"""What is broken in the core of objects, which then has to run."""


class NothingToBreakError(RuntimeError):
    """The safeguard is not where it is looked for; the control would prove nothing."""


def command_of(module: str, *arguments: str, broken: Break | None) -> tuple[str, ...]:
    """Return the command line that runs a module of the exchange, sabotaged if `broken`."""
    python = (sys.executable, "-P", "-m")
    return (
        (*python, "lab.chaos.sabotage", broken, module, *arguments)
        if broken
        else (*python, module, *arguments)
    )


def main() -> None:
    """Disable the safeguard that the command line names, then run its module."""
    broken, module = Break(sys.argv[1]), sys.argv[2]
    if broken in _IN_THE_OBJECTS:
        os.environ[f"{PREFIX}CORE"] = OBJECTS
    if module.endswith(("valkey-server", "redis-server")):
        _run_redis_after_power_cut(sys.argv[2:])
    if module == "cli.main":
        _start_all_sabotaged(broken)
    else:
        _SABOTAGE[broken]()
    sys.argv = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _break_fence() -> None:
    compare = "if (redis.call('GET', KEYS[1]) or '0|0-0') ~= ARGV[1] then return 0 end"
    commit: str = redis_log._COMMIT
    if compare not in commit:
        raise NothingToBreakError("the commit does not compare the position as expected")
    redis_log._COMMIT = commit.replace(compare, "")
    read_inputs = RedisStreamLog.read_inputs

    def read_all_the_same(
        self: RedisStreamLog,
        shard: int,
        position: ShardPosition,
        count: int,
        block_ms: int,
        publish: Sequence[tuple[str, bytes]] = (),
        **options: Any,
    ) -> list[Entry]:
        try:
            return read_inputs(self, shard, position, count, block_ms, publish, **options)
        except Fenced:
            return self.read({streams.commands(shard): position.stream_id}, count, 0)

    RedisStreamLog.read_inputs = read_all_the_same  # type: ignore[method-assign]


def _break_dedup() -> None:
    apply = Shard.apply

    def apply_anew(self: Shard, command: LoggedCommand | ShardMessage, time: TimeMs) -> None:
        if isinstance(command, PlaceOrder):
            self.state.requests = AnsweredRequests(0)
            command = msgspec.structs.replace(command, idempotency_key="")
        apply(self, command, time)

    Shard.apply = apply_anew  # type: ignore[method-assign]


def _break_wait() -> None:
    """Do nothing here: it is broken in how Redis is run."""


def _break_signature() -> None:
    def trust(self: OperatorCommands, command: Signed | SignedBody) -> SignedBody | None:
        return decode_signed_body(command.command) if isinstance(command, Signed) else command

    OperatorCommands._authorized = trust  # type: ignore[method-assign]


def _break_drain() -> None:
    for module in ("gateway.main", "ws_edge.main"):
        if module in sys.modules:
            raise NothingToBreakError(f"{module} has its way to stop already")
    # Flags that nobody sets: SIGTERM has its own effect.
    lifecycle.stop_event = asyncio.Event
    lifecycle.stop_flag = threading.Event


def _break_door() -> None:
    connection._HEADERS_MAX = sys.maxsize  # type: ignore[misc]

    async def hash_at_once(self: ArgonPasswords, password: str, email: str, *, is_known: bool) -> str:
        del is_known
        check_password(password, email)
        return await asyncio.to_thread(self._hasher.hash, password)

    def deliver_at_once(self: Fanout[Any], update: Update, now_s: float) -> int:
        del now_s
        listeners = self._listeners.get(update.stream, {})
        for listener in listeners:
            listener.deliver(update)
        return len(listeners)

    ArgonPasswords.hashed = hash_at_once  # type: ignore[method-assign]
    Fanout.publish = deliver_at_once  # type: ignore[method-assign]


_SABOTAGE: Mapping[Break, Callable[[], None]] = {
    Break.FENCE: _break_fence,
    Break.DEDUP: _break_dedup,
    Break.WAIT: _break_wait,
    Break.SIGNATURE: _break_signature,
    Break.DRAIN: _break_drain,
    Break.DOOR: _break_door,
}


def _start_all_sabotaged(broken: Break) -> None:
    """Have `exchange up` start the exchange's modules by way of this one, and for WAIT its Redis too."""
    of_module = processes.ProcessSpec.of_module.__func__  # type: ignore[attr-defined]

    def sabotaged(
        cls: type[processes.ProcessSpec], name: str, module: str, *arguments: str, **settings: int
    ) -> Any:
        spec = of_module(cls, name, module, *arguments, **settings)
        return cls(name, ServerCommand(command_of(module, *arguments, broken=broken)), spec.environment)

    processes.ProcessSpec.of_module = classmethod(sabotaged)  # type: ignore[assignment, arg-type]
    if broken is Break.WAIT:
        redis_command = embedded.redis_command

        def forgetful(settings: Settings) -> ServerCommand:
            command = redis_command(settings)
            return ServerCommand(
                (sys.executable, "-P", "-m", "lab.chaos.sabotage", broken, *command.arguments),
                command.stop_signal,
            )

        embedded.redis_command = forgetful


def _run_redis_after_power_cut(arguments: list[str]) -> None:
    """Become a Redis that does not sync its log, after truncating the log to the synced part."""
    configuration = Path(arguments[1])
    text = configuration.read_text("utf-8")
    if "appendfsync always" not in text:
        raise NothingToBreakError("Redis does not wait for the disk anyway")
    for log in configuration.parent.rglob("appendonly.aof*"):
        if log.is_file() and log.suffix != ".manifest" and (size := log.stat().st_size):
            os.truncate(log, max(0, size - LOST_BYTES))
    os.execv(arguments[0], [*arguments, "--appendfsync", "no"])  # noqa: S606 - it becomes the program that it was told


if __name__ == "__main__":
    main()
