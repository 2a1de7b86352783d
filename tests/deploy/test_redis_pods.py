"""The start scripts of the Redis pods, with real servers and sentinels: each pod is an address of this
machine's own."""

import os
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import redis

from cli.local.free_ports import free_port
from cli.secret_files import REDIS_USERS, password_hash, users_acl
from runtime import redis_clients
from tests.deploy.rendered import ROOT
from tests.deploy.server_programs import server_programs
from tests.support.eventually import eventually

SCRIPTS: Final = ROOT / "k8s" / "components" / "redis-sentinel"
NODES: Final = ("127.0.0.2", "127.0.0.3")
SENTINELS: Final = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
DOWN_AFTER_MS: Final = 2_000
NEVER_MS: Final = 600_000
DEADLINE_S: Final = 90
PASSWORDS: Final = {"operator": "app", "replica": "replica", "sentinel": "sentinel"}
ACL: Final = users_acl(
    {user: [password_hash(PASSWORDS.get(user, secrets.token_hex()))] for user in REDIS_USERS}
)
"""What is shipped, with passwords of ours for those who are used here."""


class Pods:
    """Two Redis and three sentinels, started as their pods start them."""

    def __init__(self, folder: Path, start_redis: str, down_after_ms: int = DOWN_AFTER_MS) -> None:
        self._folder = folder
        self._down_after_ms = down_after_ms
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._port, self._sentinel_port = free_port(), free_port()
        self._scripts = folder / "scripts"
        self._programs = server_programs(folder)
        shutil.copytree(SCRIPTS, self._scripts)
        (self._scripts / "start-redis.sh").write_text(start_redis, "utf-8")
        configuration = self._scripts / "redis.conf"
        # Where the secrets are is the only thing in it that is the cluster's own.
        secrets = folder / "secrets"
        text = configuration.read_text("utf-8").replace("/run/secrets/redis", str(secrets))
        configuration.write_text(text, "utf-8")
        secrets.mkdir()
        for name, value in (
            ("users.acl", ACL),
            ("replica-password", "replica"),
            ("sentinel-password", "sentinel"),
        ):
            (secrets / name).write_text(value, "utf-8")
        hosts = ",".join(f"{host}:{self._sentinel_port}" for host in SENTINELS)
        self.url = f"redis+sentinel://operator:app@{hosts}/exchange?sentinel_password=sentinel"

    def start(self, kind: str, address: str) -> None:
        """Start a pod; its data stay where they were."""
        name = f"{kind}-{address}"
        data, run = self._folder / name / "data", self._folder / name / "run"
        data.mkdir(parents=True, exist_ok=True)
        run.mkdir(exist_ok=True)
        environment = {
            "PATH": f"{self._programs}:{os.environ['PATH']}",
            "SELF": address,
            "NODES": " ".join(NODES),
            "SENTINELS": " ".join(SENTINELS),
            "PORT": str(self._port),
            "SENTINEL_PORT": str(self._sentinel_port),
            "SECRETS": str(self._folder / "secrets"),
            "CONFIGURATION": str(self._scripts),
            "DATA": str(data),
            "RUN": str(run),
            "DOWN_AFTER_MS": str(self._down_after_ms),
        }
        script = self._scripts / f"start-{kind}.sh"
        self._processes[name] = subprocess.Popen(
            ["sh", str(script), "--bind", address],
            env=environment,
            stdout=(data.parent / "log").open("ab"),
            stderr=subprocess.STDOUT,
        )

    def kill(self, kind: str, address: str) -> None:
        """End a pod at once."""
        process = self._processes.pop(f"{kind}-{address}")
        process.kill()
        process.wait()

    def wipe(self, address: str) -> None:
        """Lose the disk of a Redis."""
        shutil.rmtree(self._folder / f"redis-{address}" / "data")

    def says(self, address: str) -> str:
        """Return what the pod of a Redis has said."""
        return (self._folder / f"redis-{address}" / "log").read_text("utf-8", "replace")

    def replication(self, address: str) -> Mapping[str, Any]:
        """Return what a Redis says of its part; nothing when it does not answer."""
        with redis.Redis(
            address, self._port, username="operator", password="app", socket_timeout=2
        ) as client:
            try:
                found: Mapping[str, Any] = client.info("replication")
                return found
            except redis.RedisError:
                return {"role": ""}

    def master(self) -> str:
        """Return the address of the master that has its replica; empty: there is none."""
        for address in NODES:
            found = self.replication(address)
            if found["role"] == "master" and found.get("slave0", {}).get("state") == "online":
                return address
        return ""

    def is_watched(self) -> bool:
        """Return whether every sentinel knows the replica and the other sentinels."""
        for address in SENTINELS:
            with redis.Redis(address, self._sentinel_port, password="sentinel", socket_timeout=2) as client:
                state: Any = client.sentinel_masters()["exchange"]
                if (state["num-slaves"], state["num-other-sentinels"]) != (1, len(SENTINELS) - 1):
                    return False
        return True

    def stop(self) -> None:
        """End everything."""
        for process in self._processes.values():
            process.kill()
            process.wait()


