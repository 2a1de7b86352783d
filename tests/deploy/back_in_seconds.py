"""Restarts the servers under a running exchange whose names are cached, and prints how long it was away: a
line of JSON.

    unshare --mount --net --pid --fork --kill-child --mount-proc \
        python -m tests.deploy.back_in_seconds ARRANGEMENT REDIS RUNS TTL_S

ARRANGEMENT is `addresses`, what k8s/ deploys: each server has a Service with an address that stays; or
`headless`, as it was before. REDIS is `single` or `sentinel`. Each restart gives the server's pod another
address, RETURN_S later. Everything is the real thing but for kubelet, kube-proxy and CoreDNS (names.py):
gateway, engine, feeds, persistence, PostgreSQL, Valkey, and the start scripts of the pods.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import httpx
import psycopg
import redis

from cli.local import embedded
from cli.secret_files import REDIS_USERS, password_hash, users_acl
from runtime.settings import PREFIX, Settings
from tests.deploy.names import Names
from tests.deploy.rendered import ROOT
from tests.deploy.server_programs import server_programs
from tests.support.api import Api, new_account
from tests.support.eventually import eventually

RESOLVER: Final = "127.0.53.53"
RETURN_S: Final = 2.0
"""From the end of a pod to the start of the next one's process."""
EVERY_S: Final = 0.04
QUIET_S: Final = 3.0
"""So long must everything have been well before and after."""
WELL_ANSWERS: Final = 5
WELL_S: Final = 1.0
DEADLINE_S: Final = 120.0
READY: Final = {"redis": 6379, "database": 5432, "sentinel": 26379}
SENTINELS: Final = ("sentinel-0", "sentinel-1", "sentinel-2")
REDISES: Final = ("redis-0", "redis-1")
PASSWORDS: Final = {"operator": "app", "replica": "replica", "sentinel": "sentinel"}
ACL: Final = users_acl(
    {user: [password_hash(PASSWORDS.get(user, secrets.token_hex()))] for user in REDIS_USERS}
)
"""What is shipped, with passwords of ours for those who are used here."""


class Away(NamedTuple):
    """How long something was missed, in seconds from the end of the pod."""

    refused_s: float
    """Between the first and the last answer other than 200."""
    first_s: float
    """To the first 200 of what was asked after the pod's end."""


class Pod(NamedTuple):
    """A server's process, at the address of its pod."""

    process: subprocess.Popen[bytes]
    address: str


