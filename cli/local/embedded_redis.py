"""The embedded Redis in the topology of EXCHANGE_REDIS_MODE.

One server, a master with a replica under Sentinel, or a cluster of three masters. The servers write the
current master and the distribution of slots into their own configuration files; so these are created once and
then kept.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import redis

from cli.local import embedded
from cli.local.embedded import CONNECT_TIMEOUT_S, ServerCommand, ServerError
from runtime import redis_clients
from runtime.settings import PREFIX, Settings

SERVICE = "exchange"
CACHE = "redis-cache"
"""The process of the Redis of what may be lost."""
DOWN_AFTER_MS = 1_000
"""A master that is silent for so long is replaced."""
FAILOVER_TIMEOUT_MS = 4_000
SLOTS = 16_384
BUS_PORT_OFFSET = 10_000
"""Nodes of a cluster speak with each other at their port and this."""
_MODE_FILE = "redis-mode"


def redis_commands(settings: Settings) -> Mapping[str, ServerCommand]:
    """Return how to start each server of the embedded Redis, by name.

    Raises:
        ServerError: there is no usable redis-server, or the data belong to another mode.
    """
    _check_mode(settings)
    cache = {CACHE: embedded.cache_command(settings)} if settings.has_own_cache() else {}
    return {**_log_commands(settings), **cache}


def _log_commands(settings: Settings) -> dict[str, ServerCommand]:
    """Return how to start the servers that keep everything."""
    if settings.redis_mode == "single":
        return {"redis": embedded.redis_command(settings)}
    ports = settings.redis_ports()
    if settings.redis_mode == "cluster":
        extra = f"cluster-enabled yes\ncluster-config-file nodes.conf\nmasterauth {_password(settings)}\n"
        return {
            f"redis-{number}": _server(settings, number, port, extra) for number, port in enumerate(ports, 1)
        }
    master, replica, *sentinels = ports
    account = f"masterauth {_password(settings)}\n"
    commands = {
        "redis-1": _server(settings, 1, master, account),
        "redis-2": _server(settings, 2, replica, f"{account}replicaof 127.0.0.1 {master}\n"),
    }
    for number, port in enumerate(sentinels, 1):
        commands[f"redis-sentinel-{number}"] = _sentinel(settings, number, port, master)
    return commands


def redis_ready(settings: Settings) -> bool:
    """Return whether Redis answers, its data loaded, and all that belongs to it is there.

    Joins the nodes of a new cluster.
    """
    if not embedded.cache_ready(settings):
        return False
    try:
        if settings.redis_mode == "cluster" and not settings.redis_url:
            return _cluster_ready(settings)
        with _client(settings) as client:
            if settings.redis_mode == "sentinel" and not settings.redis_url:
                replication: Any = client.info("replication")
                if replication.get("slave0", {}).get("state") != "online" or not _sentinels_ready(settings):
                    return False
            return bool(client.ping())
    except redis.RedisError:
        return False


def _client(settings: Settings) -> redis.Redis:
    return redis_clients.client(settings.resolved_redis_url(), socket_connect_timeout=CONNECT_TIMEOUT_S)


def _check_mode(settings: Settings) -> None:
    """Refuse data of another mode: only that mode knows which server has the newest data."""
    file = settings.data_dir / _MODE_FILE
    first_port = settings.redis_port if settings.redis_mode != "single" else ""
    wanted = f"{settings.redis_mode} {first_port}".strip()
    if file.exists():
        recorded = file.read_text("ascii").strip()
    else:
        recorded = "single" if (settings.data_dir / "redis").exists() else wanted
        file.write_text(f"{recorded}\n", "ascii")
    if recorded != wanted:
        mode, _, port = recorded.partition(" ")
        raise ServerError(
            f"The Redis in {settings.data_dir} was made with {PREFIX}REDIS_MODE={mode}"
            + (f" and {PREFIX}REDIS_PORT={port}" if port else "")
            + f"; set that, or another {PREFIX}DATA_DIR."
        )


def _password(settings: Settings) -> str:
    return settings.password_file.read_text("ascii").strip()


def _server(settings: Settings, number: int, port: int, extra: str) -> ServerCommand:
    folder = settings.data_dir / f"redis-{number}"
    server = _made(settings, folder, embedded.redis_configuration(settings, folder, port) + extra)
    return _with_memory(settings, server)


def _sentinel(settings: Settings, number: int, port: int, master_port: int) -> ServerCommand:
    folder = settings.data_dir / f"redis-sentinel-{number}"
    password = _password(settings)
    configuration = f"""bind 127.0.0.1
port {port}
requirepass {password}
dir "{folder}"
pidfile "{folder / "redis.pid"}"
sentinel sentinel-pass {password}
sentinel monitor {SERVICE} 127.0.0.1 {master_port} 2
sentinel auth-pass {SERVICE} {password}
sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}
sentinel failover-timeout {SERVICE} {FAILOVER_TIMEOUT_MS}
"""
    command = _made(settings, folder, configuration)
    return ServerCommand((*command.arguments, "--sentinel"))


def _made(settings: Settings, folder: Path, configuration: str) -> ServerCommand:
    program = embedded.program_for(folder, settings.redis_bin)
    folder.mkdir(mode=0o700, exist_ok=True)
    file = folder / "redis.conf"
    if not file.exists():
        file.touch(0o600)
        file.write_text(configuration, "utf-8")
    return ServerCommand((str(program), str(file)))


def _with_memory(settings: Settings, command: ServerCommand) -> ServerCommand:
    """Give a server its memory as the settings say now: its file is its own since it was made."""
    return ServerCommand((*command.arguments, "--maxmemory", f"{settings.redis_memory_mb}mb"))


def _node(settings: Settings, port: int) -> redis.Redis:
    url = f"redis://:{_password(settings)}@127.0.0.1:{port}"
    return redis_clients.client_for(url, "", socket_connect_timeout=CONNECT_TIMEOUT_S)


def _sentinels_ready(settings: Settings) -> bool:
    """Return whether the sentinels know each other and the replica, so that they can replace the master."""
    for port in settings.redis_ports()[2:]:
        with _node(settings, port) as sentinel:
            state: Any = sentinel.sentinel_masters()
            if state[SERVICE]["num-other-sentinels"] < 2 or state[SERVICE]["num-slaves"] < 1:
                return False
    return True


def _cluster_ready(settings: Settings) -> bool:
    ports = settings.redis_ports()
    is_ready = True
    for number, port in enumerate(ports):
        with _node(settings, port) as node:
            information: Any = node.execute_command("CLUSTER INFO")
            if information["cluster_known_nodes"] == "1":
                if information["cluster_slots_assigned"] == "0":
                    slots = range(SLOTS * number // len(ports), SLOTS * (number + 1) // len(ports))
                    node.execute_command("CLUSTER ADDSLOTS", *slots)
                for other_port in ports[:number]:
                    node.execute_command("CLUSTER MEET", "127.0.0.1", other_port)
            is_ready &= (
                information["cluster_state"] == "ok"
                and information["cluster_known_nodes"] == str(len(ports))
                and information["cluster_slots_assigned"] == str(SLOTS)
            )
    return is_ready