def is_written(pods: Pods) -> bool:
    with redis_clients.client_for(pods.url, "") as client:
        try:
            return bool(client.set("order", "acknowledged")) and client.wait(1, 10_000) == 1
        except redis_clients.RedisOutage:
            return False  # the sentinels took the master for dead before it was there


def order(pods: Pods) -> bytes:
    """Return what is left of the order, by the master that the sentinels name."""
    with redis_clients.client_for(pods.url, "") as client:
        try:
            return client.get("order") or b"lost"
        except redis_clients.RedisOutage:
            return b""


def lose_the_masters_disk(pods: Pods, *, watched: bool = True) -> None:
    """Begin with nothing, write, and start the master anew, without its data, before anybody has missed
    it.
    """
    for address in SENTINELS:
        pods.start("sentinel", address)
    for address in NODES:
        pods.start("redis", address)
    eventually("a master with a replica", lambda: pods.master() == NODES[0], DEADLINE_S)
    eventually("an order that both have", lambda: is_written(pods), DEADLINE_S)
    if watched:
        eventually("sentinels that know of everybody", pods.is_watched, DEADLINE_S)
    pods.kill("redis", NODES[0])
    pods.wipe(NODES[0])
    pods.start("redis", NODES[0])
    eventually("a master with a replica", lambda: bool(pods.master()), DEADLINE_S)


def test_an_empty_master_does_not_come_back_as_the_master(tmp_path: Path) -> None:
    pods = Pods(tmp_path, (SCRIPTS / "start-redis.sh").read_text("utf-8"))
    try:
        lose_the_masters_disk(pods)
        assert pods.master() == NODES[1]
        assert "this is the master, and it is empty" in pods.says(NODES[0])
        assert eventually("an answer", lambda: order(pods), DEADLINE_S) == b"acknowledged"
        # And the other way about, with its data: it comes back as the replica of the one that was promoted.
        pods.kill("redis", NODES[1])
        eventually("a promotion", lambda: pods.replication(NODES[0])["role"] == "master", DEADLINE_S)
        pods.start("redis", NODES[1])
        eventually("a master with a replica", lambda: pods.master() == NODES[0], DEADLINE_S)
        assert eventually("an answer", lambda: order(pods), DEADLINE_S) == b"acknowledged"
    finally:
        pods.stop()


def test_without_that_check_it_takes_everything_with_it(tmp_path: Path) -> None:
    script = (SCRIPTS / "start-redis.sh").read_text("utf-8")
    check = '        [ "$peer_keys" != 0 ] || break\n'
    assert check in script
    pods = Pods(tmp_path, script.replace(check, "        break\n"), NEVER_MS)
    try:
        lose_the_masters_disk(pods, watched=False)
        assert eventually("an answer", lambda: order(pods), DEADLINE_S) == b"lost"
    finally:
        pods.stop()