class Cluster:
    """The servers of an exchange, each in a pod of its own."""

    def __init__(self, folder: Path, names: Names, *, addresses: bool, sentinel: bool) -> None:
        self._folder = folder
        self._names = names
        self._addresses = addresses
        self._sentinel = sentinel
        self._numbers = itertools.count(1)
        self._pods: dict[str, Pod] = {}
        self._programs = server_programs(folder)
        self._secrets = folder / "secrets"
        self._secrets.mkdir()
        for name, text in (
            ("users.acl", ACL),
            ("replica-password", "replica"),
            ("sentinel-password", "sentinel"),
        ):
            (self._secrets / name).write_text(text, "ascii")
        component = ROOT / "k8s" / "components" / ("redis-sentinel" if sentinel else "redis-single")
        self._configuration = folder / "configuration"
        shutil.copytree(component, self._configuration)
        self._edit("redis.conf", "/run/secrets/redis", str(self._secrets))
        if not sentinel:
            self._edit("redis.conf", "dir /data", f"dir {folder / 'redis-0' / 'data'}")
        if not addresses and sentinel:
            # What start-redis.sh did before: a peer that did not answer was no reason to wait.
            self._edit(
                "start-redis.sh",
                'elif [ "$is_patient" = 1 ]; then',
                'elif [ -z "$peer_role" ]; then break; elif false; then',
            )
            self._edit("start-redis.sh", "|| give_way_to_a_promoted_peer &", "|| true &")
            self._edit("start-sentinel.sh", "${DOWN_AFTER_MS:-5000}", "3000")
            self._edit("redis.conf", "repl-diskless-sync-delay 0", "repl-diskless-sync-delay 5")
        self._services = {name: f"127.200.0.{number}" for number, name in enumerate(self.servers(), 1)}
        if addresses:
            for name, service in self._services.items():
                names.publish(self.name(name), service)
        self._settings = Settings(data_dir=folder, postgres_port=READY["database"])
        embedded.make_data_dir(self._settings)

    def _edit(self, file: str, old: str, new: str) -> None:
        path = self._configuration / file
        text = path.read_text("utf-8")
        assert old in text, (file, old)
        path.write_text(text.replace(old, new), "utf-8")

    def servers(self) -> list[str]:
        """Return the names of all pods."""
        return [
            "database",
            *(REDISES if self._sentinel else REDISES[:1]),
            *(SENTINELS if self._sentinel else ()),
        ]

    def name(self, server: str) -> str:
        """Return the name by which others find a server."""
        kind = server.partition("-")[0]
        if self._addresses:
            return server
        if self._sentinel and kind != "database":
            return f"{server}.{kind}"
        return {"database": "timescaledb", "redis": "redis"}[kind]

    @property
    def redis_url(self) -> str:
        """Where Redis is, for the processes of the exchange."""
        if not self._sentinel:
            return f"redis://operator:app@{self.name('redis-0')}:6379/0"
        nodes = ",".join(f"{self.name(each)}:26379" for each in SENTINELS)
        return f"redis+sentinel://operator:app@{nodes}/exchange?sentinel_password=sentinel"

    @property
    def database_url(self) -> str:
        """Where the database is."""
        password = self._settings.password_file.read_text("ascii").strip()
        return f"postgresql://exchange:{password}@{self.name('database')}:5432/exchange"

    def start(self, server: str) -> None:
        """Start a pod, at an address that no pod had before."""
        number = next(self._numbers)
        address = f"127.100.{number // 250}.{number % 250 + 1}"
        kind = server.partition("-")[0]
        command, environment = self._command(server, kind, address)
        with (self._folder / f"{server}.log").open("ab") as output:
            process = subprocess.Popen(
                command.arguments,
                env=environment,
                stdout=output,
                stderr=output,
                user=command.user,
                group=command.group,
            )
        self._pods[server] = Pod(process, address)
        if self._addresses:
            self._names.lead(self._services[server], READY[kind], address)
        elif self._sentinel and kind != "database":
            self._names.publish(self.name(server), address)
        else:
            # A headless Service without publishNotReadyAddresses has the pod when its readiness probe has
            # passed.
            eventually(f"{server} is ready", lambda: self._is_ready(server))
            self._names.publish(self.name(server), address)

    def end(self, server: str) -> None:
        """End a pod: the database as it is told to stop, the others by SIGKILL."""
        pod = self._pods.pop(server)
        # The worst moment: somebody has just asked for it.
        self._names.remember(self.name(server))
        if self._addresses:
            self._names.lead(self._services[server], READY[server.partition("-")[0]], "")
        else:
            self._names.publish(self.name(server), "")
        pod.process.send_signal(signal.SIGINT if server == "database" else signal.SIGKILL)
        pod.process.wait()

    def stop(self) -> None:
        """End everything."""
        for each in self._pods.values():
            each.process.kill()
            each.process.wait()

    def role(self, server: str) -> str:
        """Return the role of a Redis; empty when it does not answer."""
        if server not in self._pods:
            return ""
        with redis.Redis(
            self._pods[server].address, username="probe", password="any", socket_timeout=1
        ) as client:
            try:
                return str(client.execute_command("ROLE")[0].decode())
            except redis.RedisError:
                return ""

    def master(self) -> str:
        """Return the Redis that is the master and has its replica; empty when there is none."""
        roles = [self.role(each) for each in REDISES]
        return REDISES[roles.index("master")] if sorted(roles) == ["master", "slave"] else ""

    def _is_ready(self, server: str) -> bool:
        address = self._pods[server].address
        if server == "database":
            url = self.database_url.replace(self.name("database"), address)
            with contextlib.suppress(psycopg.Error), psycopg.connect(url, connect_timeout=1):
                return True
            return False
        with redis.Redis(address, username="probe", password="any", socket_timeout=1) as client:
            with contextlib.suppress(redis.RedisError):
                return bool(client.ping())
            return False

    def _command(self, server: str, kind: str, address: str) -> tuple[embedded.ServerCommand, dict[str, str]]:
        environment = {"PATH": f"{self._programs}:{os.environ['PATH']}"}
        if kind == "database":
            command = embedded.postgres_command(self._settings)
            arguments = (*command.arguments, "-c", f"listen_addresses={address}")
            return dataclasses.replace(command, arguments=arguments), environment
        data, run = self._folder / server / "data", self._folder / server / "run"
        data.mkdir(parents=True, exist_ok=True)
        run.mkdir(exist_ok=True)
        bind = ["--bind", address]
        if not self._sentinel:
            configuration = str(self._configuration / "redis.conf")
            return embedded.ServerCommand(("valkey-server", configuration, *bind)), environment
        environment |= {
            "SELF": self.name(server),
            "NODES": " ".join(map(self.name, REDISES)),
            "SENTINELS": " ".join(map(self.name, SENTINELS)),
            "SECRETS": str(self._secrets),
            "CONFIGURATION": str(self._configuration),
            "DATA": str(data),
            "RUN": str(run),
        }
        script = str(self._configuration / f"start-{kind}.sh")
        return embedded.ServerCommand(("sh", script, *bind)), environment


