"""The servers of an embedded Redis of a test's own, to be killed, paused and cut off one by one."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec
import redis

from cli.local import embedded, embedded_redis
from cli.local.free_ports import free_ports
from runtime import redis_clients
from runtime.settings import Settings
from tests.support.eventually import eventually


class RedisServers:
    """Redis in one of its modes; the data are written to disk as in `exchange up`."""

    def __init__(
        self,
        folder: Path,
        mode: Literal["single", "sentinel", "cluster"],
        redis_bin: str = os.environ.get("TEST_REDIS_BIN", ""),
    ) -> None:
        self.settings = Settings(
            data_dir=folder,
            redis_mode=mode,
            redis_port=free_ports(5),
            redis_bin=redis_bin,
            cache_enabled=False,
        )
        embedded.make_data_dir(self.settings)
        self._commands = embedded_redis.redis_commands(self.settings)
        self._ports = dict(zip(self._commands, self.settings.redis_ports(), strict=True))
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def use(self, redis_bin: str) -> None:
        """Start the program of another folder from now on; empty: the one that comes along."""
        self.settings = msgspec.structs.replace(self.settings, redis_bin=redis_bin)
        self._commands = embedded_redis.redis_commands(self.settings)

    def programs(self) -> set[str]:
        """Return the names of the programs that run."""
        return {Path(command.arguments[0]).name for command in self._commands.values()}

    @property
    def url(self) -> str:
        """Where all of it is found."""
        return self.settings.resolved_redis_url()

    def start(self) -> None:
        """Start every server; return when all of Redis is ready."""
        for name in self._commands:
            self.start_one(name)
        eventually("Redis", self.is_ready)

    def start_one(self, name: str, *options: str) -> None:
        """Start a server with further options of its own."""
        self._running[name] = subprocess.Popen(
            (*self._commands[name].arguments, *options), stdout=subprocess.DEVNULL
        )

    def start_replica(self, name: str) -> None:
        """Start an old master as a replica of the new one, as an operator would.

        The sentinels by themselves take ten seconds.
        """
        master = next(name for name, role in self.roles().items() if role == "master")
        self.start_one(name, "--replicaof", "127.0.0.1", str(self._ports[master]))

    def let_sentinels_wait(self, silent_ms: int = embedded_redis.DOWN_AFTER_MS) -> None:
        """Let sentinels replace a master only when it has been silent for so long.

        On a machine that is busy, one that lives is silent for a second, too.
        """
        for name in self._running:
            if name.startswith("redis-sentinel"):
                with self.client(name) as client:
                    client.sentinel_set(embedded_redis.SERVICE, "down-after-milliseconds", silent_ms)

    def is_ready(self) -> bool:
        """Whether everything answers, the replica included."""
        return embedded_redis.redis_ready(self.settings)

    def kill(self, name: str) -> None:
        """End a server at once."""
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a server a signal."""
        self._running[name].send_signal(number)

    def stop(self) -> None:
        """End every server."""
        for name in list(self._running):
            self.kill(name)

    def client(self, name: str) -> redis.Redis:
        """Return a connection to one server."""
        password = self.settings.password_file.read_text("ascii").strip()
        return redis_clients.client_for(f"redis://:{password}@127.0.0.1:{self._ports[name]}", "")

    def flush(self) -> None:
        """Empty every server with data."""
        for name in self._commands:
            if name.startswith("redis-sentinel"):
                continue
            with self.client(name) as client:
                if client.info("replication")["role"] == "master":
                    client.flushall()

    def roles(self) -> dict[str, str]:
        """Return what each server with data that answers says it is."""
        found = {}
        for name in self._commands:
            if not name.startswith("redis-sentinel"):
                with self.client(name) as client:
                    try:
                        found[name] = str(client.info("replication")["role"])
                    except redis.ConnectionError:
                        continue
        return found

    def master(self) -> str:
        """Return the name of the server that is the master."""
        (name,) = (name for name, role in self.roles().items() if role == "master")
        return name


@contextmanager
def redis_servers(folder: Path, mode: Literal["single", "sentinel", "cluster"]) -> Iterator[RedisServers]:
    """Run a Redis with its data in `folder`."""
    servers = RedisServers(folder, mode)
    try:
        servers.start()
        yield servers
    finally:
        servers.stop()