class Exchange:
    """The processes of an exchange, and a client that trades."""

    MODULES: Final = (
        ("engine_worker.main",),
        ("persist.main", "nudge"),
        ("persist.main", "work"),
        ("feeds.main",),
        ("gateway.main",),
    )

    def __init__(self, folder: Path, cluster: Cluster, *, replicas_min: int) -> None:
        self._folder = folder
        values = {
            "redis_url": cluster.redis_url,
            "database_url": cluster.database_url,
            "data_dir": str(folder),
            "redis_replicas_min": str(replicas_min),
            "request_weight_per_minute": "10000000",
            "orders_per_10s": "1000000",
            "log_format": "json",
        }
        self._environment = os.environ | {PREFIX + name.upper(): value for name, value in values.items()}
        self._processes: list[subprocess.Popen[bytes]] = []
        self.url = Settings().rest_url()

    def start(self) -> Api:
        """Start every process; return an account that has traded."""
        self._run("persist.main", "migrate").wait(DEADLINE_S)
        for module in self.MODULES:
            self._processes.append(self._run(*module))
        eventually("the exchange answers", self._answers)
        account = new_account(self.url, USDT="1000000", BTC="10")
        for side in ("BUY", "SELL"):
            account.order("BTCUSDT", side, "LIMIT", price="60000.00", quantity="0.001")
        return account

    def _run(self, *module: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{'-'.join(module)}.log").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", *module], env=self._environment, stdout=output, stderr=output
            )

    def _answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            paths = ("/api/v3/exchangeInfo", "/api/v3/klines?symbol=BTCUSDT&interval=1m")
            return (
                all(httpx.get(self.url + path).status_code == 200 for path in paths) and self._has_a_leader()
            )
        return False

    def _has_a_leader(self) -> bool:
        with contextlib.suppress(AssertionError, Exception):
            new_account(self.url, USDT="1")
            return True
        return False

    def stop(self) -> None:
        """End every process."""
        for each in self._processes:
            each.kill()
            each.wait()

    def watch(self, ask: Callable[[], httpx.Response], disturb: Callable[[], float]) -> Away:
        """Ask every EVERY_S, whatever becomes of those before, while something is ended.

        `disturb` returns when that was.
        """
        answers: list[tuple[float, float, int]] = []
        stopping = threading.Event()

        def one() -> None:
            sent_s = time.monotonic()
            try:
                status = ask().status_code
            except httpx.HTTPError as error:
                status = 0
                sys.stderr.write(f"{error!r}\n")
            answers.append((sent_s, time.monotonic(), status))

        def all_of_them() -> None:
            while not stopping.wait(EVERY_S):
                threading.Thread(target=one, daemon=True).start()

        asking = threading.Thread(target=all_of_them)
        asking.start()
        try:

            def is_well_before() -> bool:
                newest = [status for _, when, status in list(answers) if when > time.monotonic() - WELL_S]
                return len(newest) > WELL_ANSWERS and set(newest) == {200}

            eventually("all is well", is_well_before)
            ended_s = disturb()

            def is_well() -> bool:
                late = [each for each in list(answers) if each[1] > time.monotonic() - QUIET_S]
                return time.monotonic() > ended_s + RETURN_S + QUIET_S and {each[2] for each in late} == {200}

            eventually("all is well again", is_well)
        finally:
            stopping.set()
            asking.join()
        refused = [when for _, when, status in answers if status != 200 and when > ended_s]
        first = min(when for sent, when, status in answers if status == 200 and sent > ended_s)
        return Away(max(refused) - min(refused) if refused else 0.0, first - ended_s)


@contextlib.contextmanager
def own_names() -> Iterator[None]:
    """Let this process and its children ask the resolver of names.py: mount a file over /etc/resolv.conf."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write(f"nameserver {RESOLVER}\noptions timeout:1 attempts:2\n")
        file.flush()
        Path(file.name).chmod(0o644)
        subprocess.run(["mount", "--bind", file.name, os.path.realpath("/etc/resolv.conf")], check=True)
        yield


def restart(cluster: Cluster, server: str, return_s: float = RETURN_S) -> float:
    """End a pod and start the next one; return when the first one had ended."""
    cluster.end(server)
    ended_s = time.monotonic()
    threading.Timer(return_s, cluster.start, [server]).start()
    return ended_s


def measured(
    folder: Path, *, addresses: bool, sentinel: bool, runs: int, ttl_s: float
) -> Iterator[dict[str, object]]:
    """Yield what was measured."""
    with Names(RESOLVER, ttl_s) as names:
        cluster = Cluster(folder, names, addresses=addresses, sentinel=sentinel)
        exchange = Exchange(folder, cluster, replicas_min=int(sentinel))
        try:
            started = [threading.Thread(target=cluster.start, args=[each]) for each in cluster.servers()]
            for each in started:
                each.start()
            for each in started:
                each.join()
            account = exchange.start()

            def klines() -> httpx.Response:
                return httpx.get(f"{exchange.url}/api/v3/klines?symbol=BTCUSDT&interval=1m", timeout=30)

            numbers = itertools.count()

            def order() -> httpx.Response:
                api = Api(exchange.url, account.key, account.secret)
                with contextlib.closing(api.http):
                    query = "symbol=BTCUSDT&side=BUY&type=LIMIT&timeInForce=IOC&price=100.00&quantity=0.1"
                    query += f"&newClientOrderId=o{next(numbers)}&recvWindow=60000"
                    query += f"&timestamp={int(time.time() * 1000)}"
                    return api.send("POST", "/api/v3/order", query)

            for _ in range(runs):
                if sentinel:
                    eventually("a master with its replica", cluster.master)
                    master = cluster.master()
                    away = exchange.watch(order, lambda name=master: restart(cluster, name))  # type: ignore[misc]
                    yield {"what": "sentinel", **away._asdict(), "promoted": cluster.master() != master}
                else:
                    away = exchange.watch(klines, lambda: restart(cluster, "database"))
                    yield {"what": "database", **away._asdict()}
                    away = exchange.watch(order, lambda: restart(cluster, "redis-0"))
                    yield {"what": "redis", **away._asdict()}
        finally:
            exchange.stop()
            cluster.stop()


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser()
    parser.add_argument("arrangement", choices=["addresses", "headless"])
    parser.add_argument("redis", choices=["single", "sentinel"])
    parser.add_argument("runs", type=int)
    parser.add_argument("ttl_s", type=float)
    parser.add_argument("--folder", type=Path, default=None, help="where data and logs go; it is kept")
    arguments = parser.parse_args()
    with own_names(), contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="exchange-names-"))
        )
        folder.chmod(0o755)
        for each in measured(
            folder,
            addresses=arguments.arrangement == "addresses",
            sentinel=arguments.redis == "sentinel",
            runs=arguments.runs,
            ttl_s=arguments.ttl_s,
        ):
            print(json.dumps(each), flush=True)  # noqa: T201 - it is what the program is for


if __name__ == "__main__":
    main()
